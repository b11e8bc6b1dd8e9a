"""What a predictor returns, whichever runtime computed it. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from torchseg_zoo.data.image import write_png
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.inference import render

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Confidence", "Prediction", "check_confidence"]

Confidence = Literal["probability", "margin", "entropy"]
"""How sure a label is, from 0 to 1, which is certain.

``"probability"``: of the chosen class.

``"margin"``: that probability less the one of the runner-up; 0 where two classes are equally good.

``"entropy"``: 1 - H / log K, where H is the entropy of the K probabilities; 0 where all are equal.
"""


def check_confidence(kind: str) -> None:
    """Refuses what is no ``Confidence``.

    Raises:
        ArgumentError: if so.
    """
    if kind not in get_args(Confidence):
        raise ArgumentError(
            f"no confidence {kind!r}",
            where="confidence",
            fix=f"known are {', '.join(get_args(Confidence))}",
        )


@dataclass(frozen=True)
class Prediction:
    """Labels of one picture.

    Attributes:
        labels: (H, W) uint8 class indices at the picture's own size.
        image: (H, W, 3) uint8 RGB, the picture as it was labelled.
        label_set: what the indices mean.
        confidence_kind: what ``confidence`` says; ``None`` for an exported file that gives none.
    """

    labels: np.ndarray
    image: np.ndarray
    label_set: LabelSet
    _confidence: Callable[[], np.ndarray] = field(repr=False)
    confidence_kind: Confidence | None = "probability"

    @cached_property
    def confidence(self) -> np.ndarray:
        """(H, W) float32 in 0..1, 1 for certain; see ``Confidence``. Computed at first use."""
        return self._confidence()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the index in ``labels``."""
        return self.label_set.classes

    @cached_property
    def shares(self) -> dict[str, float]:
        """Class name → share of the pixels in 0..1; classes present only, largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=self.label_set.num_classes)
        order = np.argsort(-counts, kind="stable")
        return {
            self.classes[index]: float(counts[index] / self.labels.size)
            for index in order
            if counts[index]
        }

    def overlay(self, *, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """The picture under its label colours, with a legend below; see ``render.overlay``."""
        return render.overlay(self.image, self.labels, self.label_set, alpha=alpha, legend=legend)

    def save(self, path: str | Path) -> Path:
        """Writes the overlay as PNG; returns where.

        Raises:
            DataError: if the file cannot be written.
        """
        path = Path(path)
        write_png(path, np.asarray(self.overlay()))
        return path

    def save_labels(self, path: str | Path) -> Path:
        """Writes the class indices as a palette PNG; returns where.

        Raises:
            DataError: if the file cannot be written.
        """
        path = Path(path)
        write_png(path, self.labels, palette=self.label_set.palette_array())
        return path

    def save_confidence(self, path: str | Path) -> Path:
        """Writes the confidence as a grey PNG, 255 for certain; returns where.

        Raises:
            DataError: if the file cannot be written.
        """
        path = Path(path)
        write_png(path, render.confidence_picture(self.confidence))
        return path

    def to_dict(self) -> dict[str, Any]:
        """Summary for machines: size, classes present with their shares, mean confidence.

        There is no confidence where the file that was run gives none.
        """
        summary: dict[str, Any] = {
            "height": self.labels.shape[0],
            "width": self.labels.shape[1],
            "shares": {name: round(share, 6) for name, share in self.shares.items()},
        }
        if self.confidence_kind is not None:
            summary["mean_confidence"] = round(float(self.confidence.mean()), 6)
        return summary
