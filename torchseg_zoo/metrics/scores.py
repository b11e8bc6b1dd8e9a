"""From confusion counts to scores in percent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.data.labels import LabelSet

__all__ = ["Scores", "picture_scores", "plain", "scores_of"]


@dataclass(frozen=True)
class Scores:
    """Scores over all labelled pixels of a data set.

    With TP, FP and FN the pixels of a class that are right, wrongly given to it and missed, its IoU
    is TP / (TP + FP + FN). Means leave out the classes that are NaN.

    Args:
        miou_percent: mean IoU over the classes that occur in truth or prediction.
        miou_without_first_percent: the same without class 0.
        pixel_accuracy_percent: share of labelled pixels that are right.
        mean_accuracy_percent: mean over classes of ``accuracy_percent``.
        frequency_weighted_iou_percent: mean IoU, each class weighted by its share of true pixels.
        iou_percent: IoU per class; NaN where a class occurs in neither truth nor prediction.
        accuracy_percent: share of each class's pixels that are right; NaN where it has none.
    """

    miou_percent: float
    miou_without_first_percent: float
    pixel_accuracy_percent: float
    mean_accuracy_percent: float
    frequency_weighted_iou_percent: float
    iou_percent: tuple[float, ...]
    accuracy_percent: tuple[float, ...]

    def table(self, labels: LabelSet) -> str:
        """Per-class lines and the means, for people."""
        means = self._means()
        width = max(map(len, (*labels.classes, *means)))
        lines = [f"{'class':<{width}}  {'IoU %':>7}  {'acc %':>7}"]
        lines += [
            f"{name:<{width}}  {iou:7.2f}  {accuracy:7.2f}"
            for name, iou, accuracy in zip(
                labels.classes, self.iou_percent, self.accuracy_percent, strict=True
            )
        ]
        lines += [f"{name:<{width}}  {value:7.2f}" for name, value in means.items()]
        return "\n".join(lines)

    def _means(self) -> dict[str, float]:
        """Lines below the classes, the most quoted ones last."""
        return {
            "without class 0": self.miou_without_first_percent,
            "weighted IoU": self.frequency_weighted_iou_percent,
            "mean accuracy": self.mean_accuracy_percent,
            "mean IoU": self.miou_percent,
            "pixel accuracy": self.pixel_accuracy_percent,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; NaN becomes ``None``."""
        return {
            "miou_percent": plain(self.miou_percent),
            "miou_without_first_percent": plain(self.miou_without_first_percent),
            "pixel_accuracy_percent": plain(self.pixel_accuracy_percent),
            "mean_accuracy_percent": plain(self.mean_accuracy_percent),
            "frequency_weighted_iou_percent": plain(self.frequency_weighted_iou_percent),
            "iou_percent": [plain(value) for value in self.iou_percent],
            "accuracy_percent": [plain(value) for value in self.accuracy_percent],
        }


def plain(value: float, digits: int = 4) -> float | None:
    """A number as JSON has it: so many digits after the point, ``None`` for NaN."""
    return None if value != value else round(value, digits)


def scores_of(counts: Tensor) -> Scores:
    """All scores of a confusion matrix.

    Args:
        counts: (K, K) int64, rows are the truth.
    """
    exact = counts.double()
    right, rows, columns = exact.diagonal(), exact.sum(1), exact.sum(0)
    iou = 100 * right / (rows + columns - right)  # 0 / 0 is NaN: absent classes are left out
    accuracy = 100 * right / rows
    return Scores(
        miou_percent=float(iou.nanmean()),
        miou_without_first_percent=float(iou[1:].nanmean()),
        pixel_accuracy_percent=float(100 * right.sum() / rows.sum()),
        mean_accuracy_percent=float(accuracy.nanmean()),
        frequency_weighted_iou_percent=float((iou.nan_to_num() * rows).sum() / rows.sum()),
        iou_percent=tuple(iou.tolist()),
        accuracy_percent=tuple(accuracy.tolist()),
    )


def picture_scores(overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean IoU and pixel accuracy of single pictures.

    Args:
        overlaps: (N, 3, K) of ``metrics.overlaps``.

    Returns:
        (N,) float64 mean IoU in percent over the classes in each picture's truth or prediction, and
        (N,) pixel accuracy in percent; NaN where no pixel is labelled.
    """
    right, rows, columns = overlaps.double().unbind(1)
    iou = 100 * right / (rows + columns - right)
    return torch.nanmean(iou, 1), 100 * right.sum(1) / rows.sum(1)
