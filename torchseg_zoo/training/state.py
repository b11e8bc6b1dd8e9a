"""A run's state on disk: one safetensors file, so that nothing is ever unpickled on resume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchseg_zoo.errors import CheckpointFormatError, ResumeError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.weights.load import check_fits, read_meta, read_tensors
from torchseg_zoo.weights.save import write_tensors

__all__ = ["Progress", "load_state", "save_state"]

# Settings that may differ between a run and its continuation: none changes what is computed.
_HARMLESS = {"out", "workers", "cache", "device", "eval_every", "patience", "tensorboard"}


@dataclass
class Progress:
    """How far a run is.

    Args:
        epoch: epochs done.
        best_miou: best validation mIoU so far, in percent; -1 before the first.
        best_epoch: epochs done when it was reached.
    """

    epoch: int = 0
    best_miou: float = -1.0
    best_epoch: int = 0


def save_state(
    path: Path,
    config: TrainConfig,
    progress: Progress,
    model: nn.Module,
    averaged: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes all that a run needs to go on, whole or not at all."""
    tensors: dict[str, Tensor] = {"rng": torch.get_rng_state()}
    tensors |= {f"model.{name}": value for name, value in model.state_dict().items()}
    if averaged is not None:
        tensors |= {f"average.{name}": value for name, value in averaged.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    write_tensors(path, tensors, {"config": config.to_dict(), "progress": vars(progress)})


def load_state(
    path: Path,
    config: TrainConfig,
    model: nn.Module,
    averaged: nn.Module | None,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Puts a saved state into model, average and optimizer.

    Raises:
        ResumeError: if the file cannot be used, or was written under other settings.
    """
    try:
        meta = read_meta(path)
        tensors = read_tensors(path, mapped=False)
        progress = Progress(**meta["progress"])
        _check_settings(meta["config"], config, path)
        _copy(_part(tensors, "model."), model, path)
        if averaged is not None:
            _copy(_part(tensors, "average."), averaged, path)
        _restore_optimizer(optimizer, _part(tensors, "optimizer."))
        torch.set_rng_state(tensors["rng"])
        return progress
    except (CheckpointFormatError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ResumeError):
            raise
        raise ResumeError(
            "this run cannot be continued",
            where=path,
            why=f"{type(error).__name__}: {error}",
            fix="start again in another folder with out=",
        ) from error


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


def _check_settings(saved: dict[str, Any], config: TrainConfig, path: Path) -> None:
    now = config.to_dict()
    changed = [
        f"{name} was {saved.get(name)!r}, is {now.get(name)!r}"
        for name in sorted(set(saved) | set(now))
        if name not in _HARMLESS and saved.get(name) != now.get(name)
    ]
    if changed:
        raise ResumeError(
            "this run was started with other settings",
            where=path,
            why="; ".join(changed),
            fix="use the same settings, or another folder with out=",
        )


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
