"""``data.image``: every kind of picture and label file, the good, the odd and the hostile."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from torchseg_zoo.data.image import (
    IMAGE_SUFFIXES,
    as_rgb,
    check_label_values,
    list_images,
    read_image,
    read_label,
    to_train_ids,
    write_png,
)
from torchseg_zoo.data.labels import CAMVID, CITYSCAPES, LabelSet, generic_labels
from torchseg_zoo.errors import ArgumentError, DataError

PNG_START = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", zlib.compress(rows))]
    return PNG_START + b"".join(parts) + _chunk(b"IEND", b"")


def _photo(height: int = 24, width: int = 33, seed: int = 0) -> np.ndarray:
    """Smooth (H, W, 3) uint8 with noise on top; no symmetry under flips or turns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x * 2 + y) % 200], axis=2)
    return np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)


# Pictures that must be read


def test_rgb_files_of_lossless_formats_come_back_as_written(tmp_path: Path) -> None:
    pixels = _photo()
    for name, options in {
        "a.png": {},
        "a.bmp": {},
        "a.ppm": {},
        "a.tif": {},
        "b.tiff": {"compression": "tiff_lzw"},
        "c.tif": {"compression": "tiff_deflate"},
        "a.webp": {"lossless": True},
        "a.jp2": {},
    }.items():
        Image.fromarray(pixels).save(tmp_path / name, **options)  # type: ignore[arg-type]
        got = read_image(tmp_path / name)
        assert got.dtype == np.uint8 and got.flags.c_contiguous and got.flags.writeable
        np.testing.assert_array_equal(got, pixels, err_msg=name)


def test_jpeg_equals_pillow_and_the_ending_does_not_count(tmp_path: Path) -> None:
    Image.fromarray(_photo()).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(picture))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot read AVIF")
def test_avif_equals_pillow(tmp_path: Path) -> None:
    Image.fromarray(_photo()).save(tmp_path / "a.avif")
    with Image.open(tmp_path / "a.avif") as picture:
        np.testing.assert_array_equal(read_image(tmp_path / "a.avif"), np.asarray(picture))


def test_names_with_spaces_unicode_and_invalid_bytes(tmp_path: Path) -> None:
    pixels = _photo(3, 4)
    for name in ("a b.png", "bü 图.png", "#%s{0}.png", os.fsdecode(b"\xff\xfe.png"), "-x.PNG"):
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")
        np.testing.assert_array_equal(read_image(str(tmp_path / name)), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_orientation_equals_exif_transpose(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(_photo(17, 29)).save(path, exif=exif)
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
        shown = as_rgb(picture)
    assert expected.shape == ((29, 17, 3) if orientation >= 5 else (17, 29, 3))
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_is_no_reason_to_refuse_a_picture(tmp_path: Path, exif: bytes) -> None:
    pixels = _photo()
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(_photo()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), _photo())


def test_grey_and_one_bit(tmp_path: Path) -> None:
    grey = _photo()[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=2))
    bits = grey > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    want = np.stack([bits * np.uint8(255)] * 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), want)


def test_transparency_shows_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, :3] = (200, 100, 0)
    rgba[0, :, 3] = (0, 51, 204, 255)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    # (200, 100, 0) * a + 255 * (1 - a), by hand for a = 0, 1/5, 4/5, 1
    want = [[255, 255, 255], [244, 224, 204], [211, 131, 51], [200, 100, 0]]
    got = read_image(tmp_path / "rgba.png")
    assert np.abs(got[0].astype(int) - want).max() <= 1
    assert got[0, 0].tolist() == want[0] and got[0, 3].tolist() == want[3]
    np.testing.assert_array_equal(as_rgb(rgba), got)

    la = np.array([[[40, 0], [40, 255]]], np.uint8)
    Image.fromarray(la).save(tmp_path / "la.png")
    assert read_image(tmp_path / "la.png").tolist() == [[[255] * 3, [40] * 3]]
    premultiplied = Image.fromarray(la).convert("La")
    assert as_rgb(premultiplied).tolist() == [[[255] * 3, [40] * 3]]


def test_palettes_with_and_without_transparency(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colors = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    picture.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").tolist() == [colors]
    picture.save(tmp_path / "one.png", transparency=1)
    picture.save(tmp_path / "some.png", transparency=bytes([255, 0, 255]))
    picture.save(tmp_path / "one.gif", transparency=1)
    for name in ("one.png", "some.png", "one.gif"):
        assert read_image(tmp_path / name).tolist() == [[colors[0], [255] * 3, colors[2]]], name


def test_a_transparent_colour_in_grey_and_rgb_png(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 9]], np.uint8)).save(tmp_path / "l.png", transparency=9)
    assert read_image(tmp_path / "l.png").tolist() == [[[7] * 3, [255] * 3]]
    rgb = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "rgb.png").tolist() == [[[255] * 3, [4, 5, 6]]]


def test_other_colour_spaces(tmp_path: Path) -> None:
    Image.new("CMYK", (2, 1), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert read_image(tmp_path / "cmyk.tif").tolist() == [[[255, 0, 0]] * 2]
    photo = Image.fromarray(_photo())
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    close = np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - _photo())
    assert close.mean() < 3  # inverted CMYK, as Adobe writes it, would be off by about 128
    photo.convert("YCbCr").save(tmp_path / "y.tif")
    assert np.abs(read_image(tmp_path / "y.tif").astype(int) - _photo()).max() <= 3
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(photo, transform)
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    assert np.abs(read_image(tmp_path / "lab.tif").astype(int) - _photo()).mean() < 3


def test_sixteen_bit_grey_keeps_256_levels(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    Image.fromarray(ramp).save(tmp_path / "little.tif")
    Image.fromarray(ramp.astype(">u2")).save(tmp_path / "big.tif")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "i.tif")
    (tmp_path / "p.pgm").write_bytes(b"P5 256 256 65535\n" + ramp.astype(">u2").tobytes())
    want = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, axis=1)
    for name in ("ramp.png", "little.tif", "big.tif", "i.tif", "p.pgm"):
        got = read_image(tmp_path / name)
        np.testing.assert_array_equal(got, np.stack([want] * 3, axis=2), err_msg=name)


def test_sixteen_bit_rgb_png_drops_the_low_byte(tmp_path: Path) -> None:
    values = (0x0000, 0x12FF, 0xFFFF)
    (tmp_path / "a.png").write_bytes(_png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", *values)))
    assert read_image(tmp_path / "a.png").tolist() == [[[0x00, 0x12, 0xFF]]]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0 * 60, 65535.0], [0, 60, 255]),
        ([0.0, 6e5, 1e6], [0, 153, 255]),
    ],
)
def test_float_tiffs_are_scaled_not_clipped(
    tmp_path: Path, values: list[float], want: list[int]
) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 1].tolist() == want


def test_wide_integers_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 2**29, 2**30]], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("values", [[-1.0, 1.0], [np.nan, 1.0], [0.0, np.inf]])
def test_floats_that_are_no_grey_are_refused(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="pixel values run from") as caught:
        read_image(tmp_path / "a.tif")
    assert caught.value.where == str(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_animations_and_pages_give_the_first_frame_and_one_warning(
    tmp_path: Path, name: str
) -> None:
    frames = [Image.new("RGB", (5, 4), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(UserWarning, match="several frames") as caught:
        got = read_image(tmp_path / name)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (got == (255, 0, 0)).all()


def test_previews_in_a_camera_jpeg_are_not_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 8), color) for color in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert (np.abs(read_image(tmp_path / "a.jpg").astype(int) - (255, 0, 0)) < 4).all()


def test_big_pictures_are_the_same_in_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgba = np.dstack([_photo(40, 30), _photo(40, 30, seed=1)[:, :, 0]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr("torchseg_zoo.data.image._BLOCK_PX", 7 * 30)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1)])
def test_extreme_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = _photo(*size)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".gif", ".ppm"])
def test_pillows_own_limit_is_neither_used_nor_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[274] = 6
    options = {} if suffix in (".bmp", ".ppm", ".gif") else {"exif": exif}
    Image.fromarray(_photo()).save(path, **options)  # type: ignore[arg-type]
    want = read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    np.testing.assert_array_equal(read_image(path), want)
    for compression in ("tiff_lzw", None):
        if suffix == ".tif":
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
            Image.fromarray(_photo()).quantize(16).save(path, compression=compression, exif=exif)
            want = read_image(path)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
            np.testing.assert_array_equal(read_image(path), want)
    assert Image.MAX_IMAGE_PIXELS == 5


# Files that must be refused


def _refused(path: Path, match: str) -> DataError:
    for read in (read_image, read_label):
        with pytest.raises(DataError, match=match) as caught:
            read(path)
        error = caught.value
        assert error.where == str(path) and error.what and error.fix
        assert "\n" not in str(error)
    return error


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "file is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
        (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><svg/>', "XML"),
        (b"\n <!DOCTYPE html><html><body>Not found</body></html>", "web page"),
        (b"<HTML>login</HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"P", "damaged|cut off|not a picture"),
        (b"B", "not a picture"),
        (b"hello world", "not a picture"),
        (bytes(1000), "not a picture"),
        (b"\0\0\2" + bytes(9) + b"\1\0\1\0\x18\0abc", "not a picture"),  # a TGA file
        (b"\xd7\xcd\xc6\x9a" + bytes(200), "not a picture"),  # a WMF file
        (PNG_START, "cut off"),
        (b"\xff\xd8\xff", "damaged|cut off"),
        (b"GIF89a", "damaged|cut off"),
        (b"II*\0", "damaged|cut off"),
        (b"BM", "damaged|cut off"),
        (b"RIFF\x20\0\0\0WEBPVP8 ", "damaged|cut off"),
    ],
)
def test_content_that_is_no_picture(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    _refused(path, match)


def test_no_program_is_started_for_eps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "system", start)
    Image.fromarray(_photo()).save(tmp_path / "a.eps")
    _refused(tmp_path / "a.eps", "PostScript")


@pytest.mark.parametrize("pixels", [True, False], ids=["read_image", "read_label"])
def test_png_cut_anywhere_is_refused(tmp_path: Path, pixels: bool) -> None:
    Image.fromarray(_photo(9, 9)[:, :, 0]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    read = read_image if pixels else read_label
    for length in range(len(whole)):
        (tmp_path / "b.png").write_bytes(whole[:length])
        with pytest.raises(DataError):
            read(tmp_path / "b.png")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {}),
        (".jpg", {"progressive": True}),
        (".gif", {}),
        (".webp", {}),
        (".webp", {"lossless": True}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".tif", {"compression": "jpeg"}),
        (".bmp", {}),
        (".ppm", {}),
        (".jp2", {}),
    ],
)
def test_cut_files_are_refused_or_lose_no_pixel(
    tmp_path: Path, suffix: str, options: dict[str, object]
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(_photo(30, 40)).save(path, **options)  # type: ignore[arg-type]
    whole, want = path.read_bytes(), read_image(path)
    refused = 0
    lengths = {*range(0, len(whole), 37), *range(len(whole) - 24, len(whole)), len(whole) // 2}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        try:
            got = read_image(path)
        except DataError as error:
            assert error.where == str(path)
            refused += 1
        else:
            np.testing.assert_array_equal(got, want, err_msg=f"{length} of {len(whole)} bytes")
    assert refused >= len(lengths) - 24


def test_every_flipped_byte_of_a_png_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(_photo(6, 6)).save(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(DataError):
            read_image(path)


def test_bytes_after_the_end_of_a_png_do_no_harm(tmp_path: Path) -> None:
    Image.fromarray(_photo()).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("ab") as stream:
        stream.write(b"trailer")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), _photo())


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_give_pixels_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    seeds = []
    for suffix in (".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".ppm", ".jp2"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(_photo(12, 13)).save(path)
        seeds.append(path.read_bytes())
    path = tmp_path / "mutant"
    for round_ in range(600):
        data = bytearray(seeds[round_ % len(seeds)])
        for _ in range(int(rng.integers(1, 6))):
            # Half of the hits go to the header, where sizes and types are.
            reach = 64 if rng.random() < 0.5 else len(data)
            data[int(rng.integers(0, min(reach, len(data))))] = int(rng.integers(0, 256))
        path.write_bytes(data)
        try:
            got = read_image(path, max_pixels=10**6)
        except DataError as error:
            assert error.where == str(path)
        else:
            assert got.dtype == np.uint8 and got.ndim == 3 and got.shape[2] == 3


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    (tmp_path / "bare.png").write_bytes(PNG_START + _chunk(b"IHDR", header))
    (tmp_path / "full.png").write_bytes(_png(60000, 60000, 8, 2, b"\0"))
    (tmp_path / "a.bmp").write_bytes(
        b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHH", 40, 60000, 60000, 1, 24)
        + bytes(24)
    )  # fmt: skip
    (tmp_path / "a.gif").write_bytes(
        b"GIF89a\x60\xea\x60\xea\0\0\0,\0\0\0\0\x60\xea\x60\xea\0\2\0;"
    )
    (tmp_path / "a.ppm").write_bytes(b"P6 60000 60000 255\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    jpeg = (tmp_path / "a.jpg").read_bytes()
    at = jpeg.index(b"\xff\xc0") + 5
    (tmp_path / "a.jpg").write_bytes(jpeg[:at] + struct.pack(">HH", 60000, 60000) + jpeg[at + 4 :])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    tiff = (tmp_path / "a.tif").read_bytes()
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HH", tag, 4) + struct.pack("<I", 1)) + 8
        tiff = tiff[:at] + struct.pack("<I", 60000) + tiff[at + 4 :]
    (tmp_path / "a.tif").write_bytes(tiff)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("bare.png", "full.png", "a.bmp", "a.gif", "a.ppm", "a.jpg", "a.tif"):
        start = time.perf_counter()
        with pytest.raises(DataError, match="60000×60000, more than") as caught:
            read_image(tmp_path / name)
        assert time.perf_counter() - start < 0.25, name
        assert caught.value.where == str(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024  # kB


def test_a_small_file_cannot_claim_very_many_pixels(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(20000, 20000, 8, 2, b"\0"))
    exif = Image.Exif()
    exif[274] = 1
    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp", exif=exif)
    webp = (tmp_path / "a.webp").read_bytes()
    assert webp[12:16] == b"VP8X"
    claimed = (16382).to_bytes(3, "little") * 2
    (tmp_path / "a.webp").write_bytes(webp[:24] + claimed + webp[30:])
    for name in ("a.png", "a.webp"):
        with pytest.raises(DataError, match=r"header claims .* pixels, but the file has only"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True}])
def test_the_size_of_a_webp_is_known_from_its_header(
    tmp_path: Path, options: dict[str, object]
) -> None:
    exif = Image.Exif()
    if "save_all" in options:
        exif[274] = 1  # metadata make it a file of the extended kind
    picture = Image.fromarray(_photo(10, 300))
    picture.save(tmp_path / "a.webp", exif=exif, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="300×10, more than 2999"):
        read_image(tmp_path / "a.webp", max_pixels=2999)
    assert read_image(tmp_path / "a.webp", max_pixels=3000).shape == (10, 300, 3)


def test_a_blank_picture_of_many_pixels_is_plausible(tmp_path: Path) -> None:
    Image.new("1", (20000, 3500)).save(tmp_path / "a.png", compress_level=9)
    assert (tmp_path / "a.png").stat().st_size < 20000
    assert read_image(tmp_path / "a.png").shape == (3500, 20000, 3)


def test_max_pixels_is_width_times_height(tmp_path: Path) -> None:
    Image.fromarray(_photo(10, 20)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(DataError, match="20×10, more than 199 pixels"):
        read_image(tmp_path / "a.png", max_pixels=199)
    with pytest.raises(ArgumentError, match="max_pixels"):
        read_image(tmp_path / "a.png", max_pixels=0)


def test_a_text_bomb_in_a_png_is_refused_or_skipped(tmp_path: Path) -> None:
    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000), 1))
    (tmp_path / "a.png").write_bytes(_png(1, 1, 8, 0, b"\0\0", text))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError):
        read_image(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_what_is_not_a_file_is_refused_without_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    monkeypatch.chdir(tmp_path)
    done = threading.Event()

    def probe() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
            for path, match in {
                tmp_path / "pipe.png": "named pipe",
                tmp_path / "folder.png": "a folder",
                tmp_path / "dangling.png": "link points to nothing",
                tmp_path / "missing.png": "no such file",
                tmp_path / "socket.png": "a socket",
                tmp_path / "a\0b.png": "no file can have this name",
                Path("/dev/zero"): "a device",
            }.items():
                _refused(path, match)
        done.set()

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(20)
    assert done.is_set()


def test_an_unreadable_name_can_be_printed(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / os.fsdecode(b"\xff.png"))
    assert "\\udcff.png" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "failure", [MemoryError(), OverflowError("x"), RecursionError(), KeyError("k")]
)
def test_whatever_pillow_throws_becomes_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    Image.fromarray(_photo()).save(tmp_path / "a.png")

    def load(_: object) -> None:
        raise failure

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.__cause__ is failure
    assert ("memory" in caught.value.what) == isinstance(failure, MemoryError)


# Pictures in memory


def test_arrays_of_every_kind_become_the_same_picture() -> None:
    pixels = _photo()
    assert as_rgb(pixels) is pixels
    np.testing.assert_array_equal(as_rgb(Image.fromarray(pixels)), pixels)
    np.testing.assert_array_equal(as_rgb(pixels.astype(np.uint16) << 8 | 0x7F), pixels)
    np.testing.assert_array_equal(as_rgb((pixels.astype(np.uint16) << 8).astype(">u2")), pixels)
    for kind in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(as_rgb((pixels / 255).astype(kind)), pixels)
    grey = pixels[:, :, :1]
    np.testing.assert_array_equal(as_rgb(grey), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(as_rgb(grey[:, :, 0]), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(as_rgb(grey > 99), np.repeat((grey > 99) * 255, 3, axis=2))
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(as_rgb(opaque), pixels)
    np.testing.assert_array_equal(as_rgb(opaque / 255.0), pixels)


def test_as_rgb_takes_paths(tmp_path: Path) -> None:
    Image.fromarray(_photo()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png"), _photo())
    np.testing.assert_array_equal(as_rgb(str(tmp_path / "a.png")), _photo())
    with pytest.raises(DataError, match="no such file"):
        as_rgb("nowhere.png")


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3], np.s_[:, :, ::-1]])
def test_as_rgb_makes_views_contiguous(view: tuple[slice, ...]) -> None:
    got = as_rgb(_photo()[view])
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, _photo()[view])


def test_as_rgb_takes_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    pixels = _photo()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for form in (tensor, tensor[None], tensor.float() / 255, tensor.double()[None] / 255):
        got = as_rgb(form)
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, pixels)
    np.testing.assert_array_equal(as_rgb(torch.nn.Parameter(tensor.float() / 255)), pixels)
    grey = np.repeat(pixels[:, :, :1], 3, axis=2)
    np.testing.assert_array_equal(as_rgb(tensor[:1]), grey)
    np.testing.assert_array_equal(as_rgb(tensor[None, :1]), grey)
    assert as_rgb(torch.ones(3, 2, 2, dtype=torch.bfloat16)).tolist() == [[[255] * 3] * 2] * 2
    for wrong in (tensor[0], tensor.permute(1, 2, 0), torch.stack([tensor] * 2), tensor[:2]):
        with pytest.raises(ArgumentError, match=r"shape \(3, H, W\)"):
            as_rgb(wrong)
    with pytest.raises(ArgumentError, match="normalise"):
        as_rgb(torch.randn(3, 8, 8))
    with pytest.raises(DataError, match="no pixels"):
        as_rgb(tensor[:, :0])


@pytest.mark.parametrize(
    ("image", "match"),
    [
        (_photo().astype(np.int64), "uint8"),
        (_photo().astype(np.float32), "0..1"),
        (np.full((2, 2, 3), -0.1), "0..1"),
        (np.full((2, 2, 3), np.nan), "0..1"),
        (np.full((2, 2, 3), np.inf), "0..1"),
        (np.zeros((2, 2, 3), complex), "uint8"),
        (_photo().transpose(2, 0, 1), "channels come first"),
        (np.zeros((4, 5, 2), np.uint8), "shape"),
        (np.zeros((1, 4, 5, 3), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
        ([[1, 2]], "torch tensor"),
        (None, "torch tensor"),
        (b"a.png", "a path"),
        (3, "a path"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_would_be(image: object, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        as_rgb(image)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0), (0, 4, 1), (4, 0, 4)])
def test_empty_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="no pixels"):
        as_rgb(np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match="no pixels"):
        as_rgb(np.zeros(shape, np.float32))


def test_an_empty_pil_image_is_refused() -> None:
    with pytest.raises(DataError, match="no pixels"):
        as_rgb(Image.new("RGB", (0, 3)))


def test_as_rgb_leaves_its_input_alone() -> None:
    exif = Image.Exif()
    exif[274] = 6
    picture = Image.fromarray(_photo())
    picture.getexif()[274] = 6
    assert as_rgb(picture).shape == (33, 24, 3)
    assert picture.size == (33, 24) and picture.getexif()[274] == 6


def test_torch_is_not_imported() -> None:
    code = (
        "import sys, numpy; from torchseg_zoo.data.image import as_rgb;"
        "as_rgb(numpy.zeros((2, 2, 3), 'u1'));"
        "print(sorted({'torch', 'torchvision', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# Label maps


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
    (tmp_path / "two.png").write_bytes(_png(4, 1, 2, 0, b"\0" + bytes([0b00011011])))
    np.testing.assert_array_equal(read_label(tmp_path / "two.png"), want)
    (tmp_path / "four.png").write_bytes(_png(4, 1, 4, 0, b"\0\x01\x9f"))
    np.testing.assert_array_equal(read_label(tmp_path / "four.png"), [[0, 1, 9, 15]])
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label(tmp_path / "one.png"), [[1, 0, 1]])
    palette = _chunk(b"PLTE", bytes(range(48)))
    for depth, row in ((2, bytes([0b00011011])), (4, b"\x01\x23")):
        (tmp_path / "p.png").write_bytes(_png(4, 1, depth, 3, b"\0" + row, palette[:]))
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
    assert error.fix and "raw_ids" in error.fix


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
    monkeypatch.setattr("torchseg_zoo.data.image._BLOCK_PX", 10)
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


# Folders and writing


def test_pictures_of_a_folder_are_listed_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.png", "d.tiff", "png", "e.webp", "A.Jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "z-dangling.png").symlink_to("nowhere")
    names = [path.name for path in list_images(str(tmp_path))]
    assert names == ["A.Jpeg", "a.png", "b.JPG", "d.tiff", "e.webp", "z-dangling.png"]
    assert all(path.parent == tmp_path for path in list_images(tmp_path))


def test_folders_without_pictures_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="no pictures") as caught:
        list_images(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert all(suffix in str(caught.value) for suffix in IMAGE_SUFFIXES)
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a folder"):
        list_images(tmp_path / "a.txt")
    with pytest.raises(DataError, match="cannot be listed"):
        list_images("a\0b")


def test_every_suffix_is_one_that_pillow_files_under_a_known_format() -> None:
    Image.init()
    known = {"PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"}
    assert {Image.registered_extensions().get(suffix, "AVIF") for suffix in IMAGE_SUFFIXES} == known


def test_png_files_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for array in (INDICES, _photo(), _photo()[::-1], np.zeros((1, 1), np.uint8)):
        write_png(path, array)
        with Image.open(path) as picture:
            assert picture.mode == ("L" if array.ndim == 2 else "RGB")
            np.testing.assert_array_equal(np.asarray(picture), array)
    palette = CAMVID.palette_array()
    write_png(path, INDICES, palette=palette)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), palette[INDICES])
    np.testing.assert_array_equal(read_label(path), INDICES)
    np.testing.assert_array_equal(read_image(path), palette[INDICES])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("array", "palette"),
    [
        (INDICES.astype(np.int64), None),
        (_photo()[:, :, :2], None),
        (_photo()[:0], None),
        ([[0]], None),
        (INDICES, CAMVID.palette_array()[:11]),
        (INDICES, CAMVID.palette_array().astype(np.float32)),
        (_photo(), CAMVID.palette_array()),
    ],
)
def test_write_png_refuses_other_arrays(
    tmp_path: Path, array: np.ndarray, palette: np.ndarray | None
) -> None:
    with pytest.raises(ArgumentError):
        write_png(tmp_path / "a.png", array, palette=palette)
    assert list(tmp_path.iterdir()) == []


def test_write_png_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="create the folder first") as caught:
        write_png(tmp_path / "no" / "a.png", INDICES)
    assert caught.value.where == str(tmp_path / "no" / "a.png")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, INDICES)
    old = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be written"):
            write_png(path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
