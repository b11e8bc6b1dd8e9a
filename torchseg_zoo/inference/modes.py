"""Inference modes: which views of a picture a model sees, and how their scores are merged.

A mode is data: it compares equal, is hashable, and goes to JSON and back, so that a score can be
stored with the mode it was measured in. ``inference.scoring`` carries it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.models.base import InputRule
from torchseg_zoo.types import Size

__all__ = [
    "Merge",
    "Mode",
    "MultiScaleFlip",
    "Sliding",
    "Whole",
    "check_mode",
    "default_mode",
    "mode_from_dict",
]

Merge = Literal["torchseg", "logit-mean", "probability-mean"]
"""In which space scores are merged, and by which rule.

``"probability-mean"``: softmax per window; overlaps are divided by their count; mean over views.

``"logit-mean"``: the same with logits. As the ``inner`` merge of a ``"probability-mean"`` it is
mmsegmentation's rule: windows are merged as logits, views as probabilities.

``"torchseg"``: TorchSeg's. Log-probabilities are summed over a window and its mirror image, then
exponentiated; windows and scales are summed and divided by nothing, so that overlaps weigh more.
"""

_NAMES = {"whole": "Whole", "sliding": "Sliding", "multi-scale-flip": "MultiScaleFlip"}


@dataclass(frozen=True)
class Whole:
    """The whole picture at once, padded where the model's ``input_rule`` asks for it.

    Args:
        pad_to: (height, width) that smaller pictures are padded to, with zeros after
            normalisation; ``None`` for no more than the model needs.
        merge: see ``Merge``; with a single view it only decides what the scores are.

    Raises:
        ArgumentError: if a value cannot work.
    """

    pad_to: Size | None = None
    merge: Merge = "probability-mean"

    def __post_init__(self) -> None:
        if self.pad_to is not None:
            object.__setattr__(self, "pad_to", _size(self.pad_to, "pad_to"))
        _check_merge(self.merge)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``mode_from_dict`` reads it back."""
        pad_to = None if self.pad_to is None else list(self.pad_to)
        return {"mode": "whole", "pad_to": pad_to, "merge": self.merge}


@dataclass(frozen=True)
class Sliding:
    """Overlapping windows of one size.

    Windows start at multiples of ``stride``; the last one of each axis is moved back to end at the
    border. What is smaller than the window is taken whole, padded as far as the model's
    ``input_rule`` asks (and by TorchSeg's two rules under ``merge="torchseg"``).

    Args:
        window: (height, width) in pixels.
        stride: (height, width) in pixels between window origins; at most ``window``.
        merge: see ``Merge``.

    Raises:
        ArgumentError: if a value cannot work.
    """

    window: Size
    stride: Size
    merge: Merge = "probability-mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", _size(self.window, "window"))
        object.__setattr__(self, "stride", _size(self.stride, "stride"))
        if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
            raise ArgumentError(
                f"stride {_by(self.stride)} is larger than the window {_by(self.window)}",
                where="stride",
                why="pixels between windows would get no label",
                fix="give at most the window",
            )
        _check_merge(self.merge)

    @classmethod
    def at_rate(
        cls, window: Size, rate: float = 2 / 3, *, merge: Merge = "probability-mean"
    ) -> Sliding:
        """Windows whose stride is ``ceil(side * rate)``, the way TorchSeg states it.

        Args:
            window: (height, width) in pixels.
            rate: in (0, 1].
            merge: see ``Merge``.
        """
        if not 0 < rate <= 1:
            raise ArgumentError(f"{rate} is no stride rate", where="rate", fix="give one in (0, 1]")
        height, width = _size(window, "window")
        return cls((height, width), (math.ceil(height * rate), math.ceil(width * rate)), merge)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``mode_from_dict`` reads it back."""
        return {
            "mode": "sliding",
            "window": list(self.window),
            "stride": list(self.stride),
            "merge": self.merge,
        }


@dataclass(frozen=True)
class MultiScaleFlip:
    """The picture at several scales, each also mirrored if asked, and the scores merged.

    Args:
        scales: factors on the picture's sides, each above 0.
        flip: also show each view mirrored left and right. Under ``"torchseg"`` every window is
            mirrored by itself, otherwise the whole picture is.
        inner: how each view is taken; by default ``Whole`` with the same merge.
        merge: how views are merged; ``inner`` must have the same merge, or ``"logit-mean"`` under
            ``"probability-mean"``.

    Raises:
        ArgumentError: if a value cannot work.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    inner: Whole | Sliding | None = None
    merge: Merge = "probability-mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", _scales(self.scales))
        if not isinstance(self.flip, bool):
            raise ArgumentError(f"{self.flip!r} is not True or False", where="flip")
        _check_merge(self.merge)
        if self.inner is None:
            object.__setattr__(self, "inner", Whole(merge=self.merge))
        elif not isinstance(self.inner, Whole | Sliding):
            raise ArgumentError(
                f"{self.inner!r} cannot be the inner mode",
                where="inner",
                fix="give Whole(...) or Sliding(...)",
            )
        merges = (self.merge, self.view.merge)
        if merges[0] != merges[1] and merges != ("probability-mean", "logit-mean"):
            raise ArgumentError(
                f"views are merged by {merges[0]!r} but their windows by {merges[1]!r}",
                where="merge",
                fix="give both the same merge",
            )

    @property
    def view(self) -> Whole | Sliding:
        """``inner``, which is never ``None`` once the mode exists."""
        assert self.inner is not None
        return self.inner

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``mode_from_dict`` reads it back."""
        return {
            "mode": "multi-scale-flip",
            "scales": list(self.scales),
            "flip": self.flip,
            "inner": self.view.to_dict(),
            "merge": self.merge,
        }


Mode = Whole | Sliding | MultiScaleFlip


def mode_from_dict(record: Mapping[str, Any]) -> Mode:
    """Reads the form that the modes' ``to_dict`` write.

    Raises:
        ArgumentError: if there is no such mode or field, or a value cannot work.
    """
    fields = dict(record)
    name = fields.pop("mode", None)
    known: dict[str, tuple[str, ...]] = {
        "whole": ("pad_to", "merge"),
        "sliding": ("window", "stride", "merge"),
        "multi-scale-flip": ("scales", "flip", "inner", "merge"),
    }
    if not isinstance(name, str) or name not in known:
        raise ArgumentError(f"no mode {name!r}", where="mode", fix=f"known are {', '.join(known)}")
    if unknown := sorted(set(fields) - set(known[name])):
        raise ArgumentError(f"{_NAMES[name]} has no field {', '.join(unknown)}", where="mode")
    if name == "whole":
        return Whole(**fields)
    if name == "sliding":
        if missing := sorted({"window", "stride"} - set(fields)):
            raise ArgumentError(f"Sliding lacks {' and '.join(missing)}", where="mode")
        return Sliding(**fields)
    if isinstance(fields.get("inner"), Mapping):
        fields["inner"] = mode_from_dict(fields["inner"])
    return MultiScaleFlip(**fields)


def default_mode(rule: InputRule) -> Mode:
    """``Whole``, or for a model of one fixed input size windows of that size, a third overlapping.

    Args:
        rule: the model's ``input_rule``.
    """
    return Whole() if rule.fixed is None else Sliding.at_rate(rule.fixed)


def check_mode(mode: object, rule: InputRule) -> None:
    """Refuses a mode that a model cannot work in.

    Args:
        mode: a ``Whole``, ``Sliding`` or ``MultiScaleFlip``.
        rule: the model's ``input_rule``.

    Raises:
        ArgumentError: if it is no mode, or its window is not a size that the model takes.
    """
    if not isinstance(mode, Mode):
        raise ArgumentError(
            f"{mode!r} is no inference mode",
            where="mode",
            fix="give Whole(), Sliding(window, stride) or MultiScaleFlip(scales, flip, inner)",
        )
    view = mode.view if isinstance(mode, MultiScaleFlip) else mode
    name, size = ("window", view.window) if isinstance(view, Sliding) else ("pad_to", view.pad_to)
    if size is None or rule.nearest(*size) == size:
        return
    needs = (
        f"sides divisible by {rule.multiple}" if rule.fixed is None else f"{_by(rule.fixed)} only"
    )
    raise ArgumentError(
        f"{name} is {_by(size)} but the model takes {needs}",
        where=name,
        fix=f"give {_by(rule.nearest(*size))}",
    )


def _size(value: object, where: str) -> Size:
    sides = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    good = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
    if len(sides) != 2 or len(good) != 2 or min(good) < 1:
        raise ArgumentError(
            f"{value!r} is no size", where=where, fix="give (height, width), whole numbers above 0"
        )
    return cast(Size, sides)


def _scales(value: object) -> tuple[float, ...]:
    scales = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    usable = all(
        isinstance(scale, int | float) and math.isfinite(scale) and scale > 0 for scale in scales
    )
    if not scales or not usable:
        raise ArgumentError(
            f"{value!r} are no scales", where="scales", fix="give one or more numbers above 0"
        )
    return tuple(map(float, scales))


def _check_merge(merge: object) -> None:
    if merge not in get_args(Merge):
        raise ArgumentError(
            f"no merge rule {merge!r}", where="merge", fix=f"known are {', '.join(get_args(Merge))}"
        )


def _by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
