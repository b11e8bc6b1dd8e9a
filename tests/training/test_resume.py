"""A run that ends before its time loses nothing: stopped, killed, damaged, out of disk."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import (
    Lists,
    assert_same_runs,
    log_of,
    newest_step,
    settings,
    start,
    wait_for_step,
    write_lists,
)  # fmt: skip

from torchseg_zoo.data.datasets import DrawnStreets, open_dataset
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.sample import Sample
from torchseg_zoo.errors import DataError, ResumeError, StoppedError, TrainError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.loop import TrainResult, train
from torchseg_zoo.weights.load import read_meta, read_tensors

SGD: dict[str, Any] = {"optimizer": "sgd", "ema": 0.0, "clip_norm": 1.0, "accumulate": 2}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Lists:
    return write_lists(tmp_path_factory.mktemp("data"))


def run(config: TrainConfig, **options: Any) -> TrainResult:
    return train(config, **{"progress": False, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, lists: Lists) -> TrainResult:
    return run(settings(tmp_path_factory.mktemp("whole"), lists))


@pytest.fixture
def copy(tmp_path: Path, whole: TrainResult) -> Path:
    """A finished run's folder, to be spoilt."""
    return Path(shutil.copytree(whole.last.parent, tmp_path / "copy"))


class Signalling:
    """A data set that sends signals to the process that trains when certain samples are read."""

    def __init__(self, lists: Lists, signals: dict[int, signal.Signals]) -> None:
        self._inner = open_dataset(str(lists[0]), "train", generic_labels(4))
        self.labels = self._inner.labels
        self._process, self._signals, self._read = os.getpid(), signals, 0

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Sample:
        self._read += 1
        if self._read in self._signals:
            os.kill(self._process, self._signals[self._read])
        return self._inner[index]


# Stopped by a signal


@pytest.mark.parametrize("changes", [{}, SGD], ids=["adamw", "sgd"])
def test_a_run_stopped_at_any_step_goes_on_as_if_nothing_had_been(
    tmp_path: Path, lists: Lists, whole: TrainResult, changes: dict[str, Any]
) -> None:
    if changes:
        whole = run(settings(tmp_path / "whole", lists, **changes))
    config = dataclasses.replace(settings(tmp_path / "parts", lists, **changes), cache=False)
    # The first two samples are looked at before the run.
    dataset = Signalling(lists, {5: signal.SIGTERM, 9: signal.SIGUSR1})
    stops = []
    result = None
    while result is None:
        torch.manual_seed(99)
        try:
            result = run(config, train_set=dataset, resume=True)
        except StoppedError as stopped:
            stops.append(str(stopped))
            assert "(--resume)" in str(stopped) and stopped.exit_code == 143
    assert ["SIGTERM" in stops[0], "SIGUSR1" in stops[1]] == [True, True]
    assert_same_runs(result, whole)


def test_four_workers_change_nothing_in_a_run_and_its_continuation(
    tmp_path: Path, lists: Lists, whole: TrainResult
) -> None:
    config = settings(tmp_path, lists, workers=4, cache=False, save_every_steps=1)
    stopped = start(config, before=_expect_many_workers)
    wait_for_step(stopped, tmp_path / "last.safetensors", 2)
    os.kill(stopped.process.pid, signal.SIGTERM)
    error = stopped.outcome()
    assert isinstance(error, StoppedError), error
    result = start(config, resume=True, before=_expect_many_workers).outcome()
    assert_same_runs(result, whole)


def _expect_many_workers(rank: int) -> None:
    warnings.filterwarnings("ignore", message="This DataLoader will create 4 worker")


def test_a_signal_is_the_programs_own_again_after_a_run(whole: TrainResult) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


# Killed


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_a_run_killed_at_random_moments_ends_in_the_same_weights(
    tmp_path: Path, lists: Lists, kills: int
) -> None:
    changes = {"epochs": 2 * kills, "save_every_steps": 1, "eval_every": 3}  # two steps each
    whole = start(settings(tmp_path / "whole", lists, **changes))
    config = settings(tmp_path / "killed", lists, **changes)
    choose = random.Random(kills)
    last = tmp_path / "killed" / "last.safetensors"
    alive, reached = 0, 0
    for _ in range(kills):
        victim = start(config, resume=True)
        wait_for_step(victim, last, reached + 1)
        victim.process.join(choose.uniform(0, 0.2))
        victim.process.kill()
        alive += victim.outcome() == -signal.SIGKILL
        reached = newest_step(last.parent)
    print(f"{alive} of {kills} were killed in the middle of the run, the last after step {reached}")
    assert alive > kills // 2
    result = start(config, resume=True).outcome()
    assert_same_runs(result, whole.outcome())
    assert not [path for path in last.parent.iterdir() if "next" in path.name]


# Damaged states


def test_two_states_are_kept_and_hold_different_steps(whole: TrainResult) -> None:
    newest = read_meta(whole.last)["progress"]
    before = read_meta(whole.last.with_name("previous.safetensors"))["progress"]
    assert (newest["step"], newest["epoch"]) == (6, 3)
    assert (before["step"], before["epoch"]) == (6, 2)  # before the last evaluation


@pytest.mark.parametrize("place", ["cut", "flip"])
def test_a_damaged_state_is_refused_and_the_one_before_it_used(
    copy: Path, lists: Lists, whole: TrainResult, place: str
) -> None:
    last = copy / "last.safetensors"
    good = last.read_bytes()
    at = random.Random(0)
    header = int.from_bytes(good[:8], "little")
    places = [0, 7, header // 2, header + 8, len(good) - 1, at.randrange(len(good))]
    config = settings(copy, lists)
    for number, byte in enumerate(places):
        bad = bytearray(good[:byte] if place == "cut" else good)
        if place == "flip":
            bad[byte] ^= 1 << at.randrange(8)
        last.write_bytes(bad)
        (copy / "previous.safetensors").rename(copy / "aside")
        with pytest.raises(ResumeError, match=r"last\.safetensors: this run cannot be continued"):
            run(config, resume=True)
        (copy / "aside").rename(copy / "previous.safetensors")
        if number == 2:
            with pytest.warns(UserWarning, match=r"last\.safetensors is damaged \(.*going on from"):
                result = run(config, resume=True)
            assert_same_runs(result, whole)
            (copy / "last.safetensors").replace(copy / "previous.safetensors")


def test_what_is_no_state_is_refused(copy: Path, lists: Lists) -> None:
    for name in ("last", "previous"):
        (copy / f"{name}.safetensors").write_bytes((copy / "best.safetensors").read_bytes())
    with pytest.raises(ResumeError, match="it is no state of a run"):
        run(settings(copy, lists), resume=True)


# Under other settings, on other data


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lr": 0.5}, r"lr was [\d.]+, is 0.5"),
        ({"seed": 4, "crop": (32, 32)}, r"crop was \[32, 48\], is \[32, 32\]; seed was 3, is 4"),
        ({"epochs": 5}, "epochs was 3, is 5"),
        ({"precision": "bf16"}, "precision was 'fp32', is 'bf16'"),
        ({"batch_size": 2}, "batch_size was 4, is 2"),
        ({"sync_bn": False}, "sync_bn was True, is False"),
        ({"model": "bisenet_r18"}, "model was 'bisenet_x39', is 'bisenet_r18'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_settings_cannot_go_on(
    whole: TrainResult, lists: Lists, changes: dict[str, Any], match: str
) -> None:
    before = whole.last.read_bytes()
    with pytest.raises(ResumeError, match=match) as caught:
        run(settings(whole.last.parent, lists, **changes), resume=True)
    assert caught.value.where == str(whole.last)
    assert whole.last.read_bytes() == before


def test_settings_that_change_nothing_may_differ_and_data_may_move(
    copy: Path, tmp_path: Path, lists: Lists, whole: TrainResult
) -> None:
    shutil.copytree(lists[0].parent, tmp_path / "moved")
    moved = (tmp_path / "moved" / "train.txt", tmp_path / "moved" / "val.txt")
    config = settings(copy, moved, workers=1, cache=False, eval_every=2)
    assert run(config, resume=True).miou_percent == whole.miou_percent


@pytest.mark.parametrize("change", ["one less", "another picture", "another name", "classes"])
def test_other_data_cannot_go_on(copy: Path, tmp_path: Path, lists: Lists, change: str) -> None:
    data = Path(shutil.copytree(lists[0].parent, tmp_path / "data"))
    path, extra = data / "train.txt", {}
    if change == "one less":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        match = "training samples was 8, is 7"
    elif change == "another picture":
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(data / "train3.png")
        match = "training file sizes was"
    elif change == "another name":
        shutil.move(data / "train3.png", data / "other.png")
        path.write_text(path.read_text().replace("train3.png", "other.png"))
        match = "training file names was"
    else:
        extra = {"num_classes": 5}
        match = "num_classes was 4, is 5"
    config = settings(copy, (path, data / "val.txt"), **extra)
    with pytest.raises(ResumeError, match=match):
        run(config, resume=True)


def test_a_set_that_is_no_files_is_told_by_its_samples(tmp_path: Path, lists: Lists) -> None:
    config = dataclasses.replace(settings(tmp_path, lists, epochs=1), num_classes=None)
    options = {"val_set": DrawnStreets(2, seed=1, size=(48, 64))}
    run(config, train_set=DrawnStreets(4, seed=1, size=(48, 64)), **options)
    with pytest.raises(ResumeError, match="training contents was"):
        run(config, train_set=DrawnStreets(4, seed=2, size=(48, 64)), resume=True, **options)


# What else ends a run


def _limit_files(rank: int) -> None:
    """As on a full disk: no file can grow beyond 20 KiB; Python reports it as an error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 10, 20 << 10))


def test_a_disk_that_fills_while_a_state_is_written_leaves_the_old_ones(
    tmp_path: Path, lists: Lists
) -> None:
    config = settings(tmp_path, lists, save_every_steps=1)
    stopped = start(config)
    wait_for_step(stopped, tmp_path / "last.safetensors", 2)
    os.kill(stopped.process.pid, signal.SIGTERM)
    assert isinstance(stopped.outcome(), StoppedError)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    assert {"last.safetensors", "previous.safetensors"} <= set(before)
    error = start(config, resume=True, before=_limit_files).outcome()
    assert isinstance(error, DataError), error
    assert "next.safetensors: cannot be written" in str(error) and "ulimit -f" in str(error)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == before
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_learning_rate_that_explodes_stops_the_run_before_it_is_saved(
    tmp_path: Path, lists: Lists, policy: Any
) -> None:
    config = settings(
        tmp_path, lists, lr=1e30, ema=0.0, save_every_steps=1, non_finite=policy, epochs=6
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one for each skipped step
        with pytest.raises(TrainError, match=r"not finite|is (nan|inf) at step") as caught:
            run(config)
    assert "lower lr" in str(caught.value)
    for path in tmp_path.glob("*.safetensors"):
        for tensor in read_tensors(path, mapped=False).values():
            assert not tensor.is_floating_point() or bool(tensor.isfinite().all())


class Dying(Signalling):
    """Kills the worker that reads the tenth sample."""

    def __getitem__(self, index: int) -> Sample:
        self._read += 1
        if self._read == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._inner[index]


def test_a_killed_worker_is_named_and_nothing_is_lost(
    tmp_path: Path, lists: Lists, whole: TrainResult
) -> None:
    config = settings(tmp_path, lists)
    config = dataclasses.replace(config, cache=False, workers=1)
    with pytest.raises(TrainError, match=r"worker 1 of 1 \(process \d+\): was killed by SIGKILL"):
        run(config, train_set=Dying(lists, {}))
    config = dataclasses.replace(config, workers=0)
    assert_same_runs(run(config, resume=True, train_set=Signalling(lists, {})), whole)


def _limit_shared_memory(rank: int) -> None:
    """Shared memory is files to the system: the limit ends a worker's batch as a full one would."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 10, resource.RLIM_INFINITY))


def test_shared_memory_that_is_too_small_is_named(tmp_path: Path, lists: Lists) -> None:
    config = settings(tmp_path, lists, workers=1)
    error = start(config, before=_limit_shared_memory).outcome()
    assert isinstance(error, TrainError) and error.where == "/dev/shm", error
    assert "no shared memory for a batch of 18 KiB" in str(error) and "--shm-size" in str(error)


def _limit_memory(rank: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20), resource.RLIM_INFINITY))


def test_memory_that_runs_out_says_what_to_change(tmp_path: Path, lists: Lists) -> None:
    config = settings(tmp_path, lists, crop=(1024, 1024), ema=0.0)
    error = start(config, before=_limit_memory).outcome()
    assert isinstance(error, TrainError), error
    assert "out of memory with 4 samples of 1024×1024 in 1 parts" in str(error)
    for word in ("accumulate", "crop", "batch_size", "precision"):
        assert word in str(error)


def test_the_log_is_whole_after_an_interruption(
    copy: Path, lists: Lists, whole: TrainResult
) -> None:
    (copy / "log.csv").unlink()
    shutil.move(copy / "previous.safetensors", copy / "last.safetensors")
    assert log_of(run(settings(copy, lists), resume=True)) == log_of(whole)
