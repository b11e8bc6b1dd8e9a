"""``data.label_map``: label maps are read as the numbers stored, checked and mapped."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from pictures import chunk, png
from PIL import Image

from torchseg_zoo.data.image import (
    read_image,
)
from torchseg_zoo.data.label_map import check_label_values, read_label, to_train_ids
from torchseg_zoo.data.label_sets import CAMVID, CITYSCAPES
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.errors import ArgumentError, DataError

INDICES = np.array([[0, 1, 2, 3], [10, 0, 255, 1], [3, 2, 1, 0]], np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_palette_labels_are_indices_not_colours(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(INDICES)
    picture.putpalette(CAMVID.palette_array().tobytes())
    picture.save(tmp_path / name)
    got = read_label(tmp_path / name)
    assert got.dtype == np.uint8 and got.flags.c_contiguous and got.flags.writeable
    np.testing.assert_array_equal(got, INDICES)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
def test_grey_labels_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    Image.fromarray(INDICES).save(tmp_path / name)
    np.testing.assert_array_equal(read_label(tmp_path / name), INDICES)


def test_labels_of_few_bits_are_not_stretched(tmp_path: Path) -> None:
    want = np.array([[0, 1, 2, 3]], np.uint8)
    (tmp_path / "two.png").write_bytes(png(4, 1, 2, 0, b"\0" + bytes([0b00011011])))
    np.testing.assert_array_equal(read_label(tmp_path / "two.png"), want)
    (tmp_path / "four.png").write_bytes(png(4, 1, 4, 0, b"\0\x01\x9f"))
    np.testing.assert_array_equal(read_label(tmp_path / "four.png"), [[0, 1, 9, 15]])
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label(tmp_path / "one.png"), [[1, 0, 1]])
    palette = chunk(b"PLTE", bytes(range(48)))
    for depth, row in ((2, bytes([0b00011011])), (4, b"\x01\x23")):
        (tmp_path / "p.png").write_bytes(png(4, 1, depth, 3, b"\0" + row, palette[:]))
        np.testing.assert_array_equal(read_label(tmp_path / "p.png"), want)
    # A four-bit TIFF by hand: width 4, height 1, BlackIsZero, one strip.
    tags = [
        (256, 4),
        (257, 1),
        (258, 4),
        (259, 1),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, 1),
        (279, 2),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    (tmp_path / "four.tif").write_bytes(tiff.ljust(200, b"\0") + b"\x01\x9f")
    np.testing.assert_array_equal(read_label(tmp_path / "four.tif"), [[0, 1, 9, 15]])


def test_wide_labels_are_taken_if_they_fit(tmp_path: Path) -> None:
    for name, kind in {"a.png": "u2", "a.tif": "<u2", "b.tif": ">u2", "c.tif": "i4"}.items():
        Image.fromarray(INDICES.astype(kind)).save(tmp_path / name)
        np.testing.assert_array_equal(read_label(tmp_path / name), INDICES, err_msg=name)
        wide = INDICES.astype(kind)
        wide[1, 1] = 256
        Image.fromarray(wide).save(tmp_path / name)
        with pytest.raises(DataError, match="run from 0 to 256, allowed are 0–255"):
            read_label(tmp_path / name)


def test_equal_channels_are_grey_and_colours_are_refused(tmp_path: Path) -> None:
    rgb = np.stack([INDICES] * 3, axis=2)
    opaque = np.dstack([rgb, np.full(INDICES.shape, 255, np.uint8)])
    for name, array in {"rgb": rgb, "rgba": opaque, "la": opaque[:, :, 2:]}.items():
        Image.fromarray(np.ascontiguousarray(array)).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_label(tmp_path / f"{name}.png"), INDICES)
    rgb[2, 3] = (128, 64, 128)
    opaque[2, 3, :3] = (128, 64, 128)
    for array in (rgb, opaque):
        Image.fromarray(array).save(tmp_path / "bad.png")
        with pytest.raises(DataError, match=r"pixel \(3, 2\) is \(128, 64, 128\).*convert its col"):
            read_label(tmp_path / "bad.png")
    opaque[2, 3] = (0, 0, 0, 254)
    for array in (opaque, opaque[:, :, 2:]):
        Image.fromarray(np.ascontiguousarray(array)).save(tmp_path / "bad.png")
        with pytest.raises(DataError, match="transparent"):
            read_label(tmp_path / "bad.png")


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("a.jpg", {"quality": 100}, "lossy compression"),
        ("a.webp", {}, "lossy compression"),
        ("a.jp2", {}, "lossy compression"),
        ("a.tif", {"compression": "jpeg"}, "lossy compression"),
        ("a.gif", {}, "renumber"),
        ("a.pgm", {}, "stretched"),
    ],
)
def test_formats_that_change_labels_are_refused_with_the_reason(
    tmp_path: Path, name: str, options: dict[str, object], why: str
) -> None:
    Image.fromarray(INDICES).save(tmp_path / name, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"{why}.* as PNG"):
        read_label(tmp_path / name)


def test_labels_of_other_modes_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (2, 2)).save(tmp_path / "cmyk.tif")
    Image.new("F", (2, 2)).save(tmp_path / "f.tif")
    for name in ("cmyk.tif", "f.tif"):
        with pytest.raises(DataError, match="cannot be of mode"):
            read_label(tmp_path / name)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_turn_with_their_pictures(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    for name in ("a.png", "a.tif"):
        Image.fromarray(INDICES).save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(
            read_label(tmp_path / name), read_image(tmp_path / name)[:, :, 0]
        )


def test_read_label_can_check_the_values(tmp_path: Path) -> None:
    Image.fromarray(INDICES).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png", num_classes=11), INDICES)
    with pytest.raises(DataError, match=r"a\.png: pixel \(0, 1\) = 10, allowed 0–9 or 255"):
        read_label(tmp_path / "a.png", num_classes=10)


def test_stray_values_are_named_and_counted() -> None:
    label = np.zeros((4, 5), np.uint8)
    label[0, 0] = 255
    check_label_values(label, CAMVID, where="mask.png")
    label[2, 3] = 200
    label[3, :3] = 12
    with pytest.raises(DataError) as caught:
        check_label_values(label, CAMVID, where=Path("mask.png"))
    error = caught.value
    assert error.where == "mask.png"
    assert error.what == "pixel (3, 2) = 200, allowed 0–10 or 255"
    assert error.why == "stray values: 12 (3 px), 200 (1 px)"
    assert error.fix and "check-data" in error.fix


def test_at_most_five_stray_values_are_listed() -> None:
    label = np.arange(256, dtype=np.uint8).reshape(16, 16)
    with pytest.raises(DataError, match=r"19 \(1 px\), .*, 23 \(1 px\) and 231 more") as caught:
        check_label_values(label, CITYSCAPES, where="a")
    assert "24 (" not in str(caught.value)


def test_labels_that_start_at_one_are_recognised() -> None:
    with pytest.raises(DataError, match="seem to start at 1"):
        check_label_values(np.array([[1, 2, 3]], np.uint8), generic_labels(3), where="a")


def test_another_ignore_index_and_256_classes() -> None:
    labels = LabelSet("two", ("a", "b"), ((0, 0, 0), (1, 1, 1)), ignore_index=9)
    check_label_values(np.array([[0, 1, 9]], np.uint8), labels, where="a")
    with pytest.raises(DataError, match="= 255, allowed 0–1 or 9"):
        check_label_values(np.array([[0, 255]], np.uint8), labels, where="a")
    everything = np.arange(256, dtype=np.uint8).reshape(16, 16)
    check_label_values(everything, generic_labels(256), where="a")


def test_counts_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.full((7, 11), 30, np.uint8)
    monkeypatch.setattr("torchseg_zoo.data.label_map._BLOCK_PX", 10)
    with pytest.raises(DataError, match=r"30 \(77 px\)"):
        check_label_values(label, CAMVID, where="a")


@pytest.mark.parametrize(
    "label",
    [np.zeros((2, 2), np.int64), np.zeros((1, 2, 2), np.uint8), [[0]], np.zeros(3, np.uint8)],
)
def test_label_functions_want_bytes_in_two_dimensions(label: np.ndarray) -> None:
    for call in (
        lambda: check_label_values(label, CAMVID, where="a"),
        lambda: to_train_ids(label, CAMVID),
    ):
        with pytest.raises(ArgumentError, match=r"pass \(H, W\) uint8"):
            call()


def test_raw_ids_become_train_ids() -> None:
    raw = np.array([[7, 8, 33, 0, 26, 255]], np.uint8)
    assert to_train_ids(raw, CITYSCAPES).tolist() == [[0, 1, 18, 255, 13, 255]]
    assert to_train_ids(np.array([[11, 10]], np.uint8), CAMVID).tolist() == [[255, 10]]
    unchanged = to_train_ids(raw, generic_labels(5))
    np.testing.assert_array_equal(unchanged, raw)


def test_raw_ids_outside_a_byte() -> None:
    colors = ((0, 0, 0), (1, 1, 1))
    labels = LabelSet("x", ("a", "b"), colors, raw_ids={-1: 0, 300: 1, 4: 1})
    assert to_train_ids(np.array([[4, 255, 44]], np.uint8), labels).tolist() == [[1, 255, 255]]
    labels = LabelSet("x", ("a", "b"), colors, ignore_index=-100, raw_ids={4: 1})
    with pytest.raises(ArgumentError, match="cannot store -100"):
        to_train_ids(np.array([[4]], np.uint8), labels)
