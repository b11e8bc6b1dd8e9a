"""Several processes that train one model: what one process would do, and all end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import (
    CONTEXT,
    Lists,
    assert_same_runs,
    largest_difference,
    log_of,
    settings,
    start,
    start_ranks,
    wait_for_step,
    write_lists,
)

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.errors import ArgumentError, ResumeError, StoppedError, TrainError
from torchseg_zoo.evaluation.counts import Tally
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.training.launch import launch
from torchseg_zoo.training.loop import TrainResult
from torchseg_zoo.training.objective import Objective
from torchseg_zoo.training.step import unused_parameters
from torchseg_zoo.training.sync_norm import SyncedBatchNorm, convert_batch_norm

# Rounding grows fast in a network at its start: of two memory formats in float32, gradients of
# single layers differ by percents. So runs are compared in float64, under plain steps.
EXACT: dict[str, Any] = {"optimizer": "sgd", "lr": 0.01, "class_weights": (1.0, 2.0, 0.5, 3.0)}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Lists:
    return write_lists(tmp_path_factory.mktemp("data"))


def in_float64(rank: int) -> None:
    torch.set_default_dtype(torch.float64)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, lists: Lists) -> TrainResult:
    config = settings(tmp_path_factory.mktemp("alone"), lists, **EXACT)
    result = start(config, before=in_float64).outcome()
    assert isinstance(result, TrainResult), result
    return result


def test_two_processes_follow_the_curve_of_one(
    tmp_path: Path, lists: Lists, alone: TrainResult
) -> None:
    """Pictures differ in how many of their pixels count, so a mean of means would be seen."""
    first, second = (
        run.outcome() for run in start_ranks(settings(tmp_path, lists, **EXACT), before=in_float64)
    )
    assert first == second, (first, second)
    for ours, theirs in zip(log_of(first), log_of(alone), strict=True):
        assert (ours["loss"], ours["lr"]) == (theirs["loss"], theirs["lr"])  # to five digits
        # A pixel may change sides where two classes are as likely.
        assert float(ours["miou_percent"]) == pytest.approx(float(theirs["miou_percent"]), abs=0.02)
    assert largest_difference(first.last, alone.last) < 1e-3
    model = tsz.load_model(first.best)
    val = open_dataset(str(lists[1]), "val", model.labels)
    again = evaluate(model, val, progress=False)  # here, in one process
    assert again.miou_percent == first.miou_percent


def test_parts_of_a_step_add_up_as_processes_do(tmp_path: Path, lists: Lists) -> None:
    """Two processes with batch norms of their own are one process that takes two parts."""
    changes = {**EXACT, "sync_bn": False, "epochs": 1}
    ranks = start_ranks(settings(tmp_path / "ranks", lists, **changes), before=in_float64)
    parts = start(settings(tmp_path / "parts", lists, **changes, accumulate=2), before=in_float64)
    losses = [
        [row["loss"] for row in log_of(run.outcome())]
        for run in (ranks[0], parts)
    ]  # fmt: skip
    ranks[1].outcome()
    assert losses[0] == losses[1]


# Ending together


def _exploding(rank: int) -> None:
    """One process's samples spoil the loss, as far as the other can see out of nothing."""
    if rank == 1:
        compute = Objective.__call__
        calls = []

        def spoil(self: Any, output: Any, labels: Any) -> Any:
            calls.append(1)
            return compute(self, output, labels) * (float("nan") if len(calls) == 5 else 1)

        Objective.__call__ = spoil  # type: ignore[method-assign]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_that_is_not_finite_on_one_process_is_left_out_by_all(
    tmp_path: Path, lists: Lists, policy: Any
) -> None:
    config = settings(tmp_path, lists, non_finite=policy, epochs=2)
    first, second = (run.outcome() for run in start_ranks(config, before=_spoiling(policy)))
    if policy == "stop":
        assert isinstance(first, TrainError) and str(first) == str(second)
        assert "is nan at step 3 (epoch 2)" in str(first) and str(first).count("train") == 4
    else:
        assert first == second and isinstance(first, TrainResult)
        losses = [float(row["loss"]) for row in log_of(first)]
        assert all(loss == loss for loss in losses)


def _spoiling(policy: str) -> Any:
    return _exploding_quietly if policy == "skip" else _exploding


def _exploding_quietly(rank: int) -> None:
    import warnings

    warnings.filterwarnings("ignore", message=".*the step is skipped")
    _exploding(rank)


def test_a_signal_to_one_process_ends_all_after_the_same_step_and_nothing_is_lost(
    tmp_path: Path, lists: Lists
) -> None:
    whole = start_ranks(settings(tmp_path / "whole", lists, epochs=2))
    config = settings(tmp_path / "parts", lists, epochs=2, save_every_steps=1)
    ranks = start_ranks(config)
    wait_for_step(ranks[0], tmp_path / "parts" / "last.safetensors", 1)
    os.kill(ranks[1].process.pid, signal.SIGUSR1)
    errors = [run.outcome() for run in ranks]
    assert all(isinstance(error, StoppedError) for error in errors), errors
    assert len({str(error).partition("after step")[2] for error in errors}) == 1
    assert "SIGUSR1" in str(errors[1])
    resumed = [run.outcome() for run in start_ranks(config, resume=True)]
    assert_same_runs(resumed[0], whole[0].outcome())
    whole[1].outcome()


def _signalled_while_it_evaluates(rank: int) -> None:
    if rank == 1:
        add, calls = Tally.add, []

        def and_a_signal(self: Tally, outcome: Any) -> Any:
            calls.append(1)
            if len(calls) == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return add(self, outcome)

        Tally.add = and_a_signal  # type: ignore[method-assign]


def test_a_signal_to_one_process_that_evaluates_ends_all(tmp_path: Path, lists: Lists) -> None:
    config = settings(tmp_path, lists, epochs=2)
    errors = [run.outcome() for run in start_ranks(config, before=_signalled_while_it_evaluates)]
    assert all(isinstance(error, StoppedError) for error in errors), errors
    assert all("stopped by SIGUSR1 after step 2" in str(error) for error in errors), errors


def test_a_killed_process_ends_the_others(tmp_path: Path, lists: Lists) -> None:
    config = settings(tmp_path, lists, save_every_steps=1, epochs=50)
    ranks = start_ranks(config)
    wait_for_step(ranks[0], tmp_path / "last.safetensors", 1)
    ranks[1].process.kill()
    error = ranks[0].outcome()
    assert isinstance(error, TrainError) and "another process is gone" in str(error), error
    assert ranks[1].outcome() == -signal.SIGKILL


def test_a_batch_that_cannot_be_divided_is_refused(
    tmp_path: Path, lists: Lists, alone: TrainResult
) -> None:
    config = settings(tmp_path, lists, batch_size=3)
    for run in start_ranks(config):
        error = run.outcome()
        assert isinstance(error, ArgumentError) and "among 2 processes" in str(error)


def test_a_run_goes_on_with_another_number_of_processes_if_they_divide_the_batch(
    tmp_path: Path, lists: Lists
) -> None:
    config = settings(tmp_path, lists, epochs=1)
    assert isinstance(start(config).outcome(), TrainResult)
    results = [run.outcome() for run in start_ranks(config, resume=True)]
    assert all(isinstance(result, TrainResult) for result in results)
    for run in start_ranks(config, size=3, resume=True):
        error = run.outcome()
        assert isinstance(error, ResumeError) and "among 3 processes" in str(error)


# Parts


def _norms(rank: int, port: int, pipe: Any) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 2, dtype=torch.float64) * 3 + 1
    slope = torch.randn_like(x)
    plain = nn.BatchNorm2d(3, dtype=torch.float64)
    nn.init.uniform_(plain.weight)
    whole = x.clone().requires_grad_()
    expected = plain(whole)
    expected.backward(slope)
    mine = slice(0, 2) if rank == 0 else slice(2, 5)  # shares of unequal size
    other = nn.BatchNorm2d(3, dtype=torch.float64)
    other.weight = nn.Parameter(plain.weight.detach().clone())
    synced = convert_batch_norm(nn.Sequential(other), torch.device("cpu"))
    part = x[mine].clone().requires_grad_()
    got = synced(part)
    got.backward(slope[mine])
    norm = synced[0]
    weight = norm.weight.grad.clone()
    torch.distributed.all_reduce(weight)
    assert part.grad is not None and whole.grad is not None and plain.weight.grad is not None
    pairs = [
        (got, expected[mine]),
        (part.grad, whole.grad[mine]),
        (weight, plain.weight.grad),
        (norm.running_mean, plain.running_mean),
        (norm.running_var, plain.running_var),
        (norm.eval()(part), plain.eval()(whole)[mine]),
    ]
    pipe.send([float((ours - theirs).abs().max().detach()) for ours, theirs in pairs])


def test_synced_batch_norm_is_batch_norm_of_the_whole_batch() -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(2)]
    ranks = [
        CONTEXT.Process(target=_norms, args=(rank, port, pipe))
        for rank, (_, pipe) in enumerate(pipes)
    ]
    for process in ranks:
        process.start()
    for ours, _ in pipes:
        assert max(ours.recv()) < 1e-12
    for process in ranks:
        process.join()


def test_converted_models_keep_their_parameters_and_names() -> None:
    model = tsz.bisenet_x39(num_classes=3)
    names, first = list(model.state_dict()), next(model.parameters())
    convert_batch_norm(model, torch.device("cpu"))
    assert list(model.state_dict()) == names and next(model.parameters()) is first
    kinds = {type(module) for module in model.modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {SyncedBatchNorm}


def test_parameters_that_no_loss_reaches_are_found_without_a_step() -> None:
    model = tsz.bisenet_x39(num_classes=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def main_head_only(output: Any, labels: Any) -> torch.Tensor:
        loss: torch.Tensor = output.logits.sum()
        return loss

    found = {id(value) for value in unused_parameters(model, main_head_only, (32, 32))}
    names = {name for name, value in model.named_parameters() if id(value) in found}
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model(torch.zeros(2, 3, 32, 32), with_aux=True).logits.sum().backward()
    idle = {name for name, value in model.named_parameters() if value.grad is None}
    assert names == idle != set()


# Starting them


def test_launched_processes_train_together(tmp_path: Path, lists: Lists) -> None:
    result = launch(settings(tmp_path, lists, epochs=1), ["cpu", "cpu"], progress=False)
    assert [row["epoch"] for row in log_of(result)] == ["1"]


@pytest.mark.soak
def test_an_error_in_launched_processes_is_raised_here_as_it_is(
    tmp_path: Path, lists: Lists
) -> None:
    with pytest.raises(ArgumentError, match="among 2 processes"):
        launch(settings(tmp_path, lists, batch_size=3), ["cpu", "cpu"], progress=False)


@pytest.mark.soak
def test_torchrun_starts_the_command_and_a_signal_to_it_saves_the_run(
    tmp_path: Path, lists: Lists
) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        "-m", "torchseg_zoo", "train", "--model", "bisenet_x39", "--data", str(lists[0]),
        "--val-data", str(lists[1]), "--out", str(tmp_path), "--epochs", "60", "--batch-size", "4",
        "--device", "cpu", "--set", "crop=32,48", "--set", "num_classes=4",
        "--set", "save_every_steps=1", "--resume", "auto",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "last.safetensors").exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode != 0
    assert "StoppedError" in said and "(--resume)" in said, said
