"""Settings of runs that can be named. Variants are made with ``dataclasses.replace``."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training.config import TrainConfig

__all__ = ["RECIPES", "recipe"]


def bisenet_x39_camvid() -> TrainConfig:
    """The run behind the embedded checkpoint: from scratch, a fifth of the samples drawn."""
    return TrainConfig(
        model="bisenet_x39",
        data="camvid",
        out="runs/bisenet_x39.camvid",
        epochs=200,
        batch_size=12,
        crop=(256, 256),
        early_crop=(192, 192),
        scales=(0.75, 1.5),
        continuous_scale=True,
        brightness=0.2,
        mix="drawn",
        mix_share=0.2,
        label_stride=4,
        optimizer="adamw",
        lr=2e-3,
        warmup_steps=100,
        weight_decay=1e-2,
        class_weights="balanced",
        ema=0.998,
        workers=1,
        cache=True,
        eval_every=5,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {"bisenet_x39.camvid": bisenet_x39_camvid}


def recipe(name: str | None = None, /, **changes: Any) -> TrainConfig:
    """The named run's settings, or the defaults, with changes.

    Args:
        name: one of ``RECIPES``; ``None`` for the defaults.
        changes: fields of ``TrainConfig``.

    Raises:
        ArgumentError: if there is no such recipe or setting, or a value cannot work.
    """
    if name is None:
        return TrainConfig.from_dict(changes)
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        raise ArgumentError(
            f"no recipe {name!r}",
            where="recipe",
            fix=f"did you mean {near[0]}?" if near else f"choose from {', '.join(RECIPES)}",
        )
    return TrainConfig.from_dict(dataclasses.asdict(RECIPES[name]()) | changes)
