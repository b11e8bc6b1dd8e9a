"""Carries out inference modes: a picture in, class scores or labels out, all on the model's device.

Windows are cut from one normalised tensor and go through the network together, mirrored ones
included. Logits leave it at the head's own stride; they are resized, turned into probabilities and
added up in bands of rows that fit a CPU's cache, each only where its window lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.errors import ArgumentError, described
from torchseg_zoo.inference.modes import Merge, Mode, MultiScaleFlip, check_mode, default_mode
from torchseg_zoo.inference.resize import bands, resize_photo
from torchseg_zoo.inference.scored import Scored, Tiled, Total
from torchseg_zoo.inference.views import (
    Network,
    View,
    cut,
    device_and_type,
    each_logits,
    head_logits,
    scaled,
)
from torchseg_zoo.types import Size

__all__ = ["label", "score", "scores"]


def scores(
    model: Network,
    image: np.ndarray,
    mode: Mode | None = None,
    *,
    size: Size | None = None,
    batch: int | None = None,
) -> Tensor:
    """Class scores of one picture.

    Args:
        model: a model in evaluation mode, or anything with what ``Network`` lists.
        image: (H, W, 3) uint8, RGB. It is resized first if ``model.preprocess`` asks for it.
        mode: what the model sees and how it is merged; by default ``default_mode``.
        size: (height, width) of the scores; by default the picture's.
        batch: windows that go through the network at once; by default by their size and the device.

    Returns:
        (K, *size) on the model's device: probabilities that sum to 1 (``"probability-mean"``),
        logits (``"logit-mean"``), both float32, or undivided sums of probabilities
        (``"torchseg"``), float64 as TorchSeg adds up scales.

    Raises:
        ArgumentError: if the image, the mode, the size or the batch cannot work.
        InputShapeError: if the model cannot take its windows.
    """
    return score(model, image, mode, size=size, batch=batch).scores()


def label(
    model: Network,
    image: np.ndarray,
    mode: Mode | None = None,
    *,
    size: Size | None = None,
    batch: int | None = None,
) -> Tensor:
    """Labels of one picture: the class of the largest score; arguments as in ``scores``.

    Returns:
        (*size) uint8 on the model's device.
    """
    return score(model, image, mode, size=size, batch=batch).labels()


@torch.inference_mode()
def score(
    model: Network,
    image: np.ndarray,
    mode: Mode | None = None,
    *,
    size: Size | None = None,
    batch: int | None = None,
) -> Scored:
    """Runs the network; what comes back gives scores, labels or confidences.

    Arguments and errors are those of ``scores``.
    """
    mode = default_mode(model.input_rule) if mode is None else mode
    check_mode(mode, model.input_rule)
    _check_image(image)
    size = (image.shape[0], image.shape[1]) if size is None else size
    if min(size) < 1:
        raise ArgumentError(f"{size} is no size", where="size", fix="give sides above 0")
    if batch is not None and batch < 1:
        raise ArgumentError(f"{batch} is below 1", where="batch", fix="give at least 1")
    if not isinstance(mode, MultiScaleFlip):
        mode = MultiScaleFlip((1.0,), False, mode, mode.merge)
    device, _ = device_and_type(model)
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).to(device)
    pixels = resize_photo(pixels, model.preprocess.input_size(*pixels.shape[:2]))
    if len(mode.scales) == 1 and not mode.flip:
        view = cut(scaled(pixels, mode.scales[0], mode.merge), model, mode.view)
        if _seen_once(view, size, mode.merge):
            logits = torch.cat(list(head_logits(model, view.inputs((False,)), batch)))
            return Tiled(logits, view, size, mode.merge, model.config.align_corners)
    return _summed(model, pixels, mode, size, batch)


def _check_image(image: object) -> None:
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or 0 in image.shape
    ):
        raise ArgumentError(
            f"got {described(image)} for a picture",
            where="image",
            fix="pass (H, W, 3) uint8 RGB; data.image.as_rgb makes it of most things",
        )


def _seen_once(view: View, size: Size, merge: Merge) -> bool:
    """Whether labels need no sums: every pixel lies in one window, and scores keep their size."""
    if view.direct and merge != "torchseg":
        return True  # logits go from the head's stride to the wanted size in one step
    area = view.window[0] * view.window[1] * len(view.corners)
    return view.size == size and area == view.x.shape[1] * view.x.shape[2]


class _Scratch:
    """Memory for one scale's sums, used again for the next: fresh pages cost more than zeroing."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._flat: Tensor | None = None

    def room(self, like: Tensor, size: Size) -> Tensor:
        """(K, *size) zeros."""
        if self._flat is None:
            self._flat = like.new_empty(len(like) * self._pixels)
        count = len(like) * size[0] * size[1]
        return self._flat[:count].view(len(like), *size).zero_()


def _summed(
    model: Network, pixels: Tensor, mode: MultiScaleFlip, size: Size, batch: int | None
) -> Total:
    """All scales and flips, merged.

    A view's scores reach the total by the shortest of three ways: from the head's stride straight
    to the wanted size; window by window, where view and total have one size; or window by window at
    the view's own size, which is then resized.
    """
    flips = (False, True) if mode.flip else (False,)
    align_corners = model.config.align_corners
    torchseg = mode.merge == "torchseg"
    share = 1.0 if torchseg else 1 / (len(mode.scales) * len(flips))
    total = Total(size, mode.merge)
    height, width = pixels.shape[:2]
    scratch = _Scratch(max((int(height * s) + 1) * (int(width * s) + 1) for s in mode.scales))
    for scale in mode.scales:
        photo = scaled(pixels, scale, mode.merge)
        view = cut(photo, model, mode.view, flip=mode.flip and not torchseg)
        if view.direct and not torchseg:
            logits = each_logits(model, view.inputs(flips), batch)
            for flip, maps in zip(flips, logits, strict=True):
                maps = maps.flip(-1) if flip else maps
                total.add(maps, size, share, align_corners, mode.merge == "probability-mean")
            continue
        # mmsegmentation's rule: windows are merged as logits, views as probabilities. Then logits
        # of the picture and of its mirror image stay apart until they are probabilities.
        logits_first = mode.view.merge != mode.merge
        # TorchSeg sums its scales up in float64, its windows in float32.
        sums_scales = torchseg and len(mode.scales) > 1
        if view.size == size and not logits_first and not sums_scales:
            room = partial(total.room, exact=False)
            _windows(model, view, flips, mode.view.merge, batch, room, share)
            continue
        for group in [(flip,) for flip in flips] if logits_first else [flips]:
            room = partial(scratch.room, size=view.size)
            merged = _windows(model, view, group, mode.view.merge, batch, room, 1.0)
            # Logits are resized as the model does it, probabilities as pictures are.
            aligned = align_corners and mode.view.merge == "logit-mean"
            total.add(merged, size, share, aligned, logits_first)
    return total


def _windows(
    model: Network,
    view: View,
    flips: Sequence[bool],
    merge: Merge,
    batch: int | None,
    room: Callable[[Tensor], Tensor],
    share: float,
) -> Tensor:
    """Adds ``share`` of the windows' mean per flip, or by TorchSeg's rule of their sum.

    Args:
        model: the network.
        view: the windows.
        flips: which pictures.
        merge: how windows are merged.
        batch: as in ``scores``.
        room: gives the (K, *view.size) tensor that is added to, for the first logits.
        share: factor.
    """
    paired = merge == "torchseg"  # each window goes together with its own mirror image
    align_corners = model.config.align_corners
    logits = each_logits(model, view.inputs(flips, paired=paired), batch)
    weights = (
        [view.weight, view.weight] if view.weight is None else [view.weight, view.weight.flip(-1)]
    )
    merged: Tensor | None = None
    for corner in view.corners:
        # Mirrored back at the head's stride, where it costs nothing.
        parts = [next(logits).flip(-1) if flip else next(logits) for flip in flips]
        units = [torch.stack(parts)] if paired else [part[None] for part in parts]
        if merged is None:
            merged = room(parts[0])
        for flip, unit in zip((False,) if paired else flips, units, strict=True):
            (rows, columns), inside = view.place(corner, mirrored=flip)
            weight = weights[flip]
            if weight is not None:
                weight = weight[rows, columns]
            target = merged[:, rows, columns]
            for part, band in bands(
                unit, view.window, align_corners=align_corners, rows=inside[0], columns=inside[1]
            ):
                if merge == "logit-mean":
                    values = band[0]
                else:
                    # The exponential of summed log-probabilities is the product of probabilities.
                    values = band.softmax(1)
                    values = values[0].mul_(values[1]) if len(values) > 1 else values[0]
                if weight is None:
                    target[:, part].add_(values, alpha=share)
                else:
                    target[:, part].addcmul_(values, weight[part], value=share)
    assert merged is not None
    return merged
