"""A data set of noise. It is here because processes that read it import where it is defined."""

from __future__ import annotations

from collections import Counter

import numpy as np

from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.sample import Sample


class Noise:
    """Nine samples of three classes that know how often they were read."""

    def __init__(self, labels: LabelSet | None = None, *, value: int | None = None) -> None:
        self.labels = labels or generic_labels(3)
        self.value = value
        self.reads: Counter[int] = Counter()

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Sample:
        self.reads[index] += 1
        rng = np.random.default_rng(index)
        label = rng.integers(0, 3, (40, 50)).astype(np.uint8)
        if self.value is not None and index == 4:
            label[1, 2] = self.value
        return Sample(f"noise {index}", rng.integers(0, 256, (40, 50, 3)).astype(np.uint8), label)
