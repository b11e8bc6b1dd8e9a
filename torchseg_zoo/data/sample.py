"""What a data set yields, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import DataError

__all__ = ["Dataset", "Sample", "require_same_size"]


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


def require_same_size(label: np.ndarray, image: np.ndarray, *, where: str, picture: str) -> None:
    """Refuses a label map of another size than its picture's.

    Args:
        label: (H, W).
        image: (H, W, 3).
        where: the label map, for the message.
        picture: the picture, for the message.

    Raises:
        DataError: if the sizes differ.
    """
    if label.shape != image.shape[:2]:
        raise DataError(
            f"labels are {label.shape[0]}×{label.shape[1]}, "
            f"the picture {picture} is {image.shape[0]}×{image.shape[1]}",
            where=where,
            fix="pair each picture with the label map of its own size",
        )
