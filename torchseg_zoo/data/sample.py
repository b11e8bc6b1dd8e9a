"""What a data set yields, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from torchseg_zoo.data.labels import LabelSet

__all__ = ["Dataset", "Sample"]


@dataclass(frozen=True)
class Sample:
    """One picture and its labels.

    Args:
        name: unique within the data set; the picture's path, where there is a file.
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8 train ids, ``LabelSet.ignore_index`` where unlabelled; ``None``
            without labels.
    """

    name: str
    image: np.ndarray
    label: np.ndarray | None


class Dataset(Protocol):
    """Any sequence of samples with a label set; training and evaluation take nothing else."""

    labels: LabelSet

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...
