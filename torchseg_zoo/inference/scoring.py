"""Carries out inference modes: a picture in, class scores or labels out, all on the model's device.

Windows are cut from one normalised tensor and go through the network together, mirrored ones
included. Logits leave it at the head's own stride; they are resized, turned into probabilities and
added up in bands of rows that fit a CPU's cache, each only where its window lies. Where every pixel
is seen once, nothing is added up at all and the label tail does the work.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.errors import ArgumentError, described
from torchseg_zoo.inference import tail
from torchseg_zoo.inference.certainty import certainty, log_scores
from torchseg_zoo.inference.modes import Merge, Mode, MultiScaleFlip, check_mode, default_mode
from torchseg_zoo.inference.prediction import Confidence
from torchseg_zoo.inference.resize import bands, resize_photo
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

__all__ = ["Scored", "label", "score", "scores"]

_PLANE_PX = 1 << 16  # pixels compared at once, so that a few planes of them stay in the cache


class Scored(abc.ABC):
    """Scores of one picture, not yet reduced to what the caller wants.

    Attributes:
        light: whether it holds no more than logits at the head's stride.
        size: (height, width) of what is wanted.
    """

    light: bool
    size: Size

    @abc.abstractmethod
    def scores(self) -> Tensor:
        """(K, H, W); see the function ``scores``."""

    @abc.abstractmethod
    def labels(self) -> Tensor:
        """(H, W) uint8: the class of the largest score."""

    @abc.abstractmethod
    def log_bands(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        """Logits, or logarithms of what is proportional to the probabilities, part by part.

        Yields:
            Rows and columns of a part of the picture, and its (K, rows, columns) values; each pixel
            once.
        """

    @torch.inference_mode()
    def confidence(self, kind: Confidence = "probability", *, temperature: float = 1.0) -> Tensor:
        """How sure the labels are.

        Args:
            kind: see ``Confidence``.
            temperature: above 0; the logarithms of the probabilities are divided by it, and what
                comes is normalised again. Labels stay what they are in every mode.

        Returns:
            (H, W) float32 in 0..1.
        """
        out: Tensor | None = None
        for (rows, columns), band in self.log_bands():
            if out is None:
                out = torch.empty(self.size, dtype=torch.float32, device=band.device)
            out[rows, columns] = certainty(band[None], kind, temperature)[0]
        assert out is not None
        return out


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
        (``"torchseg"``), float64 as the seed adds up scales.

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
            return _Tiled(logits, view, size, mode.merge, model.config.align_corners)
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


@dataclass(frozen=True)
class _Tiled(Scored):
    """Logits at the head's stride; every pixel lies in exactly one window.

    Args:
        logits: (windows, K, h/s, w/s).
        view: the windows.
        size: (height, width) of what is wanted; the view's, unless that is ``direct``.
        merge: decides what the scores are.
        align_corners: of the model.
    """

    logits: Tensor
    view: View
    size: Size
    merge: Merge
    align_corners: bool
    light = True

    @torch.inference_mode()
    def scores(self) -> Tensor:
        total = _Total(self.size, self.merge)
        window = self.size if self.view.direct else self.view.window
        probabilities = self.merge != "logit-mean"
        for logits, corner in zip(self.logits, self.view.corners, strict=True):
            place, inside = self.view.place(corner, mirrored=False)
            if self.view.direct:
                place = inside = (slice(None), slice(None))
            total.add(logits, window, 1.0, self.align_corners, probabilities, place, inside)
        return total.scores()

    def labels(self) -> Tensor:
        return self._map(tail.label_map)

    def confidence(self, kind: Confidence = "probability", *, temperature: float = 1.0) -> Tensor:
        return self._map(partial(tail.confidence, kind=kind, temperature=temperature))

    def log_bands(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        everything = slice(0, self.size[0]), slice(0, self.size[1])
        for logits, corner in zip(self.logits, self.view.corners, strict=True):
            place, inside = self.view.place(corner, mirrored=False)
            window = self.view.window
            if self.view.direct:
                place, inside, window = everything, everything, self.size
            for rows, band in bands(
                logits[None],
                window,
                align_corners=self.align_corners,
                rows=inside[0],
                columns=inside[1],
            ):
                top = place[0].start
                yield (slice(top + rows.start, top + rows.stop), place[1]), band[0]

    @torch.inference_mode()
    def _map(self, compute: tail.Tail) -> Tensor:
        if self.view.direct:
            return compute(self.logits, self.size, align_corners=self.align_corners)[0]
        whole: Tensor | None = None
        for index, corner in enumerate(self.view.corners):
            (rows, columns), inside = self.view.place(corner, mirrored=False)
            part = compute(
                self.logits[index : index + 1], self.view.window, align_corners=self.align_corners
            )[0]
            whole = part.new_empty(self.size) if whole is None else whole
            whole[rows, columns] = part[inside]
        assert whole is not None
        return whole


class _Total(Scored):
    """Scores of all views, added up at the wanted size.

    Args:
        size: (height, width).
        merge: how views are merged.
    """

    light = False

    def __init__(self, size: Size, merge: Merge) -> None:
        self.size = size
        self._merge = merge
        self._sum: Tensor | None = None

    def room(self, like: Tensor, *, exact: bool = True) -> Tensor:
        """The (K, *size) sum so far, to be added to in place.

        Args:
            like: (K, ...) on the device; makes the first one.
            exact: in float64 under ``"torchseg"``, for sums over scales.
        """
        if self._sum is None:
            seed = exact and self._merge == "torchseg" and like.device.type != "mps"  # no float64
            dtype = torch.float64 if seed else torch.float32
            self._sum = like.new_zeros((len(like), *self.size), dtype=dtype)
        return self._sum

    def add(
        self,
        maps: Tensor,
        size: Size,
        share: float,
        align_corners: bool,
        probabilities: bool,
        place: tuple[slice, slice] = (slice(None), slice(None)),
        inside: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> None:
        """Adds a part of the picture.

        Args:
            maps: (K, h, w) float32.
            size: (height, width) that they are resized to.
            share: factor.
            align_corners: of the resize.
            probabilities: take the softmax after the resize.
            place: rows and columns of the total.
            inside: rows and columns of the resized maps that belong there.
        """
        target = self.room(maps)[:, place[0], place[1]]
        for rows, band in bands(
            maps[None], size, align_corners=align_corners, rows=inside[0], columns=inside[1]
        ):
            target[:, rows].add_(band[0].softmax(0) if probabilities else band[0], alpha=share)

    def scores(self) -> Tensor:
        assert self._sum is not None
        seed = self._merge == "torchseg" and self._sum.device.type != "mps"
        return self._sum.double() if seed else self._sum

    @torch.inference_mode()
    def labels(self) -> Tensor:
        assert self._sum is not None
        if self._sum.device.type != "cpu":
            return self._sum.argmax(0).to(torch.uint8)
        # On CPUs argmax over an outer dimension is several times slower than comparing planes.
        labels = torch.zeros(self.size, dtype=torch.uint8)
        step = max(1, _PLANE_PX // self.size[1])
        for start in range(0, self.size[0], step):
            part = slice(start, start + step)
            _largest(self._sum[:, part], labels[part])
        return labels

    def log_bands(self) -> Iterator[tuple[tuple[slice, slice], Tensor]]:
        assert self._sum is not None
        for rows, (band,) in bands(self._sum[None], self.size, align_corners=False):
            yield (rows, slice(None)), band if self._merge == "logit-mean" else log_scores(band)


def _largest(band: Tensor, labels: Tensor) -> None:
    """(K, R, W) → (R, W) uint8, zero at first: the first class of the largest score."""
    best = band[0].clone()
    larger = torch.empty(best.shape, dtype=torch.bool)
    for index in range(1, len(band)):
        torch.gt(band[index], best, out=larger)
        labels.masked_fill_(larger, index)
        torch.maximum(best, band[index], out=best)


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
) -> _Total:
    """All scales and flips, merged."""
    flips = (False, True) if mode.flip else (False,)
    align_corners = model.config.align_corners
    seed = mode.merge == "torchseg"
    share = 1.0 if seed else 1 / (len(mode.scales) * len(flips))
    total = _Total(size, mode.merge)
    height, width = pixels.shape[:2]
    scratch = _Scratch(max((int(height * s) + 1) * (int(width * s) + 1) for s in mode.scales))
    for scale in mode.scales:
        photo = scaled(pixels, scale, mode.merge)
        view = cut(photo, model, mode.view, flip=mode.flip and not seed)
        if view.direct and not seed:
            logits = each_logits(model, view.inputs(flips), batch)
            for flip, maps in zip(flips, logits, strict=True):
                maps = maps.flip(-1) if flip else maps
                total.add(maps, size, share, align_corners, mode.merge == "probability-mean")
            continue
        # Logits of the picture and of its mirror image stay apart until they are probabilities.
        apart = mode.view.merge != mode.merge
        single = seed and len(mode.scales) == 1  # a sum over scales, which is float64, is not made
        if view.size == size and not apart and (single or not seed):
            room = partial(total.room, exact=False)
            _windows(model, view, flips, mode.view.merge, batch, room, share)
            continue
        for group in [(flip,) for flip in flips] if apart else [flips]:
            room = partial(scratch.room, size=view.size)
            merged = _windows(model, view, group, mode.view.merge, batch, room, 1.0)
            # Logits are resized as the model does it, probabilities as pictures are.
            aligned = align_corners and mode.view.merge == "logit-mean"
            total.add(merged, size, share, aligned, apart)
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
    """Adds ``share`` of the windows' mean per flip, or by the seed's rule of their sum.

    Args:
        model: the network.
        view: the windows.
        flips: which pictures.
        merge: how windows are merged.
        batch: as in ``scores``.
        room: gives the (K, *view.size) tensor that is added to, for the first logits.
        share: factor.
    """
    paired = merge == "torchseg"
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
