"""Drawn streets: pure in their seed, labelled throughout, and roughly shaped like CamVid."""

from __future__ import annotations

import numpy as np
import pytest

from torchseg_zoo.data.datasets.drawn import EXAMPLE_SEED, DrawnStreets, draw_street
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.sample import Sample
from torchseg_zoo.errors import ArgumentError

SMALL = (90, 120)
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    dataset = DrawnStreets(30, size=(180, 240))
    return [dataset[index] for index in range(len(dataset))]


def shares(label: np.ndarray) -> np.ndarray:
    return np.bincount(label.ravel(), minlength=11) / label.size


def test_a_seed_gives_the_same_scene_whatever_was_drawn_before() -> None:
    image, label = draw_street(5, SMALL)
    draw_street(6, SMALL)
    again, label_again = draw_street(5, SMALL)
    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)


def test_seeds_give_different_scenes() -> None:
    pictures = {draw_street(seed, SMALL)[0].tobytes() for seed in range(8)}
    assert len(pictures) == 8


@pytest.mark.parametrize("size", [(32, 32), (32, 200), (200, 32), (160, 90), (91, 121), (360, 480)])
def test_any_size_is_labelled_throughout(size: tuple[int, int]) -> None:
    for seed in range(4):
        image, label = draw_street(seed, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8
        assert label.max() < CAMVID.num_classes
        assert image.flags.c_contiguous and label.flags.c_contiguous
        assert np.ptp(image) > 60


def test_a_scene_keeps_its_plan_at_another_size() -> None:
    for seed in range(8):
        large, small = draw_street(seed, (240, 320))[1], draw_street(seed, (120, 160))[1]
        assert np.abs(shares(large) - shares(small)).max() < 0.05
        assert (large[::2, ::2] == small).mean() > 0.85


def test_every_class_appears_and_shares_are_those_of_a_street(scenes: list[Sample]) -> None:
    share = np.mean([shares(scene.label) for scene in scenes if scene.label is not None], axis=0)
    assert (share > 0.0005).all()
    wide = {
        SKY: (0.08, 0.28),
        BUILDING: (0.12, 0.35),
        ROAD: (0.22, 0.40),
        PAVEMENT: (0.03, 0.14),
        TREE: (0.05, 0.20),
        CAR: (0.03, 0.15),
    }
    for index, (low, high) in wide.items():
        assert low < share[index] < high, CAMVID.classes[index]
    for index in (POLE, SIGN, FENCE, PEDESTRIAN, BICYCLIST):
        assert share[index] < 0.06, CAMVID.classes[index]


def test_sky_is_above_and_road_below(scenes: list[Sample]) -> None:
    for scene in scenes:
        assert scene.label is not None
        height = scene.label.shape[0]
        sky_rows, road_rows = (np.nonzero(scene.label == index)[0] for index in (SKY, ROAD))
        assert sky_rows.max() < 0.6 * height
        assert road_rows.min() > 0.38 * height  # no horizon is above 0.42
        assert (scene.label[-1] == ROAD).mean() > 0.2


def test_picture_and_labels_show_the_same_shapes(scenes: list[Sample]) -> None:
    inside, across = [], []
    for scene in scenes:
        assert scene.label is not None
        sky = scene.image[scene.label == SKY].mean()
        rest = scene.image[scene.label != SKY].mean()
        assert sky > rest + 30
        grey = scene.image.mean(axis=2)
        step = np.abs(np.diff(grey, axis=1))
        border = scene.label[:, 1:] != scene.label[:, :-1]
        across.append(step[border].mean())
        inside.append(step[~border].mean())
        # A label map that is off by a few pixels has its borders where the picture is smooth.
        shifted = np.roll(border, 5, axis=1)
        assert step[border].mean() > 1.5 * step[shifted & ~border].mean()
    assert np.mean(across) > 4 * np.mean(inside)


def test_the_data_set_holds_named_samples_and_ends() -> None:
    dataset = DrawnStreets(3, seed=7, size=SMALL)
    assert len(dataset) == 3
    assert dataset.labels is CAMVID
    names = [dataset[index].name for index in range(3)]
    assert names == ["street-14000000", "street-14000002", "street-14000004"]
    assert dataset[-1].name == names[-1]
    image, label = draw_street(14000002, SMALL)
    sample = dataset[1]
    assert sample.label is not None
    assert np.array_equal(sample.image, image)
    assert np.array_equal(sample.label, label)
    for index in (3, -4):
        with pytest.raises(IndexError):
            dataset[index]


def test_no_data_set_draws_the_example_or_a_scene_of_another_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []

    def note(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        drawn.append(seed)
        return np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)

    monkeypatch.setattr("torchseg_zoo.data.datasets.drawn.draw_street", note)
    for seed in range(4):
        dataset = DrawnStreets(1_000_000, seed=seed, size=SMALL)
        for index in (*range(1200), 499_999, 999_999):
            dataset[index]
    assert EXAMPLE_SEED % 2 == 1
    assert not any(scene % 2 for scene in drawn)
    assert len(set(drawn)) == len(drawn)


def test_the_example_shows_what_a_reader_wants_to_see() -> None:
    share = shares(draw_street(EXAMPLE_SEED)[1])
    for index in (SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR):
        assert share[index] > 0.03, CAMVID.classes[index]
    assert share[POLE] > 0.004
    assert share[SIGN] > 0.002
    assert share[PEDESTRIAN] + share[BICYCLIST] > 0.006


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (0, 0)])
def test_small_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ArgumentError, match="32"):
        draw_street(0, size)
    with pytest.raises(ArgumentError, match="32"):
        DrawnStreets(size=size)


@pytest.mark.parametrize("length", [0, -1, 1_000_001])
def test_lengths_out_of_range_are_refused(length: int) -> None:
    with pytest.raises(ArgumentError, match="length"):
        DrawnStreets(length)


def test_negative_seeds_are_refused() -> None:
    with pytest.raises(ArgumentError, match="seed"):
        DrawnStreets(seed=-1)
    with pytest.raises(ArgumentError, match="seed"):
        draw_street(-1)
