"""Which tensors a model takes, and what it says of those that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torchseg_zoo.errors import InputShapeError, ZooError
from torchseg_zoo.models.config import InputRule
from torchseg_zoo.types import Size

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["check_input", "size_refusal"]

_LARGEST_TRIED = 2048  # no backbone asks for more pixels per side before it gives one position


def check_input(model: SegmentationModel, x: Tensor) -> None:
    """Checks what can be told before anything is computed.

    Args:
        model: its configuration, ``input_rule`` and mode decide.
        x: what should be an (N, C, H, W) float tensor.

    Raises:
        InputShapeError: if it is not, or the model cannot take its size or a batch of one.
    """
    name, channels = model.config.model, model.config.in_channels
    if x.ndim != 4 or x.shape[1] != channels:
        raise InputShapeError(
            f"input is {_shape(x)} but {name} needs N×{channels}×H×W",
            fix="add the batch axis, or use predict(), which takes pictures",
        )
    if not x.is_floating_point():
        raise InputShapeError(
            f"input is {x.dtype} but {name} needs normalised floats",
            fix="use model.preprocess.tensor(image), or predict(), which takes pictures",
        )
    rule = model.input_rule
    height, width = x.shape[-2:]
    if rule.fixed is not None and (height, width) != rule.fixed:
        raise InputShapeError(
            f"image is {height}×{width} but {name} works at {_by(rule.fixed)} only",
            fix="cut windows of that size, or use predict(), which pads smaller pictures",
        )
    if rule.multiple > 1 and (height % rule.multiple or width % rule.multiple):
        raise InputShapeError(
            f"image is {height}×{width} but {name} needs sides divisible by {rule.multiple}",
            fix=f"pad to {_by(rule.nearest(height, width))} or use predict(), which pads for you",
        )
    if model.pooled_norm and model.training and x.shape[0] == 1:
        raise InputShapeError(
            f"a batch of one cannot train {name}",
            why="batch norm after its global pooling sees a single value per channel",
            fix="use a batch of at least 2, or drop_last=True in the loader",
        )


def size_refusal(model: SegmentationModel, x: Tensor, error: Exception) -> InputShapeError | None:
    """The error to raise instead of ``error`` if the picture's size is what caused it.

    A backbone that cuts pictures into patches has no position for one smaller than a patch, and
    batch norm cannot train on a single position. How small is too small depends on the backbone, so
    the network is run again on the meta device: at this size, and at growing ones until it works.

    Args:
        model: that failed.
        x: (N, C, H, W) that it failed on.
        error: what was raised.

    Returns:
        The refusal with the nearest size that works, or ``None`` if the size is not the cause.
    """
    if isinstance(error, ZooError):
        return None
    with torch.device("meta"):
        shadow = type(model)(model.config).train(model.training)
    size = (x.shape[-2], x.shape[-1])
    if _runs(shadow, x, size):
        return None
    if multiple := _rounding(shadow, x):
        return InputShapeError(
            f"image is {_by(size)} but {model.config.model} on {model.config.backbone} needs sides "
            f"divisible by {multiple}",
            fix=f"pad to {_by(InputRule(multiple).nearest(*size))}",
        )
    largest = low = 1
    while largest <= _LARGEST_TRIED and not _runs(shadow, x, _at_least(model, size, largest)):
        low, largest = largest + 1, 2 * largest
    if largest > _LARGEST_TRIED:
        return InputShapeError(
            f"image is {_by(size)} but {model.config.backbone} cannot take that size",
            where=model.config.model,
            why=str(error) or type(error).__name__,
            fix="choose a backbone that takes any size, e.g. resnet50 or convnext_tiny",
        )
    while low < largest:
        middle = (low + largest) // 2
        if _runs(shadow, x, _at_least(model, size, middle)):
            largest = middle
        else:
            low = middle + 1
    good = _by(_at_least(model, size, largest))
    training = model.training and x.shape[0] == 1
    return InputShapeError(
        f"image is {_by(size)} but {model.config.model} on {model.config.backbone} needs "
        f"{'more than one feature position to train on' if training else 'a feature position'}",
        why=f"sides must measure at least {largest}",
        fix=f"pad to {good}" + (" or use a larger batch" if training else ""),
    )


def _rounding(shadow: SegmentationModel, x: Tensor) -> int:
    """The multiple that sides must be of, if the sizes next above and below work; 0 if not."""
    height, width = x.shape[-2:]
    for multiple in (2, 4, 8, 16, 32, 64):
        below = (height // multiple * multiple, width // multiple * multiple)
        above = InputRule(multiple).nearest(height, width)
        if _runs(shadow, x, below) and _runs(shadow, x, above):
            return multiple
    return 0


def _runs(shadow: SegmentationModel, x: Tensor, size: Size) -> bool:
    pictures = torch.empty(*x.shape[:2], *size, device="meta", dtype=torch.get_default_dtype())
    try:
        with torch.no_grad():
            shadow.head_logits(pictures, with_aux=False)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def _at_least(model: SegmentationModel, size: Size, side: int) -> Size:
    return model.input_rule.nearest(max(size[0], side), max(size[1], side))


def _shape(x: Tensor) -> str:
    return _by(tuple(x.shape)) or "a single number"


def _by(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))
