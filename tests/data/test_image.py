"""``data.image``: every kind of picture, the good and the odd."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import photo, png
from PIL import Image, ImageCms, ImageOps, features

from torchseg_zoo.data.image import (
    IMAGE_SUFFIXES,
    as_rgb,
    list_images,
    read_image,
    write_png,
)
from torchseg_zoo.data.label_map import read_label
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.errors import ArgumentError, DataError

# Pictures that must be read


def test_rgb_files_of_lossless_formats_come_back_as_written(tmp_path: Path) -> None:
    pixels = photo()
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
    Image.fromarray(photo()).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(picture))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow cannot read AVIF")
def test_avif_equals_pillow(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.avif")
    with Image.open(tmp_path / "a.avif") as picture:
        np.testing.assert_array_equal(read_image(tmp_path / "a.avif"), np.asarray(picture))


def test_names_with_spaces_unicode_and_invalid_bytes(tmp_path: Path) -> None:
    pixels = photo(3, 4)
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
    Image.fromarray(photo(17, 29)).save(path, exif=exif)
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
    pixels = photo()
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(photo()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo())


def test_grey_and_one_bit(tmp_path: Path) -> None:
    grey = photo()[:, :, 0]
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
    picture = Image.fromarray(photo())
    picture.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    close = np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - photo())
    assert close.mean() < 3  # inverted CMYK, as Adobe writes it, would be off by about 128
    # Without compression, Pillow before 13 writes it but does not read it.
    picture.convert("YCbCr").save(tmp_path / "y.tif", compression="tiff_lzw")
    assert np.abs(read_image(tmp_path / "y.tif").astype(int) - photo()).max() <= 3
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(picture, transform)
    assert lab is not None
    lab.save(tmp_path / "lab.tif")
    assert np.abs(read_image(tmp_path / "lab.tif").astype(int) - photo()).mean() < 3


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
    (tmp_path / "a.png").write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", *values)))
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
    rgba = np.dstack([photo(40, 30), photo(40, 30, seed=1)[:, :, 0]])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr("torchseg_zoo.data.image._BLOCK_PX", 7 * 30)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1)])
def test_extreme_shapes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = photo(*size)
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
    Image.fromarray(photo()).save(path, **options)  # type: ignore[arg-type]
    want = read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    np.testing.assert_array_equal(read_image(path), want)
    for compression in ("tiff_lzw", None):
        if suffix == ".tif":
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
            Image.fromarray(photo()).quantize(16).save(path, compression=compression, exif=exif)
            want = read_image(path)
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
            np.testing.assert_array_equal(read_image(path), want)
    assert Image.MAX_IMAGE_PIXELS == 5


# Pictures in memory


def test_arrays_of_every_kind_become_the_same_picture() -> None:
    pixels = photo()
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
    Image.fromarray(photo()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png"), photo())
    np.testing.assert_array_equal(as_rgb(str(tmp_path / "a.png")), photo())
    with pytest.raises(DataError, match="no such file"):
        as_rgb("nowhere.png")


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3], np.s_[:, :, ::-1]])
def test_as_rgb_makes_views_contiguous(view: tuple[slice, ...]) -> None:
    got = as_rgb(photo()[view])
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, photo()[view])


def test_as_rgb_takes_torch_tensors() -> None:
    pixels = photo()
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
        (photo().astype(np.int64), "uint8"),
        (photo().astype(np.float32), "0..1"),
        (np.full((2, 2, 3), -0.1), "0..1"),
        (np.full((2, 2, 3), np.nan), "0..1"),
        (np.full((2, 2, 3), np.inf), "0..1"),
        (np.zeros((2, 2, 3), complex), "uint8"),
        (photo().transpose(2, 0, 1), "channels come first"),
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
    picture = Image.fromarray(photo())
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


# Folders and writing

INDICES = np.array([[0, 1, 2, 3], [10, 0, 255, 1], [3, 2, 1, 0]], np.uint8)


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
    for array in (INDICES, photo(), photo()[::-1], np.zeros((1, 1), np.uint8)):
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
        (photo()[:, :, :2], None),
        (photo()[:0], None),
        ([[0]], None),
        (INDICES, CAMVID.palette_array()[:11]),
        (INDICES, CAMVID.palette_array().astype(np.float32)),
        (photo(), CAMVID.palette_array()),
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
