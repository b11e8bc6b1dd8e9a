"""Where windows lie: pure arithmetic on sides."""

from __future__ import annotations

import torch
from torch import Tensor

from torchseg_zoo.errors import InputShapeError
from torchseg_zoo.inference.modes import Sliding, Whole
from torchseg_zoo.models.base import InputRule
from torchseg_zoo.types import Size

__all__ = ["visits", "window_size", "window_starts"]


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Origins along one axis: multiples of ``stride``, the last moved back to end at the border.

    Args:
        side: pixels to cover, at least ``window``.
        window: pixels of a window.
        stride: pixels between origins, at most ``window``.
    """
    count = -(-(side - window) // stride) + 1
    return [min(index * stride, side - window) for index in range(count)]


def visits(side: int, window: int, starts: list[int]) -> Tensor:
    """(side,) float32: how many windows see each position."""
    steps = torch.zeros(side + 1)
    for start in starts:
        steps[start] += 1
        steps[start + window] -= 1
    return steps.cumsum(0)[:side]


def window_size(size: Size, view: Whole | Sliding, rule: InputRule) -> Size:
    """(height, width) of the windows for a picture; larger than it where it must be padded.

    Args:
        size: (height, width) of the picture.
        view: how it is taken.
        rule: which input sizes the model takes.

    Raises:
        InputShapeError: if the whole picture is asked for but the model's one size is smaller.
    """
    needed = rule.nearest(*size)
    if isinstance(view, Sliding):
        if view.merge == "torchseg":
            return view.window
        return min(view.window[0], needed[0]), min(view.window[1], needed[1])
    if needed[0] < size[0] or needed[1] < size[1]:
        raise InputShapeError(
            f"the picture is {size[0]}×{size[1]} but the model works at "
            f"{needed[0]}×{needed[1]} only",
            fix=f"slide: Sliding({needed}, stride)",
        )
    if view.pad_to is None:
        return needed
    return max(needed[0], view.pad_to[0]), max(needed[1], view.pad_to[1])
