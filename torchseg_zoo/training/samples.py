"""Which sample comes when, and what is done to it: pure functions of (seed, epoch, position)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from torchseg_zoo.data.label_map import check_label_values
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.data.transforms import Augmentation, generator, subsample
from torchseg_zoo.errors import DataError
from torchseg_zoo.training.config import TrainConfig

__all__ = ["EpochBatches", "TrainingSamples", "epoch_order", "make_loader"]

_ORDER = 2**32 - 1  # position that stands for "the order itself"; no epoch is that long
Key = tuple[int, int, int, int]  # epoch, position in it, data set (0 main, 1 mix), index in that
_Loader = DataLoader[tuple[Tensor, Tensor, list[str]]]


def epoch_order(main: int, mix: int, mix_share: float, *, seed: int, epoch: int) -> list[Key]:
    """The samples of one epoch, in order.

    Each sample of the main set comes once. Between them stand ``mix_share`` of all, drawn from the
    second set without repeats as long as it lasts.
    """
    random = generator(seed, epoch, _ORDER)
    extra = round(main * mix_share / (1 - mix_share)) if mix else 0
    picked = [(0, int(index)) for index in random.permutation(main)]
    while extra > 0:
        picked += [(1, int(index)) for index in random.permutation(mix)[:extra]]
        extra -= mix
    order = random.permutation(len(picked))
    return [(epoch, position, *picked[place]) for position, place in enumerate(order)]


class TrainingSamples(TorchDataset[tuple[Tensor, Tensor, str]]):
    """Reads and augments one sample per key of ``epoch_order``.

    Args:
        main: the training set.
        mix: the second set, or ``None``.
        config: augmentation, label stride, seed, cache.
    """

    def __init__(self, main: Dataset, mix: Dataset | None, config: TrainConfig) -> None:
        self._sets = [main] if mix is None else [main, mix]
        self._config = config
        self._cache: dict[tuple[int, int], Sample] = {}
        self._augment = {
            early: Augmentation(
                crop=crop,
                scales=config.scales,
                continuous=config.continuous_scale,
                mirror=config.mirror,
                brightness=config.brightness,
                ignore_index=main.labels.ignore_index,
            )
            for early, crop in ((True, config.early_crop or config.crop), (False, config.crop))
        }

    def _read(self, which: int, index: int) -> Sample:
        if (which, index) in self._cache:
            return self._cache[which, index]
        dataset = self._sets[which]
        sample = dataset[index]
        if sample.label is None:
            raise DataError(
                "this sample has no labels", where=sample.name, fix="training needs image<TAB>label"
            )
        _check_range(sample, dataset)
        if self._config.cache:
            self._cache[which, index] = sample
        return sample

    def __getitem__(self, key: Any) -> tuple[Tensor, Tensor, str]:
        """Image (h, w, 3) uint8, label (h', w') uint8, and the sample's name."""
        epoch, position, which, index = key
        sample = self._read(which, index)
        random = generator(self._config.seed, epoch, position)
        augment = self._augment[2 * epoch < self._config.epochs]
        image, label = augment(sample, random)
        label = subsample(label, self._config.label_stride, aligned=self._config.aligned_labels)
        return (
            torch.from_numpy(image),
            torch.from_numpy(np.ascontiguousarray(label)),
            sample.name,
        )


def _check_range(sample: Sample, dataset: Dataset) -> None:
    assert sample.label is not None
    check_label_values(sample.label, dataset.labels, where=sample.name)


class EpochBatches:
    """Batches of sample keys, one epoch at a time; a last batch that is not full is left out.

    Args:
        main: length of the training set.
        mix: length of the second set, 0 without one.
        config: batch size, share of the second set, seed.

    Attributes:
        epoch: which epoch ``iter`` yields; set it before each.
    """

    def __init__(self, main: int, mix: int, config: TrainConfig) -> None:
        self._main, self._mix, self._config = main, mix, config
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._order()) // self._config.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order, size = self._order(), self._config.batch_size
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]

    def _order(self) -> list[Key]:
        config = self._config
        return epoch_order(
            self._main, self._mix, config.mix_share, seed=config.seed, epoch=self.epoch
        )


def make_loader(samples: TrainingSamples, batches: EpochBatches, workers: int) -> _Loader:
    """Loads ``batches`` in this process or in ``workers`` others, which live as long as the loader."""
    return DataLoader(
        samples,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
    )
