"""Opening and decoding picture files that nobody vouches for.

A bad file is answered with one ``DataError`` that names it, whatever is wrong with it.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from torchseg_zoo.errors import ArgumentError, DataError, ZooError
from torchseg_zoo.files import open_regular

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow before 11.3
    _AVIF: tuple[str, ...] = ()
else:
    _AVIF = (AvifImagePlugin.AvifImageFile.format,)

__all__ = ["MAX_PIXELS", "decode", "decoding", "orientation", "refuse_empty", "turned"]

MAX_PIXELS = 2**29
"""Largest width times height that is read unless the caller says otherwise."""

# Raster formats that are told apart by their first bytes and decoded in this process. Pillow knows
# more; some of those start other programs (EPS: Ghostscript) or claim any bytes at all (TGA).
_FORMATS: tuple[str, ...] = (
    PngImagePlugin.PngImageFile.format,
    JpegImagePlugin.JpegImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    GifImagePlugin.GifImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    Jpeg2KImagePlugin.Jpeg2KImageFile.format,
    *_AVIF,
)

_STRANGERS = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "a web page, perhaps a failed download"),
    (b"<html", "a web page, perhaps a failed download"),
    (b"<?xml", "an XML document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)

# No honest picture of more than this many pixels packs so many of them into a byte: PNG reaches
# 8256 (one bit a pixel, deflate). A small file that claims more costs memory before it fails.
_PLAUSIBLE_PIXELS = 2**26
_PLAUSIBLE_PIXELS_PER_BYTE = 16384


def decode(
    source: str | os.PathLike[str] | bytes, where: str, max_pixels: int
) -> tuple[ImageFile.ImageFile, int]:
    """Opens a file and decodes its first frame.

    Args:
        source: the file's path; or the bytes of a file, as tables of pictures hold them.
        where: its name for messages.
        max_pixels: largest width times height to decode; bigger ones are refused by their header.

    Returns:
        The picture as stored, not yet turned, and its bits per sample, 8 where not known.

    Raises:
        DataError: if the file cannot be opened, is of no known format, is damaged or too big.
    """
    if max_pixels < 1:
        raise ArgumentError(f"{max_pixels} is below 1", where="max_pixels", fix="allow some pixels")
    opened = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
    with opened as stream, decoding(where):
        num_bytes = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        start = stream.read(64)
        depth = 8
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height, depth, color = struct.unpack(">IIBB", start[16:26])
            _check_size((width, height), num_bytes, where, max_pixels)
            _check_png(stream)
            depth = depth if color == 0 else 8  # of palette images, indices come as they are
        elif start[8:12] == b"WEBP":
            # Pillow gives the decoder its memory as soon as the file is opened.
            _check_size(_webp_size(start), num_bytes, where, max_pixels)
        picture = _identify(stream, start, where)
        _check_size(picture.size, num_bytes, where, max_pixels)
        # MPO is what phones and cameras save as .jpg: a picture with its previews or gain map.
        frames = bool(getattr(picture, "is_animated", False)) and picture.format != "MPO"
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            depth = int(picture.tag_v2.get(258, (8,))[0])
            _allocate(picture)
        picture.load()
    if frames:
        warnings.warn(f"{where}: has several frames or pages; only the first is used", stacklevel=3)
    return picture, depth


def _identify(stream: BinaryIO, start: bytes, where: str) -> ImageFile.ImageFile:
    """Reads the header by the first format that claims the bytes.

    This is the core of ``Image.open``, less its check against ``Image.MAX_IMAGE_PIXELS``. That
    limit is one for the whole process: lifting it for a moment would lift it for other threads.
    """
    if not start:
        raise DataError("the file is empty", where=where, fix="fetch or export it again")
    for name in _FORMATS:
        factory, accept = Image.OPEN[name]
        claimed = accept is None or accept(start[:16])
        if claimed and not isinstance(claimed, str):  # a str says why the format is unavailable
            stream.seek(0)
            return factory(stream, "")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((kind for mark, kind in _STRANGERS if text.startswith(mark.lower())), None)
    if start[4:8] == b"ftyp":
        kind = "HEIC, AVIF or video"
    raise DataError(
        "not a picture in a known format",
        where=where,
        why=f"the content is {kind}" if kind else None,
        fix=f"convert it to PNG or JPEG; known are {', '.join(_FORMATS)}",
    )


def _check_png(stream: BinaryIO) -> None:
    """Checks that all parts are there and their checksums, which Pillow skips for pixel data."""
    stream.seek(8)
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", stream.read(8))
        checksum = zlib.crc32(kind)
        while length:
            data = stream.read(min(length, 2**20))
            if not data:
                raise EOFError("the file ends in the middle of the picture")
            checksum = zlib.crc32(data, checksum)
            length -= len(data)
        if struct.unpack(">I", stream.read(4))[0] != checksum:
            raise ValueError(f"bad checksum (CRC) in part {kind.decode('latin-1')!r}")


def _webp_size(start: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, by the first chunk of a WebP file."""
    if start[12:16] == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(
            start[27:30], "little"
        )
    if start[12:16] == b"VP8L":
        (bits,) = struct.unpack("<I", start[21:25])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", start[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _allocate(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Gives a big TIFF its memory before the plugin does, which would first ask Pillow's limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:
        size = getattr(picture, "_tile_size", picture.size)  # as stored, before it is turned
        picture.im = Image.new(picture.mode, size).im


def _check_size(size: tuple[int, int], num_bytes: int, where: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise DataError(
            f"the picture is {height}×{width}, more than {max_pixels} pixels",
            where=where,
            fix="make it smaller, or raise max_pixels if you trust it",
        )
    if width * height > max(_PLAUSIBLE_PIXELS, _PLAUSIBLE_PIXELS_PER_BYTE * num_bytes):
        raise DataError(
            f"the header claims {height}×{width} pixels, but the file has only {num_bytes} bytes",
            where=where,
            fix="fetch or export it again",
        )
    refuse_empty(size, where)


def refuse_empty(size: tuple[int, ...], where: str) -> None:
    if 0 in size:
        raise DataError("the picture has no pixels", where=where, fix="leave it out")


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Turns whatever Pillow throws at bad bytes into a ``DataError``."""
    fix = "fetch or export it again"
    try:
        yield
    except ZooError:
        raise
    except MemoryError as cause:
        raise DataError(
            "the picture does not fit in memory", where=where, fix="make it smaller"
        ) from cause
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise DataError(
            "the picture is too big for Pillow", where=where, why=str(cause), fix="make it smaller"
        ) from cause
    except (EOFError, struct.error) as cause:
        why = str(cause) if isinstance(cause, EOFError) else None
        raise DataError("the picture is cut off", where=where, why=why, fix=fix) from cause
    except Exception as cause:
        why = str(cause) or type(cause).__name__
        raise DataError("the picture is damaged", where=where, why=why, fix=fix) from cause


def orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where there is none or the EXIF block cannot be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # display programs show such pictures unturned
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) pixels as EXIF wants them displayed, C-contiguous."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
