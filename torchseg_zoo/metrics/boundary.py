"""Boundary IoU: how well the outlines of the classes agree.

Source: Cheng, Girshick, Dollár, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image
Segmentation Evaluation", CVPR 2021, arXiv 2103.16562. Of each class only the pixels count that lie
within a distance d of its outline, on the inside; d is a share of the picture's diagonal, and
distance is counted in king's moves, which is what repeated 3×3 erosion comes to. As there, the
border of the picture is an outline.

Two choices the paper leaves open for label maps: numbers are summed over the data set before they
are divided, as for mean IoU; and where the truth has no class, the prediction is taken to have
none, too, so that a perfect prediction reaches 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.metrics.confusion import class_ids

__all__ = ["BoundaryOverlap"]


class BoundaryOverlap:
    """Adds up boundary intersections and unions per class, on the device of the label maps.

    Args:
        num_classes: K.
        ignore_index: label value that is not counted.
        share: band width as a share of the picture's diagonal; the paper takes 0.02, and 0.005
            where outlines are drawn more precisely, as in Cityscapes.

    Raises:
        ArgumentError: if ``share`` is not in (0, 1].
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255, share: float = 0.02) -> None:
        if not 0 < share <= 1:
            raise ArgumentError(
                f"{share} is no share of the diagonal", where="share", fix="give 0.02, say"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.share = share
        self._sums = torch.zeros(2, num_classes, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Adds one picture.

        Args:
            truth: (H, W) train ids.
            prediction: (H, W) class indices, on the same device.
        """
        height, width = truth.shape
        distance = max(1, round(self.share * math.hypot(height, width)))
        true = class_ids(truth, self.num_classes, ignore_index=self.ignore_index)
        unlabelled = true == self.num_classes
        found = class_ids(prediction, self.num_classes).masked_fill(unlabelled, self.num_classes)
        true_band = true.masked_fill(_interior(true, distance), self.num_classes)
        found_band = found.masked_fill(_interior(found, distance), self.num_classes)
        both = true_band.masked_fill(true_band != found_band, self.num_classes)
        areas = torch.stack([self._areas(band) for band in (both, true_band, found_band)])
        self.add(torch.stack([areas[0], areas[1] + areas[2] - areas[0]]))

    @property
    def sums(self) -> Tensor:
        """(2, K) int64 pixels on the device: intersections, then unions."""
        return self._sums

    def add(self, sums: Tensor) -> None:
        """Adds what another one's ``sums`` are."""
        self._sums = self._sums.to(sums.device) + sums

    def iou_percent(self) -> tuple[float, ...]:
        """Boundary IoU per class; NaN for classes that occur in neither truth nor prediction."""
        intersection, union = self._sums.double().cpu()
        return tuple((100 * intersection / union).tolist())

    def _areas(self, ids: Tensor) -> Tensor:
        """(K,) int64 pixels per class."""
        counts = torch.zeros(self.num_classes + 1, dtype=torch.int64, device=ids.device)
        flat = ids.reshape(-1).long()
        return counts.scatter_add_(0, flat, torch.ones_like(flat))[:-1]


def _interior(ids: Tensor, distance: int) -> Tensor:
    """(H, W) bool: whether all pixels within ``distance`` exist and are of the same class."""
    inside = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    height, width = ids.shape
    window = 2 * distance + 1
    if window > min(height, width):
        return inside
    low, high = ids, ids
    for axis in (0, 1):
        low = _over_window(low, window, axis, torch.minimum)
        high = _over_window(high, window, axis, torch.maximum)
    inside[distance : height - distance, distance : width - distance] = low == high
    return inside


def _over_window(
    values: Tensor, window: int, axis: int, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``combine`` of all ``window`` neighbours along an axis, where they exist.

    Windows are doubled until one more step reaches, so that the cost grows with their logarithm.
    """
    reach = 1
    while reach < window:
        step = min(reach, window - reach)
        length = values.shape[axis] - step
        values = combine(values.narrow(axis, 0, length), values.narrow(axis, step, length))
        reach += step
    return values
