"""What each setting of a training run must be: a wrong one is named before anything runs."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from torchseg_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from torchseg_zoo.training.config import TrainConfig

__all__ = ["check_settings"]

Check = tuple[Callable[[Any], bool], str]


def check_settings(config: TrainConfig) -> None:
    """Checks the types of all settings, their ranges, and what must go together.

    Raises:
        ArgumentError: naming the first setting that cannot work.
    """
    hints = _type_hints()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        hint = hints[field.name]
        if type(None) in get_args(hint) and value is None:
            continue
        good, wanted = _CHECKS.get(field.name) or _by_type(hint)
        if not good(value):
            raise ArgumentError(
                f"{field.name} is {value!r}", where="TrainConfig", fix=f"must be {wanted}"
            )
    _check_pairs(config)


def _check_pairs(config: TrainConfig) -> None:
    if (config.mix is None) != (config.mix_share == 0):
        raise ArgumentError(
            "mix and mix_share go together",
            where="TrainConfig",
            fix="set both, as mix='drawn' and mix_share=0.2, or neither",
        )
    others = ("backbone", "output_stride", "multi_grid", "lateral", "backbone_weights")
    given = [name for name in (*others, "pretrained_backbone") if getattr(config, name)]
    if config.checkpoint is not None and given:
        raise ArgumentError(
            f"checkpoint and {given[0]} exclude each other",
            where="TrainConfig",
            fix="the file says how its model is built: leave the other out",
        )
    if config.checkpoint is not None and "." in config.model:
        raise ArgumentError(
            f"checkpoint and the tag of {config.model} exclude each other",
            where="TrainConfig",
            fix=f"set model to {config.model.partition('.')[0]}",
        )
    if config.pretrained_backbone and config.backbone_weights is not None:
        raise ArgumentError(
            "pretrained_backbone and backbone_weights exclude each other",
            where="TrainConfig",
            fix="set pretrained_backbone=False to start from the file",
        )
    if config.border_weight and config.label_stride != 1:
        raise ArgumentError(
            f"border_weight needs labels at full size, not at 1/{config.label_stride}",
            where="TrainConfig",
            fix="set label_stride=1",
        )


def _whole(least: int, most: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: _is_int(value) and least <= value <= most


def _number(least: float, most: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and least <= value <= most


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tuple_of(one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(map(one, value))


def _below_one(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_whole(1), value))


_COUNT: Check = (_whole(1), "a whole number of at least 1")
_COUNT_OR_0: Check = (_whole(0), "a whole number of at least 0")
_POSITIVE: Check = (lambda value: _is_number(value) and value > 0, "a positive number")
_AT_LEAST_0: Check = (_number(0), "a number of at least 0")
_SHARE: Check = (_below_one, "in [0, 1)")
_SIZE: Check = (_is_size, "two whole numbers (height, width) of at least 1")

_CHECKS: dict[str, Check] = {
    "num_classes": (_whole(1, 255), "a whole number from 1 to 255"),
    "output_stride": (lambda value: value in (8, 16, 32), "8, 16 or 32"),
    "multi_grid": (_tuple_of(_whole(1)), "whole numbers with commas, as 1,2,4"),
    **dict.fromkeys(
        ("epochs", "steps_per_epoch", "batch_size", "eval_every", "label_stride", "accumulate"),
        _COUNT,
    ),
    **dict.fromkeys(
        ("workers", "warmup_steps", "lr_lag", "seed", "patience", "save_every_steps"),
        _COUNT_OR_0,
    ),
    **dict.fromkeys(("crop", "early_crop", "eval_window", "eval_size", "eval_label_size"), _SIZE),
    "scales": (
        lambda value: _tuple_of(_number(0))(value) and len(value) > 0 and min(value) > 0,
        "one or more positive factors, as 0.75,1.5",
    ),
    "head_modules": (
        _tuple_of(lambda name: isinstance(name, str)),
        "names with commas, as head,ffm or head,",
    ),
    **dict.fromkeys(("lr", "head_lr_multiplier"), _POSITIVE),
    **dict.fromkeys(
        ("clip_norm", "weight_decay", "poly_power", "min_lr", "ohem_min_kept", "aux_weight",
         "presence_weight", "border_weight"),
        _AT_LEAST_0,
    ),
    **dict.fromkeys(("mix_share", "brightness", "ema", "momentum", "label_smoothing"), _SHARE),
    "ohem_threshold": (_number(0, 1), "in [0, 1]"),
    "eval_stride_rate": (
        lambda value: _is_number(value) and 0 < value <= 1, "above 0 and at most 1"
    ),
    "class_weights": (
        lambda value: value in ("none", "balanced") or _tuple_of(_number(0))(value),
        "'none', 'balanced' or one number per class",
    ),
}  # fmt: skip


def _by_type(hint: Any) -> Check:
    """The check of a setting that may be anything of its type."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return lambda value: value in choices, " or ".join(map(repr, choices))
    words = {str: "a text", bool: "True or False"}.get(hint, f"of type {hint}")
    return lambda value: isinstance(value, hint), words


@functools.cache
def _type_hints() -> dict[str, Any]:
    from torchseg_zoo.training.config import TrainConfig  # it imports this module

    return get_type_hints(TrainConfig)
