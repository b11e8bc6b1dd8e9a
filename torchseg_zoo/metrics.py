"""Confusion matrix and what follows from it. All scores are in percent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.data.labels import LabelSet

__all__ = ["ConfusionMatrix", "Scores"]


@dataclass(frozen=True)
class Scores:
    """Scores of one evaluation.

    Args:
        miou_percent: mean IoU over the classes that occur in truth or prediction.
        miou_without_first_percent: the same without class 0.
        pixel_accuracy_percent: share of labelled pixels that are right.
        iou_percent: IoU per class; NaN where a class occurs in neither truth nor prediction.
        accuracy_percent: share of each class's pixels that are right; NaN where it has none.
    """

    miou_percent: float
    miou_without_first_percent: float
    pixel_accuracy_percent: float
    iou_percent: tuple[float, ...]
    accuracy_percent: tuple[float, ...]

    def table(self, labels: LabelSet) -> str:
        """Per-class lines and the means, for people."""
        width = max(len(name) for name in (*labels.classes, "pixel accuracy"))
        lines = [f"{'class':<{width}}  {'IoU %':>7}  {'acc %':>7}"]
        lines += [
            f"{name:<{width}}  {iou:7.2f}  {accuracy:7.2f}"
            for name, iou, accuracy in zip(
                labels.classes, self.iou_percent, self.accuracy_percent, strict=True
            )
        ]
        lines.append(f"{'mean IoU':<{width}}  {self.miou_percent:7.2f}")
        lines.append(f"{'pixel accuracy':<{width}}  {self.pixel_accuracy_percent:7.2f}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; NaN becomes ``None``."""

        def plain(value: float) -> float | None:
            return None if value != value else round(value, 4)

        return {
            "miou_percent": plain(self.miou_percent),
            "miou_without_first_percent": plain(self.miou_without_first_percent),
            "pixel_accuracy_percent": plain(self.pixel_accuracy_percent),
            "iou_percent": [plain(value) for value in self.iou_percent],
            "accuracy_percent": [plain(value) for value in self.accuracy_percent],
        }


class ConfusionMatrix:
    """Counts of (true class, predicted class) over labelled pixels.

    Args:
        num_classes: K.
        ignore_index: label value that is not counted, even if it is below K.

    Attributes:
        counts: (K, K) int64, rows are the truth.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Adds one or more label maps of equal shape.

        Args:
            truth: train ids; every value of K or above, or negative, is left out.
            prediction: class indices below K.
        """
        truth = truth.reshape(-1).long()
        prediction = prediction.reshape(-1).long()
        labelled = (truth >= 0) & (truth < self.num_classes) & (truth != self.ignore_index)
        pairs = truth[labelled] * self.num_classes + prediction[labelled]
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.counts += counts.reshape(self.num_classes, self.num_classes).to(self.counts.device)

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds another matrix's counts."""
        self.counts += other.counts

    def scores(self) -> Scores:
        """All scores of the counts so far."""
        counts = self.counts.double()
        right = counts.diagonal()
        rows, columns = counts.sum(1), counts.sum(0)
        iou = 100 * right / (rows + columns - right)  # 0 / 0 is NaN: absent classes are left out
        return Scores(
            miou_percent=float(iou.nanmean()),
            miou_without_first_percent=float(iou[1:].nanmean()),
            pixel_accuracy_percent=float(100 * right.sum() / rows.sum()),
            iou_percent=tuple(iou.tolist()),
            accuracy_percent=tuple((100 * right / rows).tolist()),
        )
