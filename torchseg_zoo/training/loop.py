"""The training loop: build, resume, step, log, evaluate, save."""

from __future__ import annotations

import copy
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import ArgumentError, ResumeError, TrainError, ZooError
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.files import make_folder
from torchseg_zoo.models.checkpoint import save_model
from torchseg_zoo.training.build import build_model, class_weights, open_sets
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.file_check import check_files
from torchseg_zoo.training.fingerprint import fingerprint
from torchseg_zoo.training.log import LOG_FIELDS, RunLog
from torchseg_zoo.training.objective import Objective
from torchseg_zoo.training.optim import make_optimizer, scheduled_rate
from torchseg_zoo.training.samples import (
    Batch,
    BatchLoader,
    EpochBatches,
    TrainingSamples,
    too_few,
)
from torchseg_zoo.training.scoring import scoring
from torchseg_zoo.training.signals import StopSignals
from torchseg_zoo.training.state import Parts, Progress, StateFiles
from torchseg_zoo.training.step import TrainStep, labelled_mass, update_average
from torchseg_zoo.training.team import Team

__all__ = ["LOG_FIELDS", "TrainResult", "train"]

_MAX_SKIPPED = 10  # steps in a row; more is no accident of some samples


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Args:
        best: checkpoint of the best epoch on the validation split; ``load_model`` reads it.
        last: state to resume from.
        log: CSV with one line per epoch.
        miou_percent: validation mIoU of ``best``; selected on that split.
        epoch: epochs done when it was reached.
    """

    best: Path
    last: Path
    log: Path
    miou_percent: float
    epoch: int


def train(
    config: TrainConfig,
    *,
    train_set: Dataset | None = None,
    val_set: Dataset | None = None,
    resume: bool = False,
    ranks: Ranks | None = None,
    check: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Trains a model and keeps the checkpoint that scores best on the validation split.

    A run that ended before its time, however it ended, goes on with ``resume`` from the last state
    that it saved. On a CPU its weights are then the same, bit for bit, as if it had never ended.

    Args:
        config: all settings.
        train_set: labelled samples; opened from ``config.data`` without it.
        val_set: labelled samples; opened from ``config.val_data`` or ``config.data`` without it.
        resume: go on from the newest whole state in ``config.out`` if there is one.
        ranks: of a launcher, all of which must call this, with a folder that all of them see.
        check: look at some of the files first, and stop at what training would meet later.
        progress: show bars, and a line per epoch, on stderr.

    Raises:
        ArgumentError: if settings cannot work together.
        DataError: if data cannot be read or do not fit, or a file cannot be written.
        TrainError: if a loss is not finite, memory runs out, or a process that takes part dies.
        ResumeError: if the run to resume was started with other settings or on other data.
        StoppedError: if SIGTERM or SIGUSR1 came; everything up to the step under way is saved.
    """
    team = Team(ranks, config.device)
    progress = progress and team.is_first
    out = make_folder(Path(config.out))
    best, log = out / "best.safetensors", out / "log.csv"
    sets = open_sets(config, train_set, val_set)
    data = {name: fingerprint(dataset) for name, dataset in sets.named().items()}
    files = StateFiles(out, config, data)
    resuming = bool(files.found())
    if resuming and not resume:
        raise ArgumentError(
            "there is a run in this folder already",
            where=out,
            fix="resume it with resume=True (--resume), or choose another folder with out= (--out)",
        )
    if check and not resuming:
        team.first_does(lambda: check_files(config, sets))
    batches = _batches(config, sets.train, sets.mix, team, resuming=resuming)

    torch.manual_seed(config.seed)
    labels = sets.train.labels
    model = build_model(config, labels, resuming=resuming).to(team.device)
    model = model.to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).requires_grad_(False) if config.ema else None
    if config.sync_bn:
        team.sync_batch_norm(model)
    optimizer = make_optimizer(model, config, processes=team.size)
    weight = class_weights(config, sets.train)
    weight = None if weight is None else weight.to(team.device)
    loss_of = Objective(
        config, weight=weight, ignore_index=labels.ignore_index,
        align_corners=model.config.align_corners,
    )  # fmt: skip

    # What labels weigh in the loss, so that the parts of a step add up to its whole.
    def mass_of(targets: Tensor) -> Tensor:
        return labelled_mass(targets, weight, labels.ignore_index)

    take_step = TrainStep(model, optimizer, loss_of, mass_of, config, team)
    parts = Parts(model, averaged, optimizer, take_step.scaler)
    state = files.load(parts) if resuming else Progress()
    team.same((state.epoch, state.step), "state")
    run_log = RunLog(out, config, sets.val, shows=progress)
    team.first_does(lambda: run_log.start(state.epoch))
    loader = BatchLoader(TrainingSamples(sets.train, sets.mix, config), batches, config.workers)

    def save() -> None:
        team.first_does(lambda: files.save(state, parts))

    with team.guarded(), StopSignals(files.last) as signals:
        while not _is_over(state, config):
            started = time.perf_counter()
            batches.epoch, batches.first = state.epoch, state.step - state.epoch * len(batches)
            model.train()
            bar = tqdm(
                _agreed(loader, team, signals, state, save),
                initial=batches.first, total=len(batches), leave=False,
                desc=f"epoch {state.epoch + 1}/{config.epochs}", disable=not progress,
            )  # fmt: skip
            for images, targets, names in bar:
                _set_rates(optimizer, config, state.step, len(batches))
                team.seed_step(config.seed, state.step)
                loss = take_step(images, targets)
                if math.isfinite(loss):
                    state.losses, state.counted, state.skipped = (
                        state.losses + loss, state.counted + 1, 0,
                    )  # fmt: skip
                    if averaged is not None:
                        update_average(averaged, model, config.ema, state.step)
                else:
                    _skip_or_stop(loss, names, state, config, team)
                state.step += 1
                bar.set_postfix(loss=f"{loss:.3f}")
                if config.save_every_steps and state.step % config.save_every_steps == 0:
                    save()

            row: dict[str, Any] = {
                "epoch": state.epoch + 1,
                "loss": f"{state.losses / max(1, state.counted):.5f}",
                "lr": f"{_set_rates(optimizer, config, state.step - 1, len(batches)):.3e}",
            }
            done = state.epoch + 1
            if done % config.eval_every == 0 or done == config.epochs:
                save()  # an evaluation may take long, and be interrupted
                candidate = averaged if averaged is not None else model
                team.share_buffers(candidate)
                with scoring(config, candidate) as how:
                    scores = evaluate(
                        candidate, sets.val, **how, workers=ranks, progress=progress,
                        watch=lambda score, scores: signals.end_now(state.step),
                    )  # fmt: skip
                row["miou_percent"] = f"{scores.miou_percent:.3f}"
                row["pixel_accuracy_percent"] = f"{scores.pixel_accuracy_percent:.3f}"
                if scores.miou_percent > state.best_miou:
                    state.best_miou, state.best_epoch = scores.miou_percent, done
                    team.first_does(functools.partial(save_model, candidate, best))
                team.first_does(functools.partial(run_log.show_samples, candidate, done))
            row["seconds"] = f"{time.perf_counter() - started:.1f}"
            state.epoch, state.losses, state.counted = done, 0.0, 0
            state.rows.append(row)
            save()
            team.first_does(lambda: run_log.write(state.rows))
    team.first_does(lambda: run_log.finish(state.rows))
    return TrainResult(best, files.last, log, state.best_miou, state.best_epoch)


def _is_over(state: Progress, config: TrainConfig) -> bool:
    waited = state.epoch - state.best_epoch if state.best_epoch else 0
    return state.epoch >= config.epochs or 0 < config.patience <= waited


def _set_rates(
    optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps_per_epoch: int
) -> float:
    """Sets every group's learning rate for a step, and returns that of the first."""
    for group in optimizer.param_groups:
        group["lr"] = scheduled_rate(
            config, group["base_lr"], step, epochs=config.epochs, steps_per_epoch=steps_per_epoch
        )
    rate: float = optimizer.param_groups[0]["lr"]
    return rate


def _batches(
    config: TrainConfig, train_set: Dataset, mix: Dataset | None, team: Team, *, resuming: bool
) -> EpochBatches:
    """Which samples are this process's in each step."""
    try:
        batches = EpochBatches(
            len(train_set), len(mix) if mix else 0, config, rank=team.rank, world=team.size
        )
    except ArgumentError as error:
        if not resuming:
            raise
        raise ResumeError(error.what, where=config.out, why=error.why, fix=error.fix) from error
    if len(batches) == 0:
        raise too_few(len(train_set), config)
    return batches


def _agreed(
    loader: BatchLoader,
    team: Team,
    signals: StopSignals,
    state: Progress,
    save: Callable[[], None],
) -> Iterator[Batch]:
    """The rest of an epoch's batches. If one process is to stop or has none, all of them end.

    What was done is saved before.
    """
    batches = iter(loader)
    while True:
        error, batch = None, None
        try:
            batch = next(batches, None)
        except ZooError as caught:
            error = caught
        signals.hush_workers()
        asked = signals.received is not None
        stops, errors = team.sum(torch.tensor([float(asked), float(error is not None)])).tolist()
        if stops:
            save()
            raise signals.error(state.step)
        if errors:
            with suppress(ZooError):  # what went wrong first is what to mend
                save()
            team.agree(error)
        if batch is None:
            return
        yield batch


def _skip_or_stop(
    loss: float, names: list[str], state: Progress, config: TrainConfig, team: Team
) -> None:
    """Says which samples a step without a finite loss had; raises unless it is to be skipped."""
    everybody = [name for part in team.gather(names) for name in part]
    state.skipped += 1
    what = f"the loss or its gradient is {loss} at step {state.step} (epoch {state.epoch + 1})"
    where = ", ".join(everybody[:4]) + (" and others" if len(everybody) > 4 else "")
    if config.non_finite == "stop" or state.skipped >= _MAX_SKIPPED:
        raise TrainError(
            what,
            where=where,
            fix="lower lr, or look at these samples; the last saved state is kept",
        )
    if team.is_first:
        warnings.warn(f"{what}; the step is skipped. It had {where}", stacklevel=3)
