"""Settings of runs that can be named. Variants are made with ``dataclasses.replace``.

The published ones are in ``recipes_torchseg`` and ``recipes_papers``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchseg_zoo.data.datasets import DATASET_NAMES
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.recipes_papers import PAPERS
from torchseg_zoo.training.recipes_torchseg import TORCHSEG

__all__ = ["RECIPES", "check_data_given", "describe_recipe", "recipe"]


def bisenet_x39_camvid() -> TrainConfig:
    """First of the two runs behind the embedded checkpoint: from scratch, a fifth drawn.

    59.68 % mIoU on CamVid's validation pictures, whole.
    """
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


def bisenet_x39_camvid_finish() -> TrainConfig:
    """Second of the two runs behind the embedded checkpoint: nearly whole pictures.

    Starts from the best of the first (``checkpoint=``). 61.16 % mIoU on CamVid's
    validation pictures, whole.
    """
    return replace(
        bisenet_x39_camvid(),
        out="runs/bisenet_x39.camvid.finish",
        checkpoint="runs/bisenet_x39.camvid/best.safetensors",
        epochs=10,
        batch_size=8,
        crop=(352, 480),
        early_crop=None,
        lr=4e-4,
        warmup_steps=20,
        ema=0.99,
        eval_every=2,
        seed=1,
    )


RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "bisenet_x39.camvid": bisenet_x39_camvid,
    "bisenet_x39.camvid.finish": bisenet_x39_camvid_finish,
    **TORCHSEG,
    **PAPERS,
}
# What a model file says of its model, whatever a recipe has.
_SAID_BY_A_FILE: dict[str, Any] = {
    "backbone": None,
    "output_stride": None,
    "multi_grid": (),
    "lateral": False,
    "pretrained_backbone": False,
    "backbone_weights": None,
}
_TRAINED_HERE = ("bisenet_x39.camvid", "bisenet_x39.camvid.finish")


def recipe(name: str | None = None, /, **changes: Any) -> TrainConfig:
    """The named run's settings, or the defaults, with changes.

    Where a recipe is for a released data set, ``data`` and ``val_data`` need only say where it is:
    a path without a ``NAME:`` gets the recipe's. With a ``checkpoint`` the model is built as that
    file says, and not as the recipe does.

    Args:
        name: one of ``RECIPES``; ``None`` for the defaults.
        changes: fields of ``TrainConfig``.

    Raises:
        ArgumentError: if there is no such recipe or setting, or a value cannot work.
    """
    if name is None:
        return TrainConfig.from_dict(changes)
    settings = dataclasses.asdict(_find(name)())
    if changes.get("checkpoint") is not None:
        settings |= _SAID_BY_A_FILE
    for field in ("data", "val_data"):
        if isinstance(changes.get(field), str):
            changes[field] = _of_dataset(settings["data"], changes[field])
    return TrainConfig.from_dict(settings | changes)


def describe_recipe(name: str) -> str:
    """What is known of a recipe: its score, and whether it was run here.

    Raises:
        ArgumentError: if there is no such recipe.
    """
    text = inspect.getdoc(_find(name)) or ""
    status = (
        "trained here" if name in _TRAINED_HERE else "configured as published; not trained here"
    )
    return f"{name}: {status}\n{text}"


def check_data_given(config: TrainConfig) -> None:
    """Checks that a released data set is named with the place where it lies.

    Raises:
        ArgumentError: if it is not.
    """
    if config.data in DATASET_NAMES and not Path(config.data).exists():
        raise ArgumentError(
            f"the recipe is for {config.data}, and needs to know where that is",
            where="data",
            fix="give its folder: data= (--data DIR)",
        )


def _of_dataset(dataset: str, place: str) -> str:
    """``place`` as that data set's, unless it names one itself."""
    named = place.partition(":")[0] in DATASET_NAMES or place == "drawn"
    return place if named or dataset not in DATASET_NAMES else f"{dataset}:{place}"


def _find(name: str) -> Callable[[], TrainConfig]:
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        raise ArgumentError(
            f"no recipe {name!r}",
            where="recipe",
            fix=f"did you mean {near[0]}?" if near else f"choose from {', '.join(RECIPES)}",
        )
    return RECIPES[name]
