"""A run's states on disk: safetensors files, so that nothing is ever unpickled on resume.

Two states are kept, ``last`` and ``previous``. A new one is written as ``next``, and only when it
is whole on the disk do the others move on; so whenever a run is killed, the newest whole state and
the one before it are there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchseg_zoo.errors import CheckpointFormatError, DataError, ResumeError, TrainError
from torchseg_zoo.files import printable
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.weights.load import check_fits, read_meta, read_tensors
from torchseg_zoo.weights.save import tensors_digest, write_tensors

__all__ = ["Parts", "Progress", "StateFiles"]

# Settings that may differ between a run and its continuation: they do not change which samples are
# seen or what is done with them. Paths may change as long as the data behind them are the same.
_HARMLESS = {
    "out", "workers", "cache", "device", "eval_every", "tensorboard", "patience", "accumulate",
    "compile", "non_finite", "save_every_steps", "data", "val_data", "root", "mix", "classes",
}  # fmt: skip


@dataclass
class Progress:
    """How far a run is.

    Args:
        epoch: epochs done, evaluation and log included.
        step: steps done.
        best_miou: best validation mIoU so far, in percent; -1 before the first.
        best_epoch: epochs done when it was reached.
        losses: sum of the losses of the epoch under way.
        counted: number of those losses.
        skipped: steps in a row, up to now, that were skipped because they were not finite.
        rows: the log, one row per epoch done.
    """

    epoch: int = 0
    step: int = 0
    best_miou: float = -1.0
    best_epoch: int = 0
    losses: float = 0.0
    counted: int = 0
    skipped: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """What a state is taken from and put into.

    Args:
        model: the network.
        averaged: its averaged copy, or ``None``.
        optimizer: over the parameters of ``model``.
        scaler: of the loss; disabled but for fp16.
    """

    model: nn.Module
    averaged: nn.Module | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


class StateFiles:
    """The states in a run's folder.

    Args:
        folder: of the run; must exist.
        config: the run's settings.
        data: what the data sets are; see ``fingerprint``.
    """

    def __init__(self, folder: Path, config: TrainConfig, data: Mapping[str, Any]) -> None:
        names = ("next", "last", "previous")
        self.next, self.last, self.previous = (folder / f"{name}.safetensors" for name in names)
        self._config = config
        self._data = data

    def found(self) -> list[Path]:
        """The states that are there, whole or not."""
        return [path for path in (self.next, self.last, self.previous) if path.exists()]

    def save(self, progress: Progress, parts: Parts) -> None:
        """Writes all that a run needs to go on; if that fails, the states before it stay.

        Raises:
            TrainError: if a weight is not finite.
            DataError: if the file cannot be written.
        """
        tensors = _tensors_of(parts)
        _require_finite(tensors, progress)
        record = {
            "config": self._config.to_dict(),
            "data": dict(self._data),
            "progress": vars(progress),
            "scaler": parts.scaler.state_dict(),
        }
        write_tensors(self.next, tensors, {**record, "sha256": _digest(record, tensors)})
        try:
            if self.last.exists():
                self.last.replace(self.previous)
            self.next.replace(self.last)
        except OSError as error:
            raise DataError(
                "cannot be renamed",
                where=printable(self.next),
                why=error.strerror,
                fix="keep the run in a folder that you may write to",
            ) from error

    def load(self, parts: Parts) -> Progress:
        """Puts the newest whole state into model, average, optimizer and scaler.

        Raises:
            ResumeError: if no state can be used, or the run was started with other settings or on
                other data.
        """
        path, record, tensors = self._newest()
        self._require_same_run(record, path)
        try:
            progress = Progress(**record["progress"])
            _copy(_part(tensors, "model."), parts.model, path)
            if parts.averaged is not None:
                _copy(_part(tensors, "average."), parts.averaged, path)
            _restore_optimizer(parts.optimizer, _part(tensors, "optimizer."))
            if record["scaler"]:
                parts.scaler.load_state_dict(record["scaler"])
            return progress
        except (CheckpointFormatError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise _unusable(path, f"{type(error).__name__}: {error}") from error

    def _newest(self) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
        steps, damage = {}, {}
        for path in self.found():
            try:
                steps[path] = int(read_meta(path)["progress"]["step"])
            except (CheckpointFormatError, DataError, LookupError, TypeError, ValueError) as error:
                damage[path] = _cause(error)
        for path in sorted(steps, key=steps.__getitem__, reverse=True):
            try:
                record, tensors = _verified(path)
            except (CheckpointFormatError, DataError) as error:
                damage[path] = _cause(error)
                continue
            for bad, why in damage.items():
                warnings.warn(
                    f"{printable(bad)} is damaged ({why}); going on from {path.name}, which was "
                    f"saved after step {steps[path]}",
                    stacklevel=4,
                )
            return path, record, tensors
        first = next(iter(damage), self.last)
        raise _unusable(first, "; ".join(f"{path.name}: {why}" for path, why in damage.items()))

    def _require_same_run(self, record: Mapping[str, Any], path: Path) -> None:
        # A state of an earlier version lacks settings that have come since.
        defaults = {entry.name: entry.default for entry in dataclasses.fields(TrainConfig)}
        saved, now = {**defaults, **record["config"]}, self._config.to_dict()
        if changed := _changes(saved, now, harmless=_HARMLESS):
            raise ResumeError(
                "this run was started with other settings",
                where=printable(path),
                why="; ".join(changed),
                fix="use the same settings, or another folder with out= (--out)",
            )
        if changed := _changes(_flat(record["data"]), _flat(self._data)):
            raise ResumeError(
                "this run was started on other data",
                where=printable(path),
                why="; ".join(changed),
                fix="give the same data, or another folder with out= (--out)",
            )


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], *, harmless: Collection[str] = ()
) -> list[str]:
    """What differs between two records, in words."""
    return [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted({*before, *now} - {*harmless})
        if before.get(name) != now.get(name)
    ]


def _tensors_of(parts: Parts) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value for name, value in parts.model.state_dict().items()}
    if parts.averaged is not None:
        average = parts.averaged.state_dict()
        tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, entry in parts.optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    return tensors


def _require_finite(tensors: Mapping[str, Tensor], progress: Progress) -> None:
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TrainError(
                f"{name} is not finite after step {progress.step}",
                where="weights",
                fix="lower lr; the states saved before are kept",
            )


def _digest(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    text = json.dumps(record, sort_keys=True) + tensors_digest(tensors)
    return hashlib.sha256(text.encode()).hexdigest()


def _verified(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Record and tensors of a state whose digest is right."""
    record = read_meta(path)
    tensors = read_tensors(path, mapped=False)
    if record.pop("sha256", None) != _digest(record, tensors):
        raise CheckpointFormatError("its digest is not the one it was written with", where=path)
    return record, tensors


def _cause(error: Exception) -> str:
    if isinstance(error, CheckpointFormatError | DataError):
        return f"{error.what}: {error.why}" if error.why else error.what
    return "it is no state of a run"


def _unusable(path: Path, why: str) -> ResumeError:
    return ResumeError(
        "this run cannot be continued",
        where=printable(path),
        why=why,
        fix="start again in another folder with out= (--out)",
    )


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{which} {name}": value for which, entry in record.items() for name, value in entry.items()
    }


def _copy(tensors: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Fills the model's own tensors: the optimizer holds them, and their memory format stays."""
    check_fits(model, tensors, where=str(path))
    model.load_state_dict(tensors, strict=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    record = optimizer.state_dict()
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # Fused optimizers walk through both memories side by side: the formats must agree.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": record["param_groups"]})
