"""``data.transforms``: parity with TorchSeg's pipeline, windows, and plans that are pure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import procedural
from golden.reading import arrays_of, record_of

from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.data.sample import Sample
from torchseg_zoo.data.transforms import (
    Augmentation,
    crop_and_pad,
    generator,
    mirror,
    resize_image,
    resize_label,
    subsample,
)
from torchseg_zoo.errors import ArgumentError

PHOTO = procedural.uint8_image(40, 50, "pipe/photo")
LABEL = procedural.label_map(40, 50, 21, "pipe/label").astype(np.uint8)
SCALES = ("0.5", "0.75", "1.25", "1.5", "1.75", "2")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return arrays_of("torchseg/pipeline")


def sample(height: int = 23, width: int = 31, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(
        "noise",
        rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        rng.integers(0, 5, (height, width)).astype(np.uint8),
    )


# Parity with the original


def test_mirror_is_the_originals(arrays: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(mirror(PHOTO), arrays["pipe_mirror_img"])
    np.testing.assert_array_equal(mirror(LABEL), arrays["pipe_mirror_gt"])


@pytest.mark.parametrize("scale", SCALES)
def test_scaling_is_the_originals(arrays: dict[str, np.ndarray], scale: str) -> None:
    want, want_label = arrays[f"pipe_scale{scale}_img"], arrays[f"pipe_scale{scale}_gt"]
    size = want_label.shape
    # OpenCV interpolates with weights of 11 bits; ours are exact, hence the one level.
    difference = np.abs(resize_image(PHOTO, size).astype(int) - want)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.25
    np.testing.assert_array_equal(resize_label(LABEL, size), want_label)


@pytest.mark.parametrize("scale", SCALES)
def test_the_scaled_size_is_the_originals(arrays: dict[str, np.ndarray], scale: str) -> None:
    augmentation = Augmentation(crop=(8, 8), scales=(float(scale),))
    plan = augmentation.plan((40, 50), generator(0, 0, 0))
    assert plan.scaled == arrays[f"pipe_scale{scale}_gt"].shape


@pytest.mark.parametrize("index", range(4))
def test_crop_and_padding_are_the_originals(arrays: dict[str, np.ndarray], index: int) -> None:
    case = record_of("torchseg/pipeline")["crop"][index]
    origin, size = tuple(case["pos"]), tuple(case["size"])
    image = crop_and_pad(Preprocess().array(PHOTO), origin, size, 0.0)
    np.testing.assert_allclose(image, arrays[f"crop{index}_img"], atol=1e-6)
    label = crop_and_pad(LABEL, origin, size, 255)
    np.testing.assert_array_equal(label, arrays[f"crop{index}_gt"])
    top, bottom, left, right = case["margin"]
    if any(case["margin"]):  # the cases are about where the padding is; let no case be empty
        inner = label[top : size[0] - bottom, left : size[1] - right]
        assert label.size > inner.size
        assert (image[:top] == 0).all() and (label[size[0] - bottom :] == 255).all()


# Resizing


@pytest.mark.parametrize(
    ("source", "target"),
    [((7, 5), (20, 11)), ((20, 31), (9, 13)), ((1, 1), (4, 3)), ((3, 9), (1, 1))],
)
def test_linear_resize_is_interpolates(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = sample(*source).image
    x = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    want = F.interpolate(x, target, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    difference = resize_image(image, target).astype(float) - want.numpy()
    assert np.abs(difference).max() <= 0.5 + 1e-3  # rounding, and nothing else


@pytest.mark.parametrize("size", [(7, 40), (23, 31), (50, 9), (1, 1), (64, 64)])
def test_a_window_is_what_cropping_the_whole_would_give(size: tuple[int, int]) -> None:
    one = sample()
    assert one.label is not None
    image, label = resize_image(one.image, size), resize_label(one.label, size)
    rng = np.random.default_rng(1)
    for _ in range(20):
        row, column = (int(rng.integers(0, side)) for side in size)
        height, width = (int(rng.integers(1, side + 5)) for side in size)
        window = (row, column, height, width)
        cut = np.s_[row : row + height, column : column + width]
        np.testing.assert_array_equal(resize_image(one.image, size, window), image[cut])
        np.testing.assert_array_equal(resize_label(one.label, size, window), label[cut])


def test_labels_are_chosen_and_never_mixed() -> None:
    label = np.array([[0, 200]], np.uint8)
    assert set(np.unique(resize_label(label, (5, 9)))) == {0, 200}


def test_an_odd_rest_of_padding_goes_to_the_bottom_and_right() -> None:
    padded = crop_and_pad(np.ones((2, 3), np.uint8), (0, 0), (5, 6), 9)
    want = np.full((5, 6), 9)
    want[1:3, 1:4] = 1
    np.testing.assert_array_equal(padded, want)


# Augmentation


def test_plans_depend_on_seed_epoch_and_index_alone() -> None:
    augmentation = Augmentation(crop=(16, 16), scales=(0.5, 1.0, 2.0), brightness=0.3)
    plans = {
        key: augmentation.plan((40, 50), generator(*key))
        for key in [(s, e, i) for s in range(2) for e in range(2) for i in range(40)]
    }
    np.random.default_rng(3).random(10)
    torch.rand(5)
    for key, plan in reversed(plans.items()):
        assert augmentation.plan((40, 50), generator(*key)) == plan
    assert len(set(plans.values())) > 155  # 160 draws; flip, scale, place and light rarely agree
    assert generator(0, 1, 2).random() != generator(0, 2, 1).random()


def test_plans_use_their_whole_range() -> None:
    augmentation = Augmentation(crop=(16, 16), scales=(0.5, 1.0, 2.0), brightness=0.3)
    plans = [augmentation.plan((40, 50), generator(0, 0, i)) for i in range(1500)]
    flips = np.mean([plan.flip for plan in plans])
    assert 0.45 < flips < 0.55
    sizes = [plan.scaled for plan in plans]
    assert set(sizes) == {(20, 25), (40, 50), (80, 100)}
    assert all(0.28 < sizes.count(size) / 1500 < 0.39 for size in set(sizes))
    gains = [plan.gain for plan in plans]
    assert 0.7 <= min(gains) < 0.71 and 1.29 < max(gains) <= 1.3
    for size in set(sizes):
        origins = np.array([plan.origin for plan in plans if plan.scaled == size])
        assert origins.min() == 0
        assert tuple(origins.max(0)) <= (size[0] - 16, size[1] - 16)
    small = np.array([plan.origin for plan in plans if plan.scaled == (20, 25)])
    assert tuple(small.max(0)) == (4, 9)  # the last place is reached, too


def test_continuous_scales_fill_the_interval() -> None:
    augmentation = Augmentation(crop=(8, 8), scales=(0.5, 2.0), continuous=True)
    heights = [augmentation.plan((100, 100), generator(0, 0, i)).scaled[0] for i in range(400)]
    assert 50 <= min(heights) < 53 and 196 < max(heights) <= 200
    assert len(set(heights)) > 80


def test_what_is_switched_off_stays_off() -> None:
    augmentation = Augmentation(crop=(23, 31), mirror=False)
    one = sample()
    for index in range(20):
        image, label = augmentation(one, generator(0, 0, index))
        np.testing.assert_array_equal(image, one.image)
        np.testing.assert_array_equal(label, one.label)


@pytest.mark.parametrize("crop", [(16, 16), (60, 16), (60, 80)])
def test_exact_is_mirror_resize_crop_pad_in_that_order(crop: tuple[int, int]) -> None:
    augmentation = Augmentation(crop=crop, scales=(0.5, 1.75), brightness=0.5, exact=True)
    one = sample()
    assert one.label is not None
    for index in range(12):
        plan = augmentation.plan((23, 31), generator(9, 1, index))
        image, label = one.image, one.label
        if plan.flip:
            image, label = image[:, ::-1], label[:, ::-1]
        image, label = resize_image(image, plan.scaled), resize_label(label, plan.scaled)
        lit = np.minimum(np.floor(image * plan.gain + 0.5), 255).astype(np.uint8)
        fill = np.array(augmentation.fill, np.uint8)
        got_image, got_label = augmentation(one, generator(9, 1, index))
        np.testing.assert_array_equal(got_image, crop_and_pad(lit, plan.origin, crop, fill))
        np.testing.assert_array_equal(got_label, crop_and_pad(label, plan.origin, crop, 255))
        assert got_image.dtype == got_label.dtype == np.uint8


def ramp(height: int, width: int) -> Sample:
    """Every pixel says where it is: rows in red, columns in green; labels say the row."""
    row, column = np.mgrid[0:height, 0:width].astype(np.uint8)
    return Sample("ramp", np.stack([row * 3, column * 2, row], axis=2), row)


@pytest.mark.parametrize("crop", [(16, 24), (90, 24), (90, 200)])
def test_cutting_first_is_within_a_pixel_of_the_exact_order(crop: tuple[int, int]) -> None:
    one = ramp(70, 110)
    options = {"crop": crop, "scales": (0.4, 2.5), "continuous": True}
    cut_first, exact = Augmentation(**options), Augmentation(**options, exact=True)
    for index in range(60):
        image, label = cut_first(one, generator(2, 0, index))
        want_image, want_label = exact(one, generator(2, 0, index))
        assert image.shape == want_image.shape and image.dtype == label.dtype == np.uint8
        # The same pixels are padding; one source pixel is 3 levels of red and 2 of green.
        np.testing.assert_array_equal(label == 255, want_label == 255)
        inside = label != 255
        difference = np.abs(image.astype(int) - want_image)[inside]
        assert tuple(difference.max(0)) <= (3 + 1, 2 + 1, 1 + 1)
        assert np.abs(label.astype(int) - want_label)[inside].max() <= 2
        # Picture and labels stay on each other: blue and label are both the source's row.
        assert np.abs(image[inside][:, 2].astype(int) - label[inside]).max() <= 1


def test_light_is_the_rounded_product() -> None:
    augmentation = Augmentation(crop=(23, 31), mirror=False, brightness=0.5)
    one = sample()
    for index in range(5):
        plan = augmentation.plan((23, 31), generator(4, 0, index))
        lit = np.minimum(np.floor(one.image * plan.gain + 0.5), 255)
        image, _ = augmentation(one, generator(4, 0, index))
        np.testing.assert_array_equal(image, lit)


@pytest.mark.parametrize("exact", [False, True])
def test_tiny_pictures_survive_small_scales(exact: bool) -> None:
    augmentation = Augmentation(crop=(4, 4), scales=(0.1,), exact=exact)
    image, label = augmentation(sample(1, 3), generator(0, 0, 0))
    assert image.shape == (4, 4, 3)
    assert (label != 255).sum() == 1


def test_the_fill_is_the_mean_colour_and_so_almost_zero() -> None:
    fill = np.array([[Augmentation(crop=(1, 1)).fill]], np.uint8)
    assert np.abs(Preprocess().array(fill)).max() < 0.01


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"crop": (0, 8)}, "crop"),
        ({"crop": (8, 8), "scales": ()}, "scales"),
        ({"crop": (8, 8), "scales": (1.0, -1.0)}, "scales"),
        ({"crop": (8, 8), "brightness": 1.0}, "brightness"),
    ],
)
def test_augmentations_that_cannot_work(options: dict[str, object], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        Augmentation(**options)  # type: ignore[arg-type]


# Labels at a stride


def test_subsampled_labels_are_the_originals_every_other() -> None:
    label = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert subsample(label, 1) is label
    np.testing.assert_array_equal(subsample(label, 4, aligned=False), [[0, 4], [32, 36]])


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (8, 8)])
def test_aligned_labels_are_where_an_aligned_resize_puts_the_corners(size: tuple[int, int]) -> None:
    label = np.arange(size[0] * size[1], dtype=np.int64).reshape(size)
    kept = subsample(label, 4)
    assert kept.shape == (-(-size[0] // 4), -(-size[1] // 4))
    assert kept[0, 0] == label[0, 0] and kept[-1, -1] == label[-1, -1]
    assert kept[0, -1] == label[0, -1] and kept[-1, 0] == label[-1, 0]
