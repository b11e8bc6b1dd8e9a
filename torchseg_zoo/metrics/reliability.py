"""Whether confidences are true: of all pixels labelled at 80 %, are 80 % right?

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv
1706.04599: bins of equal width, and the expected calibration error, which is the mean over pixels
of |accuracy - confidence| of their bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.metrics.scores import plain

__all__ = ["Reliability", "ReliabilityCounts"]

_BINS = 15  # as in the paper
_UNIT = 1 << 24  # confidences are added up in units of their float32 precision


@dataclass(frozen=True)
class Reliability:
    """A reliability table.

    Bin b of B holds the confidences in (b / B, (b + 1) / B], and the first one 0, too.

    Args:
        counts: labelled pixels per bin.
        confidence: mean confidence per bin in 0..1; NaN where a bin is empty.
        accuracy: share of pixels that are right per bin in 0..1; NaN where a bin is empty.
    """

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    @property
    def error_percent(self) -> float:
        """Expected calibration error, 0..100; NaN without pixels."""
        total = sum(self.counts)
        gaps = (
            count * abs(accuracy - confidence)
            for count, accuracy, confidence in zip(
                self.counts, self.accuracy, self.confidence, strict=True
            )
            if count
        )
        return 100 * sum(gaps) / total if total else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; NaN becomes ``None``."""
        return {
            "expected_calibration_error_percent": plain(self.error_percent),
            "counts": list(self.counts),
            "confidence": [plain(value, 6) for value in self.confidence],
            "accuracy": [plain(value, 6) for value in self.accuracy],
        }


class ReliabilityCounts:
    """Adds up a reliability table, on the device of the confidences.

    Args:
        bins: number of bins of equal width over 0..1.
    """

    def __init__(self, bins: int = _BINS) -> None:
        self._bins = bins
        self._sums = torch.zeros(3, bins + 1, dtype=torch.int64)

    def update(self, confidence: Tensor, right: Tensor, labelled: Tensor) -> None:
        """Adds pixels.

        Args:
            confidence: float in 0..1: probability of the predicted class.
            right: bool of the same shape: whether that class is the true one.
            labelled: bool of the same shape: what counts at all.
        """
        chosen = confidence.reshape(-1)
        index = (chosen * self._bins).ceil_().long().sub_(1).clamp_(0, self._bins - 1)
        # What has no label goes into a bin of its own, so that no mask makes anybody wait.
        index = index.where(labelled.reshape(-1), self._bins)
        # Whole numbers, so that the sums do not depend on the order in which a GPU adds.
        rows = torch.ones_like(index), (chosen * _UNIT).long(), right.reshape(-1).long()
        sums = torch.zeros(3, self._bins + 1, dtype=torch.int64, device=index.device)
        for total, values in zip(sums, rows, strict=True):
            total.scatter_add_(0, index, values)
        self.add(sums)

    @property
    def sums(self) -> Tensor:
        """(3, B + 1) int64 on the device: pixels, confidence and hits per bin.

        Confidence is in units of 2⁻²⁴; the last bin is for unlabelled pixels.
        """
        return self._sums

    def add(self, sums: Tensor) -> None:
        """Adds what another one's ``sums`` are."""
        self._sums = self._sums.to(sums.device) + sums

    def table(self) -> Reliability:
        """The table of what was added so far."""
        counts, confidence, right = self._sums[:, :-1].cpu().double()
        return Reliability(
            counts=tuple(int(count) for count in counts),
            confidence=tuple((confidence / _UNIT / counts).tolist()),
            accuracy=tuple((right / counts).tolist()),
        )
