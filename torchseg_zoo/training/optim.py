"""Parameter groups, optimizers, learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig

__all__ = [
    "config_groups",
    "learning_rate",
    "make_optimizer",
    "parameter_groups",
    "scheduled_rate",
]


def parameter_groups(
    model: SegmentationModel,
    *,
    lr: float,
    weight_decay: float,
    head_lr_multiplier: float = 1.0,
    head_modules: tuple[str, ...] | None = None,
) -> list[dict[str, Any]]:
    """Two groups per top-level module, as TorchSeg makes them: weights with decay, and the rest.

    Args:
        model: the model; parameters that need no gradient are left out.
        lr: rate of the backbone, and of modules not in ``head_modules``.
        weight_decay: for convolution and linear weights; biases and norms get 0.
        head_lr_multiplier: factor on ``lr`` for ``head_modules``.
        head_modules: names of top-level modules; ``None`` for all but the backbone.

    Returns:
        dicts with ``name``, ``params``, ``lr``, ``base_lr``, ``weight_decay``, for ``torch.optim``.
    """
    names = [name for name, _ in model.named_children()]
    heads = tuple(name for name in names if name != "backbone")
    if head_modules is not None:
        if unknown := sorted(set(head_modules) - set(names)):
            raise ArgumentError(
                f"no module {', '.join(unknown)}",
                where="head_modules",
                fix=f"{type(model).__name__} has {', '.join(names)}",
            )
        heads = head_modules
    groups = []
    for name, module in model.named_children():
        rate = lr * head_lr_multiplier if name in heads else lr
        decayed, plain = _split(module)
        for params, decay in ((decayed, weight_decay), (plain, 0.0)):
            if params:
                groups.append(
                    {
                        "name": name,
                        "params": params,
                        "lr": rate,
                        "base_lr": rate,
                        "weight_decay": decay,
                    }
                )
    return groups


def _split(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_weight = name == "weight" and parameter.ndim > 1
            (decayed if is_weight else plain).append(parameter)
    return decayed, plain


def make_optimizer(
    model: SegmentationModel, config: TrainConfig, *, processes: int = 1
) -> torch.optim.Optimizer:
    """The optimizer that ``config`` asks for, over ``config_groups``.

    Args:
        model: the model.
        config: optimizer, rates, decay.
        processes: how many train together.
    """
    groups = config_groups(model, config, processes=processes)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)


def config_groups(
    model: SegmentationModel, config: TrainConfig, *, processes: int = 1
) -> list[dict[str, Any]]:
    """``parameter_groups`` by the settings of a run; arguments as in ``make_optimizer``."""
    return parameter_groups(
        model,
        lr=config.lr * (processes if config.lr_per_process else 1),
        weight_decay=config.weight_decay,
        head_lr_multiplier=config.head_lr_multiplier,
        head_modules=config.head_modules,
    )


def scheduled_rate(
    config: TrainConfig, base_lr: float, step: int, *, epochs: int, steps_per_epoch: int
) -> float:
    """A group's learning rate at a step, by the settings of a run.

    Args:
        config: power, warm-up, lag and floor of the schedule.
        base_lr: the group's ``base_lr``.
        step: from 0 on.
        epochs: of the whole run.
        steps_per_epoch: steps that make one.
    """
    at = max(0, step - config.lr_lag)
    if config.poly_per_epoch:
        at -= at % steps_per_epoch
    rate = learning_rate(base_lr, at, epochs * steps_per_epoch, power=config.poly_power)
    return max(rate, config.min_lr) * _warm_up(step, config.warmup_steps)


def learning_rate(
    base_lr: float, step: int, steps: int, *, power: float = 0.9, warmup_steps: int = 0
) -> float:
    """Poly schedule: ``base_lr · (1 − step / steps) ** power``; ``step`` counts from 0.

    The first ``warmup_steps`` steps are scaled up linearly, from ``1 / warmup_steps``.
    """
    rate: float = base_lr * (1 - step / steps) ** power
    return rate * _warm_up(step, warmup_steps)


def _warm_up(step: int, steps: int) -> float:
    return (step + 1) / steps if step < steps else 1.0
