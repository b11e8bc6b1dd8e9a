"""``data.decode``: files that must be refused: cut, damaged, hostile, or no picture at all."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import PNG_START, chunk, photo, png
from PIL import Image

from torchseg_zoo.data.image import (
    read_image,
)
from torchseg_zoo.data.label_map import read_label
from torchseg_zoo.errors import ArgumentError, DataError


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
    Image.fromarray(photo()).save(tmp_path / "a.eps")
    _refused(tmp_path / "a.eps", "PostScript")


@pytest.mark.parametrize("pixels", [True, False], ids=["read_image", "read_label"])
def test_png_cut_anywhere_is_refused(tmp_path: Path, pixels: bool) -> None:
    Image.fromarray(photo(9, 9)[:, :, 0]).save(tmp_path / "a.png")
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
    Image.fromarray(photo(30, 40)).save(path, **options)  # type: ignore[arg-type]
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
    Image.fromarray(photo(6, 6)).save(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x20]) + whole[at + 1 :])
        with pytest.raises(DataError):
            read_image(path)


def test_bytes_after_the_end_of_a_png_do_no_harm(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("ab") as stream:
        stream.write(b"trailer")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), photo())


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_give_pixels_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    seeds = []
    for suffix in (".png", ".jpg", ".gif", ".tif", ".webp", ".bmp", ".ppm", ".jp2"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(photo(12, 13)).save(path)
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
    (tmp_path / "bare.png").write_bytes(PNG_START + chunk(b"IHDR", header))
    (tmp_path / "full.png").write_bytes(png(60000, 60000, 8, 2, b"\0"))
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
    (tmp_path / "a.png").write_bytes(png(20000, 20000, 8, 2, b"\0"))
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
    picture = Image.fromarray(photo(10, 300))
    picture.save(tmp_path / "a.webp", exif=exif, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="10×300, more than 2999"):
        read_image(tmp_path / "a.webp", max_pixels=2999)
    assert read_image(tmp_path / "a.webp", max_pixels=3000).shape == (10, 300, 3)


def test_a_blank_picture_of_many_pixels_is_plausible(tmp_path: Path) -> None:
    Image.new("1", (20000, 3500)).save(tmp_path / "a.png", compress_level=9)
    assert (tmp_path / "a.png").stat().st_size < 20000
    assert read_image(tmp_path / "a.png").shape == (3500, 20000, 3)


def test_max_pixels_is_width_times_height(tmp_path: Path) -> None:
    Image.fromarray(photo(10, 20)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=200).shape == (10, 20, 3)
    with pytest.raises(DataError, match="10×20, more than 199 pixels"):
        read_image(tmp_path / "a.png", max_pixels=199)
    with pytest.raises(ArgumentError, match="max_pixels"):
        read_image(tmp_path / "a.png", max_pixels=0)


def test_a_text_bomb_in_a_png_is_refused_or_skipped(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000), 1))
    (tmp_path / "a.png").write_bytes(png(1, 1, 8, 0, b"\0\0", text))
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
    Image.fromarray(photo()).save(tmp_path / "a.png")

    def load(_: object) -> None:
        raise failure

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.__cause__ is failure
    assert ("memory" in caught.value.what) == isinstance(failure, MemoryError)
