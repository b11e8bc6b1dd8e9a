"""``inference.render``: colours, overlay and legend, and confidence pictures."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageFont

from torchseg_zoo.data.label_sets import CAMVID, CITYSCAPES
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.inference import render
from torchseg_zoo.inference.render import colorize, confidence_picture, overlay

GREY = 90
TWO = LabelSet("two", ("left", "right"), ((200, 0, 0), (0, 0, 200)))


def _photo(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def _halves(height: int = 20, width: int = 30) -> np.ndarray:
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return labels


def _legend(labels: np.ndarray, label_set: LabelSet) -> list[tuple[str, str]]:
    return [(entry.name, entry.share) for entry in render._entries(labels, label_set)]


def test_colours_are_those_of_the_classes() -> None:
    labels = np.array([[0, 10, 255], [3, 11, 200]], np.uint8)
    got = colorize(labels, CAMVID)
    assert got.dtype == np.uint8
    assert got.tolist() == [
        [[128, 128, 128], [0, 128, 192], [0, 0, 0]],
        [[128, 64, 128], [0, 0, 0], [0, 0, 0]],
    ]
    np.testing.assert_array_equal(colorize(labels.astype(np.int64), CAMVID), got)


def test_an_ignore_index_within_the_classes_is_not_coloured() -> None:
    label_set = LabelSet("x", ("void", "a"), ((9, 9, 9), (7, 7, 7)), ignore_index=0)
    labels = np.array([[0, 1]], np.uint8)
    assert colorize(labels, label_set).tolist() == [[[0] * 3, [7] * 3]]
    assert _legend(labels, label_set) == [("a", "50.0%"), ("unlabelled", "50.0%")]
    got = np.asarray(overlay(_photo(1, 2), labels, label_set, legend=False))
    assert got[0, 0].tolist() == [GREY] * 3


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_regions_are_blended_by_alpha(alpha: float) -> None:
    got = np.asarray(overlay(_photo(20, 30), _halves(), TWO, alpha=alpha, legend=False))
    for column, color in ((5, (200, 0, 0)), (25, (0, 0, 200))):
        want = GREY * (1 - alpha) + np.array(color) * alpha
        assert np.abs(got[10, column] - want).max() <= 1
    if alpha == 0:
        np.testing.assert_array_equal(got, _photo(20, 30))
    if alpha == 1:
        np.testing.assert_array_equal(got, colorize(_halves(), TWO))


def test_black_and_white_do_not_overflow() -> None:
    label_set = LabelSet("x", ("w", "b"), ((255, 255, 255), (0, 0, 0)))
    for value in (0, 255):
        photo = np.full((20, 30, 3), value, np.uint8)
        got = np.asarray(overlay(photo, _halves(), label_set, legend=False)).astype(int)
        assert abs(got[10, 5, 0] - (255 + value) / 2) <= 1
        assert abs(got[10, 25, 0] - value / 2) <= 1


def test_borders_are_thin_and_stronger_than_the_regions() -> None:
    got = np.asarray(overlay(_photo(20, 30), _halves(), TWO, legend=False)).astype(int)
    plain = got[10, 5]
    np.testing.assert_array_equal(got[:, :14], np.broadcast_to(plain, (20, 14, 3)))
    for column, color in ((14, (200, 0, 0)), (15, (0, 0, 200))):
        edge = got[10, column]
        assert (
            np.abs(edge - color).sum()
            < np.abs(got[10, column - 9 + 18 * (column - 14)] - color).sum()
        )
    np.testing.assert_array_equal(got[:, 16:], np.broadcast_to(got[10, 25], (20, 14, 3)))


def test_no_border_without_a_second_label() -> None:
    got = np.asarray(overlay(_photo(9, 9), np.zeros((9, 9), np.uint8), TWO, legend=False))
    assert len(np.unique(got.reshape(-1, 3), axis=0)) == 1


def test_the_photo_shows_through_where_nothing_is_known() -> None:
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (20, 30, 3), np.uint8)
    labels = _halves()
    labels[:, :10] = 255
    labels[:5] = 77  # no such class
    got = np.asarray(overlay(photo, labels, TWO))[:20, :30]
    unknown = labels > 1
    np.testing.assert_array_equal(got[unknown], photo[unknown])
    assert (got[~unknown] != photo[~unknown]).any(axis=1).all()


def test_the_result_does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (50, 40, 3), np.uint8)
    labels = np.kron(rng.integers(0, 3, (10, 8)), np.ones((5, 5), int)).astype(np.uint8)
    whole = np.asarray(overlay(photo, labels, TWO))
    for rows in (1, 7, 49):
        monkeypatch.setattr(render, "_BLOCK_PX", rows * 40)
        np.testing.assert_array_equal(np.asarray(overlay(photo, labels, TWO)), whole)


def test_thick_borders_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((2100, 2100), np.uint8)
    labels[1000:, 1000:] = 1
    photo = np.zeros((2100, 2100, 3), np.uint8)
    whole = np.asarray(overlay(photo, labels, TWO, legend=False))
    assert len(np.unique(whole[2000, 990:1010], axis=0)) == 4
    edge = np.flatnonzero(whole[2000, :, 0] == whole[2000, 999, 0])
    assert edge.tolist() == [997, 998, 999]  # 2100 / 700 pixels on either side
    monkeypatch.setattr(render, "_BLOCK_PX", 2100 * 333)
    np.testing.assert_array_equal(np.asarray(overlay(photo, labels, TWO, legend=False)), whole)


def test_the_input_is_left_alone() -> None:
    photo, labels = _photo(20, 30), _halves()
    overlay(photo, labels, TWO)
    np.testing.assert_array_equal(photo, _photo(20, 30))
    np.testing.assert_array_equal(labels, _halves())


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 4096), (4096, 1), (2, 3), (720, 960), (100, 3000), (37, 53)]
)
@pytest.mark.parametrize("count", [1, 2, 19, 256])
def test_the_picture_keeps_its_size_at_the_top_left(size: tuple[int, int], count: int) -> None:
    height, width = size
    labels = (np.arange(height * width).reshape(size) % count).astype(np.uint8)
    label_set = generic_labels(count)
    bare = overlay(_photo(height, width), labels, label_set, legend=False)
    assert bare.size == (width, height)
    assert bare.mode == "RGB"
    full = overlay(_photo(height, width), labels, label_set)
    assert full.mode == "RGB"
    assert full.width >= max(width, 200)
    assert full.width == width or width < 400
    assert full.height > height
    np.testing.assert_array_equal(np.asarray(full.crop((0, 0, width, height))), np.asarray(bare))
    beside = np.asarray(full)[:height, width:]
    assert (beside == 255).all()


def test_nothing_of_the_legend_is_cut_off() -> None:
    names = (
        "short",
        "a class whose name is far longer than any strip could ever be " * 3,
        "g" * 40,
    )
    label_set = LabelSet("x", names, ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    for size in ((8, 8), (300, 500)):
        labels = (np.arange(size[0] * size[1]).reshape(size) % 3).astype(np.uint8)
        strip = np.asarray(overlay(_photo(*size), labels, label_set))[size[0] :]
        frame = np.concatenate([strip[:5].reshape(-1, 3), strip[-5:].reshape(-1, 3)])
        assert (frame == 255).all()
        assert (strip[:, :5] == 255).all()
        assert (strip[:, -5:] == 255).all()
        assert (strip < 128).any()


def test_every_colour_present_is_in_the_legend_and_no_other() -> None:
    labels = np.zeros((90, 160), np.uint8)
    for index in range(1, 8):
        labels[:, index * 20 :] = index
    strip = np.asarray(overlay(_photo(90, 160), labels, CITYSCAPES))[90:]
    found = {tuple(color) for color in strip.reshape(-1, 3).tolist()}
    assert found.issuperset(CITYSCAPES.palette[:8])
    assert not found & set(CITYSCAPES.palette[8:])


def test_the_legend_is_sorted_and_adds_up() -> None:
    labels = np.full((10, 10), 2, np.uint8)
    labels[0, :] = 0
    labels[1:4, :] = 10
    labels[4, :5] = 255
    assert _legend(labels, CAMVID) == [
        ("pole", "55.0%"),
        ("bicyclist", "30.0%"),
        ("sky", "10.0%"),
        ("unlabelled", "5.0%"),
    ]


def test_small_classes_share_one_line() -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[0, :3] = (4, 5, 6)
    assert _legend(labels, CAMVID) == [("sky", "100.0%"), ("3 more", "<0.1%")]
    labels[0, 1:3] = 0
    assert _legend(labels, CAMVID) == [("sky", "100.0%"), ("pavement", "<0.1%")]
    labels[0, :5] = 4
    assert _legend(labels, CAMVID) == [("sky", "100.0%"), ("pavement", "0.1%")]


def test_a_picture_of_small_classes_only_has_a_legend() -> None:
    labels = np.full((300, 300), 255, np.uint8)
    labels[0, 0] = 3
    assert _legend(labels, CAMVID) == [("road", "<0.1%"), ("unlabelled", "100.0%")]
    labels[0, 0] = 255
    assert _legend(labels, CAMVID) == [("unlabelled", "100.0%")]
    assert overlay(_photo(300, 300), labels, CAMVID).height > 300


def test_equal_shares_keep_the_order_of_the_classes() -> None:
    labels = np.arange(8, dtype=np.uint8).reshape(2, 4)
    assert [name for name, _ in _legend(labels, CAMVID)] == list(CAMVID.classes[:8])


@pytest.mark.parametrize(
    "name", ["", " ", "two\nlines", "日本", "Bäume", "a\tb", "\ud800", "e\u0301"]
)
@pytest.mark.parametrize("freetype", [True, False])
def test_any_class_name_can_be_drawn(
    name: str, freetype: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not freetype:
        _without_freetype(monkeypatch)
    label_set = LabelSet("x", (name, "b"), ((1, 1, 1), (2, 2, 2)))
    assert overlay(_photo(20, 30), _halves(), label_set).height > 20


def test_accents_are_dropped_rather_than_drawn_as_boxes() -> None:
    font, _ = render._font(13)
    assert render._shortened(font, "Bäume  an der\nStraße", 1000) == "Baume an der Strasse"
    assert render._shortened(font, "日本", 1000) == "??"
    short = render._shortened(font, "vegetation", 50)
    assert re.fullmatch(r"ve\w*\.\.\.", short)
    assert font.getlength(short) <= 50


def _without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(size: float | None = None) -> None:
        raise ImportError("The _imagingft C module is not installed")

    monkeypatch.setattr(ImageFont, "load_default", missing)


def test_a_pillow_without_freetype_draws_a_legend_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_freetype(monkeypatch)
    full = overlay(_photo(300, 400), _halves(300, 400), TWO)
    assert full.size[0] == 400
    assert (np.asarray(full)[300:] < 128).any()


def test_overlay_takes_what_as_rgb_takes() -> None:
    want = np.asarray(overlay(_photo(20, 30), _halves(), TWO))
    for image in (Image.fromarray(_photo(20, 30)), _photo(20, 30)[:, :, 0], _photo(20, 30) / 255):
        np.testing.assert_array_equal(np.asarray(overlay(image, _halves(), TWO)), want)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.zeros((30, 20), np.uint8), "20×30 but the label map 30×20"),
        (np.zeros((1, 20, 30), np.uint8), "integers"),
        (np.zeros((20, 30), np.float32), "integers"),
        (np.zeros((20, 30), np.bool_), "integers"),
        (np.full((20, 30), 256), "from 256 to 256"),
        (np.full((20, 30), -1), "from -1 to -1"),
        ([[0]], "got a list"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        overlay(_photo(20, 30), labels, TWO)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(ArgumentError, match="alpha"):
        overlay(_photo(20, 30), _halves(), TWO, alpha=alpha)


def test_empty_maps_are_refused() -> None:
    with pytest.raises(DataError, match="no pixels"):
        colorize(np.zeros((0, 4), np.uint8), TWO)
    with pytest.raises(DataError, match="no pixels"):
        confidence_picture(np.zeros((4, 0), np.float32))


def test_confidence_is_grey() -> None:
    confidence = np.array([[0, 0.5, 1], [1e-9, 0.2, 1.0000002]], np.float32)
    got = confidence_picture(confidence)
    assert got.dtype == np.uint8
    assert got.tolist() == [[0, 128, 255], [0, 51, 255]]
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert confidence_picture(ramp)[0].tolist() == list(range(256))
    assert confidence_picture(ramp.astype(np.float16)).shape == (1, 256)


@pytest.mark.parametrize(
    ("confidence", "match"),
    [
        (np.full((2, 2), 1.1, np.float32), "logits"),
        (np.full((2, 2), -3.0, np.float32), "logits"),
        (np.full((2, 2), np.nan, np.float32), "logits"),
        (np.zeros((2, 2), np.uint8), "float"),
        (np.zeros((1, 2, 2), np.float32), "float"),
        (None, "got a NoneType"),
    ],
)
def test_confidences_that_are_none_are_refused(confidence: np.ndarray, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        confidence_picture(confidence)
