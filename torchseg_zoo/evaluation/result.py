"""What an evaluation finds, with what it was measured on, and its file, the card."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import DataError
from torchseg_zoo.evaluation.protocol import Protocol
from torchseg_zoo.files import atomic_write, open_regular, printable
from torchseg_zoo.metrics import Reliability, Scores
from torchseg_zoo.metrics.scores import plain

__all__ = [
    "Card",
    "Evaluation",
    "PictureScore",
    "SkippedPicture",
    "compared_scores",
    "read_card",
    "write_card",
]

_FORMAT = "torchseg_zoo score, 1"
_LIMIT = 256 << 20
_COMPARED = (
    "miou_percent",
    "miou_without_first_percent",
    "pixel_accuracy_percent",
    "mean_accuracy_percent",
    "frequency_weighted_iou_percent",
)


@dataclass(frozen=True)
class PictureScore:
    """Scores of one picture.

    Args:
        index: position in the data set.
        name: of the sample.
        miou_percent: mean IoU over the classes in its truth or prediction; NaN if no pixel of it
            has a class.
        pixel_accuracy_percent: share of its labelled pixels that are right; likewise.
    """

    index: int
    name: str
    miou_percent: float
    pixel_accuracy_percent: float


@dataclass(frozen=True)
class SkippedPicture:
    """A sample that could not be read and was left out of a score.

    Args:
        index: position in the data set.
        name: the file at fault.
        message: what is wrong with it.
    """

    index: int
    name: str
    message: str


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Evaluation(Scores):
    """Scores of one run, with all that they were measured on.

    Args:
        confusion: (K, K) int64 pixels, rows are the truth.
        pictures: one score per picture, in the data set's order.
        protocol: how it was measured.
        boundary_share: band width of boundary IoU as a share of the diagonal; ``None`` if it was
            not asked for.
        boundary_iou_percent: boundary IoU per class, NaN for absent classes; empty likewise.
        reliability: whether confidences are true; ``None`` if it was not asked for.
        temperature: the model's, with which these confidences were made.
        skipped: samples that are not in any of these scores, because they could not be read.
    """

    confusion: np.ndarray
    pictures: tuple[PictureScore, ...]
    protocol: Protocol
    boundary_share: float | None = None
    boundary_iou_percent: tuple[float, ...] = ()
    reliability: Reliability | None = None
    temperature: float = 1.0
    skipped: tuple[SkippedPicture, ...] = ()

    @property
    def picture_miou_percent(self) -> float:
        """Mean over pictures of their own mean IoU; rare classes weigh less in it."""
        return _mean([picture.miou_percent for picture in self.pictures])

    @property
    def boundary_miou_percent(self) -> float:
        """Mean boundary IoU over the classes that occur; NaN if it was not asked for."""
        return _mean(self.boundary_iou_percent)

    def worst(self, count: int) -> list[PictureScore]:
        """The pictures of lowest mean IoU, worst first; those without labelled pixels are none."""
        scored = [picture for picture in self.pictures if not math.isnan(picture.miou_percent)]
        return sorted(scored, key=lambda picture: (picture.miou_percent, picture.index))[:count]

    def table(self, labels: LabelSet) -> str:
        """Per-class lines and the means, for people; and what is not in them."""
        text = super().table(labels)
        if self.skipped:
            total = len(self.skipped) + len(self.pictures)
            text += f"\nwithout {len(self.skipped)} of {total} pictures, which could not be read:"
            text += "".join(f"\n  {printable(one.message)}" for one in self.skipped)
        return text

    def _means(self) -> dict[str, float]:
        more = {"mean of pictures": self.picture_miou_percent}
        if self.boundary_iou_percent:
            more["boundary IoU"] = self.boundary_miou_percent
        if self.reliability is not None:
            more["calibration err."] = self.reliability.error_percent
        return more | super()._means()

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, which is what a card holds; NaN becomes ``None``."""
        record = {"format": _FORMAT, **super().to_dict()}
        record["picture_miou_percent"] = plain(self.picture_miou_percent)
        if self.boundary_share is not None:
            record["boundary"] = {
                "share_of_diagonal": self.boundary_share,
                "miou_percent": plain(self.boundary_miou_percent),
                "iou_percent": [plain(value) for value in self.boundary_iou_percent],
            }
        if self.reliability is not None:
            record["reliability"] = {
                "temperature": self.temperature,
                **self.reliability.to_dict(),
            }
        if self.skipped:
            record["skipped"] = [
                {"name": printable(one.name), "message": printable(one.message)}
                for one in self.skipped
            ]
        record["protocol"] = self.protocol.to_dict()
        record["confusion"] = self.confusion.tolist()
        record["pictures"] = [
            {
                "name": printable(picture.name),
                "miou_percent": plain(picture.miou_percent),
                "pixel_accuracy_percent": plain(picture.pixel_accuracy_percent),
            }
            for picture in self.pictures
        ]
        return record


@dataclass(frozen=True)
class Card:
    """A score as it was written down.

    Args:
        scores: name → percent; NaN for what was absent. Classes are ``"iou_percent[3]"``.
        boundary_share: see ``Evaluation``.
        protocol: how it was measured.
        skipped: how many samples could not be read.
    """

    scores: Mapping[str, float]
    boundary_share: float | None
    protocol: Protocol
    skipped: int = 0


def write_card(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Writes scores and protocol as JSON, whole or not at all.

    Raises:
        DataError: if the file cannot be written.
    """
    # As ASCII, because paths may hold what UTF-8 cannot, and must come back as they were.
    text = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False) + "\n"
    atomic_write(path, lambda file: file.write(text.encode()))


def read_card(path: str | os.PathLike[str]) -> Card:
    """Reads what ``write_card`` wrote.

    Raises:
        DataError: if there is no such file, or it is no card.
    """
    where = printable(path)
    with open_regular(path) as file:
        text = file.read(_LIMIT + 1)
    try:
        if len(text) > _LIMIT:
            raise ValueError(f"it has more than {_LIMIT} bytes")
        record = json.loads(text)
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT!r}")
        return Card(
            compared_scores(record),
            _share(record.get("boundary")),
            Protocol.from_dict(record["protocol"]),
            len(record.get("skipped", ())),
        )
    except DataError as error:
        error.where = where
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            "is no card of a score",
            where=where,
            why=f"{type(error).__name__}: {error}",
            fix="give the card.json that `torchseg-zoo evaluate -o` wrote",
        ) from error


def compared_scores(record: Mapping[str, Any]) -> dict[str, float]:
    """The scores that a replay must find again, of a card's record."""
    found = {name: _number(record[name]) for name in _COMPARED}
    found |= {f"iou_percent[{i}]": _number(iou) for i, iou in enumerate(record["iou_percent"])}
    if "boundary" in record:
        found["boundary.miou_percent"] = _number(record["boundary"]["miou_percent"])
    return found


def _share(boundary: object) -> float | None:
    return float(boundary["share_of_diagonal"]) if isinstance(boundary, Mapping) else None


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no score")
    return float(value)


def _mean(values: list[float] | tuple[float, ...]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
