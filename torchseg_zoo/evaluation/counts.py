"""What one picture adds to a score: whole numbers, so that any order and any process will do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.evaluation.result import PictureScore, SkippedPicture
from torchseg_zoo.metrics import (
    BoundaryOverlap,
    ConfusionMatrix,
    Reliability,
    ReliabilityCounts,
    Scores,
    overlaps,
    picture_scores,
)
from torchseg_zoo.types import Size

__all__ = ["Outcome", "PictureCounts", "Tally"]


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class PictureCounts:
    """What was counted in one picture.

    Args:
        index: position in the data set.
        name: of the sample.
        size: (height, width) of the picture.
        pixels: pixels of the label map that it was scored against.
        pairs: (2, n) int64: which pairs of (true class, predicted class) occur, as flat positions
            in a (K + 1, K + 1) table whose last row and column are "no class", and how often.
        boundary: (2, K) int64, see ``BoundaryOverlap.sums``; ``None`` if not asked for.
        reliability: (3, B + 1) int64, see ``ReliabilityCounts.sums``; likewise.
        files: what was written for it.
    """

    index: int
    name: str
    size: Size
    pixels: int
    pairs: np.ndarray
    boundary: np.ndarray | None = None
    reliability: np.ndarray | None = None
    files: tuple[str, ...] = ()

    def table(self, num_classes: int) -> Tensor:
        """(K + 1, K + 1) int64 counts, as ``metrics.count_pairs`` gives them."""
        flat = torch.zeros((num_classes + 1) ** 2, dtype=torch.int64)
        positions, counts = torch.from_numpy(self.pairs)
        flat[positions] = counts
        return flat.view(num_classes + 1, num_classes + 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``from_dict`` reads it back."""
        record: dict[str, Any] = {
            "index": self.index,
            "name": self.name,
            "size": list(self.size),
            "pixels": self.pixels,
            "pairs": self.pairs.tolist(),
        }
        for name in ("boundary", "reliability"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name).tolist()
        if self.files:
            record["files"] = list(self.files)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], num_classes: int) -> Self:
        """Reads the form written by ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: if it is damaged.
        """
        found = cls(
            index=int(record["index"]),
            name=str(record["name"]),
            size=(int(record["size"][0]), int(record["size"][1])),
            pixels=int(record["pixels"]),
            pairs=_table(record["pairs"], 2),
            boundary=_table(record["boundary"], 2) if "boundary" in record else None,
            reliability=_table(record["reliability"], 3) if "reliability" in record else None,
            files=tuple(map(str, record.get("files", ()))),
        )
        positions, counts = found.pairs
        if not np.isin(positions, np.arange((num_classes + 1) ** 2)).all() or (counts < 1).any():
            raise ValueError("pairs of no class")
        if len(np.unique(positions)) != len(positions) or int(counts.sum()) != found.pixels:
            raise ValueError("pairs that are not those of the picture")
        return found


Outcome = PictureCounts | SkippedPicture


def _table(rows: object, height: int) -> np.ndarray:
    table = np.array(rows, dtype=np.int64)
    if table.ndim != 2 or len(table) != height:
        raise ValueError(f"{table.shape} is not {height} rows of numbers")
    return table


class Tally:
    """Adds up what pictures add to a score; what comes out does not depend on their order.

    Args:
        num_classes: K.
        ignore_index: label value that does not count.
        boundary_share: see ``evaluate``.
        reliability: likewise.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int,
        boundary_share: float | None = None,
        reliability: bool = False,
    ) -> None:
        self.matrix = ConfusionMatrix(num_classes, ignore_index=ignore_index)
        self._boundary = None
        if boundary_share is not None:
            self._boundary = BoundaryOverlap(
                num_classes, ignore_index=ignore_index, share=boundary_share
            )
        self._bins = ReliabilityCounts() if reliability else None
        self._found: dict[int, tuple[str, Size, Tensor]] = {}
        self._skipped: dict[int, SkippedPicture] = {}

    def add(self, outcome: Outcome) -> PictureScore | None:
        """Adds one picture and returns its scores; of a skipped one it is only noted."""
        if isinstance(outcome, SkippedPicture):
            self._skipped[outcome.index] = outcome
            return None
        pairs = outcome.table(self.matrix.num_classes)
        self.matrix.add(pairs)
        if self._boundary is not None:
            assert outcome.boundary is not None
            self._boundary.add(torch.from_numpy(outcome.boundary))
        if self._bins is not None:
            assert outcome.reliability is not None
            self._bins.add(torch.from_numpy(outcome.reliability))
        one = overlaps(pairs)
        self._found[outcome.index] = outcome.name, outcome.size, one
        miou, accuracy = (values.item() for values in picture_scores(one[None]))
        return PictureScore(outcome.index, outcome.name, miou, accuracy)

    def scores(self) -> Scores:
        """Scores of all pictures so far."""
        return self.matrix.scores()

    @property
    def samples(self) -> list[tuple[str, Size]]:
        """Name and size of every picture that was scored, in the data set's order."""
        return [self._found[index][:2] for index in sorted(self._found)]

    @property
    def pictures(self) -> tuple[PictureScore, ...]:
        """Scores of every picture that was scored, in the data set's order."""
        order = sorted(self._found)
        if not order:
            return ()
        found = torch.stack([self._found[index][2] for index in order])
        miou, accuracy = (values.tolist() for values in picture_scores(found))
        return tuple(
            PictureScore(index, self._found[index][0], miou[place], accuracy[place])
            for place, index in enumerate(order)
        )

    @property
    def skipped(self) -> tuple[SkippedPicture, ...]:
        """Pictures that were left out, in the data set's order."""
        return tuple(self._skipped[index] for index in sorted(self._skipped))

    @property
    def boundary_iou_percent(self) -> tuple[float, ...]:
        """Boundary IoU per class; empty if it was not asked for."""
        return () if self._boundary is None else self._boundary.iou_percent()

    @property
    def reliability(self) -> Reliability | None:
        """The reliability table; ``None`` if it was not asked for."""
        return None if self._bins is None else self._bins.table()
