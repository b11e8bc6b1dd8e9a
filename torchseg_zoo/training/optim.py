"""Parameter groups, optimizers, learning rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig

__all__ = ["learning_rate", "make_optimizer", "parameter_groups"]


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


def make_optimizer(model: SegmentationModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that ``config`` asks for, over ``parameter_groups``."""
    groups = parameter_groups(
        model,
        lr=config.lr,
        weight_decay=config.weight_decay,
        head_lr_multiplier=config.head_lr_multiplier,
        head_modules=config.head_modules,
    )
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)


def learning_rate(
    base_lr: float, step: int, steps: int, *, power: float = 0.9, warmup_steps: int = 0
) -> float:
    """Poly schedule: ``base_lr · (1 − step / steps) ** power``; ``step`` counts from 0.

    The first ``warmup_steps`` steps are scaled up linearly, from ``1 / warmup_steps``.
    """
    rate: float = base_lr * (1 - step / steps) ** power
    if step < warmup_steps:
        rate *= (step + 1) / warmup_steps
    return rate
