"""Scores of one picture before they are reduced to labels, confidences or probabilities.

``Tiled`` holds logits at the head's stride, for pictures in which every pixel is seen once: nothing
is added up, and the label tail does the work. ``Total`` is the sum of all views.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from torchseg_zoo.inference import tail
from torchseg_zoo.inference.certainty import certainty, log_scores
from torchseg_zoo.inference.modes import Merge
from torchseg_zoo.inference.prediction import Confidence
from torchseg_zoo.inference.resize import bands
from torchseg_zoo.inference.views import View
from torchseg_zoo.types import Size

__all__ = ["Scored", "Tiled", "Total"]

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
        """(K, H, W); see ``scoring.scores``."""

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


@dataclass(frozen=True)
class Tiled(Scored):
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
        total = Total(self.size, self.merge)
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


class Total(Scored):
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
            has_float64 = like.device.type != "mps"
            double = exact and self._merge == "torchseg" and has_float64
            dtype = torch.float64 if double else torch.float32
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
        has_float64 = self._sum.device.type != "mps"
        return self._sum.double() if self._merge == "torchseg" and has_float64 else self._sum

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
