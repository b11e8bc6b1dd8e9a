"""``training.samples``: which sample comes when, and the same whatever loads it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from noise import Noise
from pictures import photo
from PIL import Image

from torchseg_zoo.data.datasets import DrawnStreets, FileDataset
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.transforms import Augmentation, generator, subsample
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.samples import (
    Batch,
    BatchLoader,
    EpochBatches,
    TrainingSamples,
    epoch_order,
)

CONFIG = TrainConfig(
    crop=(24, 32), early_crop=(16, 16), epochs=4, batch_size=3, label_stride=4, seed=5,
    mix="drawn", mix_share=0.25,
)  # fmt: skip


def batches_of(
    config: TrainConfig, workers: int, epochs: range = range(2), *, rank: int = 0, world: int = 1
) -> list[Batch]:
    samples = TrainingSamples(Noise(), DrawnStreets(4, size=(40, 48)), config)
    batches = EpochBatches(9, 4, config, rank=rank, world=world)
    loader = BatchLoader(samples, batches, workers)
    loaded = []
    for epoch in epochs:
        batches.epoch = epoch
        loaded += list(loader)
    return loaded


# The order


@pytest.mark.parametrize(("main", "mix", "share"), [(40, 7, 0.2), (9, 100, 0.5), (5, 0, 0.0)])
def test_an_epoch_has_every_sample_once_and_its_share_of_the_second_set(
    main: int, mix: int, share: float
) -> None:
    for epoch in range(3):
        order = epoch_order(main, mix, share, seed=1, epoch=epoch)
        assert [(key[0], key[1]) for key in order] == [(epoch, i) for i in range(len(order))]
        first = [key[3] for key in order if key[2] == 0]
        second = Counter(key[3] for key in order if key[2] == 1)
        assert sorted(first) == list(range(main))
        assert abs(second.total() - share * len(order)) <= 0.5
        if second:
            assert set(second) <= set(range(mix))
            assert max(second.values()) - min(second.get(i, 0) for i in range(mix)) <= 1


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    def indices(seed: int, epoch: int) -> list[tuple[int, int]]:
        return [key[2:] for key in epoch_order(30, 9, 0.3, seed=seed, epoch=epoch)]

    first = indices(1, 0)
    np.random.default_rng(0).random(3)
    assert indices(1, 0) == first
    assert len({tuple(indices(seed, epoch)) for seed in (1, 2) for epoch in range(3)}) == 6
    main = [index for which, index in first if which == 0]
    assert main != sorted(main)


def test_a_last_batch_that_is_not_full_is_left_out() -> None:
    batches = EpochBatches(9, 4, CONFIG)  # 9 and 3 of the second set
    assert [len(batch) for batch in batches] == [3, 3, 3, 3] and len(batches) == 4
    odd = EpochBatches(9, 4, dataclasses.replace(CONFIG, batch_size=5))
    assert [len(batch) for batch in odd] == [5, 5] and len(odd) == 2
    assert len(EpochBatches(9, 0, dataclasses.replace(CONFIG, batch_size=20))) == 0


# Loading


def test_batches_are_the_same_with_any_number_of_workers() -> None:
    plain = batches_of(CONFIG, 0)
    assert len(plain) == 8
    for workers in (1, 2):
        for ours, theirs in zip(plain, batches_of(CONFIG, workers), strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
            assert ours[2] == theirs[2]


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (3, 0)])
def test_processes_together_see_the_batches_of_one(world: int, workers: int) -> None:
    config = dataclasses.replace(CONFIG, batch_size=6)
    parts = [batches_of(config, workers, rank=rank, world=world) for rank in range(world)]
    whole = batches_of(config, 0)
    assert [len(part) for part in parts] == [len(whole)] * world
    for one, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(one[0], torch.cat([piece[0] for piece in pieces]))
        assert torch.equal(one[1], torch.cat([piece[1] for piece in pieces]))
        assert one[2] == [name for piece in pieces for name in piece[2]]


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(ArgumentError, match="batch_size 3 cannot be divided among 2 processes"):
        EpochBatches(9, 4, CONFIG, rank=0, world=2)


@pytest.mark.parametrize("exact", [False, True])
def test_the_exact_order_is_a_setting(exact: bool) -> None:
    config = dataclasses.replace(CONFIG, exact_resize=exact, mix=None, mix_share=0.0)
    one = Noise()[2]
    image, label, _ = TrainingSamples(Noise(), None, config)[3, 5, 0, 2]
    augmentation = Augmentation(
        crop=config.crop, scales=config.scales, continuous=True, brightness=0.2, exact=exact
    )
    want_image, want_label = augmentation(one, generator(config.seed, 3, 5))
    assert np.array_equal(image.numpy(), want_image)
    assert np.array_equal(label.numpy(), subsample(want_label, 4))


def test_an_epoch_is_the_same_whatever_came_before() -> None:
    both, second = batches_of(CONFIG, 0), batches_of(CONFIG, 0, range(1, 2))
    for ours, theirs in zip(both[4:], second, strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_shapes_kinds_and_the_early_crop() -> None:
    early = batches_of(CONFIG, 0, range(1, 2))[0]
    late = batches_of(CONFIG, 0, range(2, 3))[0]
    for (images, labels, names), (height, width) in ((early, (16, 16)), (late, (24, 32))):
        assert images.shape == (3, height, width, 3) and images.dtype == torch.uint8
        assert labels.shape == (3, height // 4, width // 4) and labels.dtype == torch.uint8
        assert len(names) == 3


def test_a_cache_changes_reading_and_not_what_is_read() -> None:
    cached, plain = Noise(), Noise()
    once = TrainingSamples(cached, None, dataclasses.replace(CONFIG, cache=True))
    twice = TrainingSamples(plain, None, CONFIG)
    for epoch in range(2):
        for index in range(9):
            key = (epoch, index, 0, index)
            assert torch.equal(once[key][0], twice[key][0])
    assert set(cached.reads.values()) == {1} and set(plain.reads.values()) == {2}


# What cannot be trained on


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_label_file_is_named_with_or_without_workers(tmp_path: Path, workers: int) -> None:
    Image.fromarray(photo(20, 30)).save(tmp_path / "a.png")
    label = np.zeros((20, 30), np.uint8)
    label[2, 3] = 200
    Image.fromarray(label).save(tmp_path / "mask.png")
    dataset = FileDataset([(tmp_path / "a.png", tmp_path / "mask.png")], generic_labels(3))
    config = TrainConfig(batch_size=1, crop=(8, 8))
    loader = BatchLoader(
        TrainingSamples(dataset, None, config), EpochBatches(1, 0, config), workers
    )
    with pytest.raises(DataError) as caught:
        list(loader)
    assert caught.value.where == str(tmp_path / "mask.png")
    assert caught.value.what == "pixel (3, 2) = 200, allowed 0–2 or 255"


def test_labels_of_a_users_own_data_set_are_checked_too() -> None:
    samples = TrainingSamples(Noise(value=3), None, CONFIG)
    samples[0, 0, 0, 3]
    with pytest.raises(DataError, match=r"noise 4: pixel \(2, 1\) = 3, allowed 0–2 or 255"):
        samples[0, 0, 0, 4]


def test_samples_without_labels_are_named(tmp_path: Path) -> None:
    Image.fromarray(photo(20, 30)).save(tmp_path / "a.png")
    dataset = FileDataset([(tmp_path / "a.png", None)], generic_labels(3))
    with pytest.raises(DataError, match=r"a\.png: this sample has no labels"):
        TrainingSamples(dataset, None, CONFIG)[0, 0, 0, 0]
