"""Reading pictures and label maps from files that nobody vouches for, and writing PNG files.

Every function answers a bad file with one ``DataError`` that names it. Pictures come out as they
are displayed: turned as EXIF says, as 8-bit RGB. Label maps come out as the numbers stored.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

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

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import ArgumentError, DataError, ZooError
from torchseg_zoo.files import atomic_write, open_regular, printable

try:
    from PIL import AvifImagePlugin
except ImportError:  # Pillow before 11.3
    _AVIF: tuple[str, ...] = ()
else:
    _AVIF = (AvifImagePlugin.AvifImageFile.format,)

__all__ = [
    "IMAGE_SUFFIXES",
    "as_rgb",
    "check_label_values",
    "list_images",
    "read_image",
    "read_label",
    "to_train_ids",
    "write_png",
]

IMAGE_SUFFIXES: tuple[str, ...] = (
    ".apng",
    ".avif",
    ".bmp",
    ".gif",
    ".j2k",
    ".jfif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pbm",
    ".pgm",
    ".png",
    ".pnm",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""Endings, in lower case, by which ``list_images`` knows a picture."""

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

# Only in these an index surely comes back as the number that was meant.
_LABEL_FORMATS = ("PNG", "TIFF", "BMP")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_LABEL_SPOILERS = {
    "GIF": "programs that write GIF renumber the palette",
    "PPM": "its numbers are relative to a maximum, to which they are stretched on reading",
}

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

_MAX_PIXELS = 2**29

# No honest picture of more than this many pixels packs so many of them into a byte: PNG reaches
# 8256 (one bit a pixel, deflate). A small file that claims more costs memory before it fails.
_PLAUSIBLE_PIXELS = 2**26
_PLAUSIBLE_PIXELS_PER_BYTE = 16384

_BLOCK_PX = 2**22  # pixels worked on at once, to keep temporary copies of big pictures small


def read_image(path: str | os.PathLike[str], *, max_pixels: int = _MAX_PIXELS) -> np.ndarray:
    """Reads a picture at the size at which it is displayed.

    EXIF orientation is applied. Transparent pixels are laid over white. Grey of 16 bits is scaled
    to 8 by dropping the low byte. Grey of 32 bits does not say which number is white: integers up
    to 65535 are taken for 16-bit grey; floats for a scale that ends at 1, 255 or 65535, the first
    of these that holds all of them; beyond that the largest number found is white. Of an animation
    or a file of several pages the first frame is read, with a warning.

    Args:
        path: PNG, JPEG, TIFF, WebP, BMP, GIF, PPM/PGM/PBM, JPEG 2000 or (from Pillow 11.3) AVIF
            file. The content counts, not the ending.
        max_pixels: largest width times height to read; bigger ones are refused by their header.
            A WebP file is also held to twice ``PIL.Image.MAX_IMAGE_PIXELS``.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous.

    Raises:
        DataError: if the file cannot be opened, is not one of these formats, is damaged or cut off,
            has too many pixels, for ``max_pixels`` or for its bytes, or does not fit in memory.
    """
    where = printable(path)
    picture, _ = _load(path, where, max_pixels)
    with _decoding(where):
        return _turned(_rgb_pixels(picture, where), _orientation(picture))


def as_rgb(image: object) -> np.ndarray:
    """Takes a picture in any of the usual forms.

    Args:
        image: one of

            - a path (``str`` or ``os.PathLike``), read by ``read_image``;
            - a PIL image; converted like a file, EXIF orientation included;
            - a numpy array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of uint8, uint16
              (scaled by dropping the low byte), bool (black and white) or float in 0..1;
            - a torch tensor (3, H, W), (1, H, W), (1, 3, H, W) or (1, 1, H, W) of these types, on
              any device.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous. It may share memory with an array passed in.

    Raises:
        ArgumentError: if the kind, shape, type or range is not one of these.
        DataError: if there is no pixel in it, or the file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        _refuse_empty(image.size, "image")
        with _decoding("image"):
            image.load()
            return _turned(_rgb_pixels(image, "image"), _orientation(image))
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    if any(
        kind.__module__ == "torch" and kind.__name__ == "Tensor" for kind in type(image).__mro__
    ):
        return _array_to_rgb(_tensor_to_array(image))
    raise ArgumentError(
        f"cannot take a {type(image).__name__} for a picture",
        where="image",
        fix="pass a path, a PIL image, a numpy array (H, W, 3) or a torch tensor (3, H, W)",
    )


def read_label(path: str | os.PathLike[str], *, num_classes: int | None = None) -> np.ndarray:
    """Reads a label map as the numbers that are stored, whatever colours a palette gives them.

    EXIF orientation is applied, so that the map agrees with its picture.

    Args:
        path: PNG, TIFF or BMP file: palette, grey, or RGB(A) with three equal channels and no
            transparency. 16- and 32-bit numbers are taken if all are below 256.
        num_classes: if given, every number must be below it or 255.

    Returns:
        (H, W) uint8, C-contiguous.

    Raises:
        DataError: as ``read_image``; or if the file holds colours, transparency, numbers that do
            not fit, or is of a format that changes them.
    """
    where = printable(path)
    picture, depth = _load(path, where, _MAX_PIXELS)
    if picture.format not in _LABEL_FORMATS or picture.info.get("compression") in _LOSSY_TIFF:
        raise DataError(
            f"{picture.format} files cannot hold a label map",
            where=where,
            why=_LABEL_SPOILERS.get(
                picture.format or "", "lossy compression changes the class indices"
            ),
            fix="export the label map again as PNG, from its source and not from this file",
        )
    with _decoding(where):
        label = _turned(_stored_indices(picture, depth, where), _orientation(picture))
    if num_classes is not None:
        _check_values(label, num_classes, 255, where)
    return label


def check_label_values(label: np.ndarray, labels: LabelSet, *, where: object) -> None:
    """Checks that a label map holds nothing but train ids and the ignore index.

    Args:
        label: (H, W) uint8 train ids, that is after ``to_train_ids``.
        labels: what the ids mean.
        where: the file, for the message.

    Raises:
        ArgumentError: if ``label`` is not (H, W) uint8.
        DataError: if there are other values; names the first such pixel as (column, row), what is
            allowed, and how often each stray value occurs, for at most five of them.
    """
    _check_values(label, labels.num_classes, labels.ignore_index, printable(where))


def to_train_ids(label: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Maps the label values on disk to train ids.

    Args:
        label: (H, W) uint8 raw ids.
        labels: its ``raw_ids`` say which raw id becomes which train id; raw ids that it does not
            list become ``ignore_index``. Without ``raw_ids`` the label comes back unchanged.

    Returns:
        (H, W) uint8 train ids.

    Raises:
        ArgumentError: if ``label`` is not (H, W) uint8, or an id to map to is not in 0..255.
    """
    _require_label(label)
    if labels.raw_ids is None:
        return label
    targets = {raw: train for raw, train in labels.raw_ids.items() if 0 <= raw <= 255}
    for value in (labels.ignore_index, *targets.values()):
        if not 0 <= value <= 255:
            raise ArgumentError(
                f"cannot store {value} in an 8-bit label map",
                where=f"labels {labels.name!r}",
                fix="use train ids and an ignore index in 0–255",
            )
    table = np.full(256, labels.ignore_index, np.uint8)
    for raw, train in targets.items():
        table[raw] = train
    mapped: np.ndarray = table[label]
    return mapped


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists the pictures of a folder by their endings, sorted by name.

    Hidden files, subfolders and what is in them are left out. Dangling links and pipes are not:
    they are for ``read_image`` to name, so that nothing is lost in silence.

    Raises:
        DataError: if the folder is missing, cannot be listed, or holds no picture.
    """
    root, where = Path(folder), printable(folder)
    try:
        with os.scandir(root) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES
                and not entry.is_dir()
            ]
    except FileNotFoundError as cause:
        raise DataError("no such folder", where=where, fix="check the path") from cause
    except NotADirectoryError as cause:
        raise DataError(
            "is a file, not a folder", where=where, fix="give the folder that it is in"
        ) from cause
    except (OSError, ValueError) as cause:
        raise DataError(
            "cannot be listed", where=where, why=str(cause), fix="check path and permissions"
        ) from cause
    if not names:
        raise DataError(
            "no pictures in this folder",
            where=where,
            why=f"looked for {', '.join(IMAGE_SUFFIXES)}; subfolders are not searched",
            fix="give the folder that holds the pictures",
        )
    return [root / name for name in sorted(names)]


def write_png(
    path: str | os.PathLike[str], array: np.ndarray, *, palette: np.ndarray | None = None
) -> None:
    """Writes a PNG file; at any moment there is the old file or the new one, whole.

    Args:
        path: file to create or replace; its folder must exist.
        array: (H, W) uint8, written as palette indices or grey, or (H, W, 3) uint8 RGB.
        palette: (256, 3) uint8 RGB colours for the values of an (H, W) array, for example
            ``LabelSet.palette_array()``. ``None``: grey.

    Raises:
        ArgumentError: if the array or the palette has another shape or type.
        DataError: if the file cannot be written.
    """
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != np.uint8
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
        or array.size == 0
    ):
        raise ArgumentError(
            f"cannot write {_described(array)} as PNG",
            where=printable(path),
            fix="pass uint8 of shape (H, W) or (H, W, 3), not empty",
        )
    if palette is not None and (
        array.ndim != 2
        or not isinstance(palette, np.ndarray)
        or palette.shape != (256, 3)
        or palette.dtype != np.uint8
    ):
        raise ArgumentError(
            f"cannot use {_described(palette)} as palette of {_described(array)}",
            where="palette",
            fix="pass a (256, 3) uint8 palette with an (H, W) array",
        )
    picture = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        picture.putpalette(palette.tobytes())
    atomic_write(path, lambda stream: picture.save(stream, format="PNG"))


# Opening


def _load(
    path: str | os.PathLike[str], where: str, max_pixels: int
) -> tuple[ImageFile.ImageFile, int]:
    """Opens and decodes the first frame; also returns the bits per sample, 8 where not known."""
    if max_pixels < 1:
        raise ArgumentError(f"{max_pixels} is below 1", where="max_pixels", fix="allow some pixels")
    with open_regular(path) as stream, _decoding(where):
        start = stream.read(64)
        num_bytes = os.fstat(stream.fileno()).st_size
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
            f"the picture is {width}×{height}, more than {max_pixels} pixels",
            where=where,
            fix="make it smaller, or raise max_pixels if you trust it",
        )
    if width * height > max(_PLAUSIBLE_PIXELS, _PLAUSIBLE_PIXELS_PER_BYTE * num_bytes):
        raise DataError(
            f"the header claims {width}×{height} pixels, but the file has only {num_bytes} bytes",
            where=where,
            fix="fetch or export it again",
        )
    _refuse_empty(size, where)


def _refuse_empty(size: tuple[int, ...], where: str) -> None:
    if 0 in size:
        raise DataError("the picture has no pixels", where=where, fix="leave it out")


@contextmanager
def _decoding(where: str) -> Iterator[None]:
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


# Pixels


def _rgb_pixels(picture: Image.Image, where: str) -> np.ndarray:
    """Loaded picture of any mode → (H, W, 3) uint8, not yet turned."""
    if picture.mode.startswith("I") or picture.mode == "F":
        grey = _scaled(np.asarray(picture), where)
        return np.repeat(grey[:, :, None], 3, axis=2)
    width, height = picture.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, _BLOCK_PX // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        whole = rows >= height
        part = picture if whole else picture.crop((0, top, width, bottom))
        rgb[top:bottom] = np.asarray(_flattened(part))
    return rgb


def _flattened(part: Image.Image) -> Image.Image:
    """Converts to RGB, transparent pixels over white."""
    if part.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in part.info:
        # Premultiplied grey has no direct way to RGBA.
        shown = part.convert("LA") if part.mode == "La" else part
        white = Image.new("RGBA", part.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, shown.convert("RGBA")).convert("RGB")
    return part if part.mode == "RGB" else part.convert("RGB")


def _scaled(values: np.ndarray, where: str) -> np.ndarray:
    """Numbers wider than 8 bits → (H, W) uint8, by the rule told in ``read_image``."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise DataError(
            f"pixel values run from {low} to {high}",
            where=where,
            why="black is 0 and there is no grey for less, for infinity or for NaN",
            fix="convert the picture to 8 bits",
        )
    if values.dtype.kind != "f" and high <= 65535:
        return (values >> 8).astype(np.uint8)
    whites = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else ()
    white = next((white for white in whites if high <= white), float(high))
    return np.rint(values * (255.0 / white)).astype(np.uint8)


def _array_to_rgb(array: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of the types of ``as_rgb`` → (H, W, 3) uint8."""
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
        fix = "pass shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            fix += "; if channels come first, use array.transpose(1, 2, 0)"
        raise ArgumentError(f"got {_described(array)} for a picture", where="image", fix=fix)
    _refuse_empty(array.shape, "image")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ArgumentError(
                f"float picture with values from {low} to {high}",
                where="image",
                fix="scale floats to 0..1, or pass uint8 in 0..255; do not normalise beforehand",
            )
        array = np.rint(array * np.float32(255)).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ArgumentError(
            f"got {_described(array)} for a picture",
            where="image",
            fix="convert to uint8 (0..255), uint16, bool or float in 0..1",
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif array.shape[2] == 4:
        array = _rgb_pixels(Image.fromarray(np.ascontiguousarray(array)), "image")
    return np.ascontiguousarray(array)


def _tensor_to_array(tensor: Any) -> np.ndarray:
    """Torch tensor (C, H, W) or (1, C, H, W), C 1 or 3 → numpy (H, W, C) of the same type."""
    shape = tuple(tensor.shape)
    if len(shape) == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ArgumentError(
            f"got a torch tensor {shape} for a picture",
            where="image",
            fix="pass one picture of shape (3, H, W), (1, H, W) or (1, 3, H, W)",
        )
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array: np.ndarray = tensor.detach().cpu().permute(1, 2, 0).numpy()
    return array


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1..8; 1 where there is none or the EXIF block cannot be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # display programs show such pictures unturned
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(H, W, ...) pixels as EXIF wants them displayed, C-contiguous."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


# Labels


def _stored_indices(picture: Image.Image, depth: int, where: str) -> np.ndarray:
    """Loaded picture of any mode → (H, W) uint8 indices, not yet turned."""
    mode = picture.mode
    values = np.asarray(picture)
    if mode in ("1", "P", "L"):
        values = values.astype(np.uint8)
        if mode == "L" and depth in (2, 4):
            # Pillow stretches grey of few bits to 0..255; the indices were the numbers before.
            values //= 255 // (2**depth - 1)
        return values
    if mode.startswith("I"):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 255:
            raise DataError(
                f"label values run from {low} to {high}, allowed are 0–255",
                where=where,
                fix="map them to class indices and save as 8-bit PNG",
            )
        return values.astype(np.uint8)
    if mode in ("LA", "RGB", "RGBA", "RGBX"):
        if mode in ("LA", "RGBA") and int(values[:, :, -1].min()) < 255:
            raise DataError(
                "the label map has transparent pixels",
                where=where,
                fix="save class indices as 8-bit PNG without transparency, 255 for unlabelled",
            )
        grey = values[:, :, 0]
        if mode == "LA" or bool((values[:, :, 1:3] == values[:, :, :1]).all()):
            return grey
        stray = np.argwhere((values[:, :, 1:3] != values[:, :, :1]).any(axis=2))[0]
        row, column = int(stray[0]), int(stray[1])
        color = tuple(int(v) for v in values[row, column, :3])
        raise DataError(
            f"the label map holds colours, not class indices: pixel ({column}, {row}) is {color}",
            where=where,
            fix="convert its colours to class indices and save as palette or grey PNG",
        )
    raise DataError(
        f"a label map cannot be of mode {mode}",
        where=where,
        fix="save class indices as palette or grey 8-bit PNG",
    )


def _check_values(label: np.ndarray, num_classes: int, ignore_index: int, where: str) -> None:
    _require_label(label)
    counts = _histogram(label)
    counts[:num_classes] = 0
    if 0 <= ignore_index <= 255:
        counts[ignore_index] = 0
    stray = np.flatnonzero(counts)
    if not len(stray):
        return
    table = np.zeros(256, np.bool_)
    table[stray] = True
    row, column = np.unravel_index(int(table[label].argmax()), label.shape)
    allowed = f"0–{num_classes - 1}"
    if ignore_index >= num_classes:
        allowed += f" or {ignore_index}"
    often = ", ".join(f"{value} ({counts[value]} px)" for value in stray[:5])
    more = f" and {len(stray) - 5} more" if len(stray) > 5 else ""
    if len(stray) == 1 and stray[0] == num_classes and not (label == 0).any():
        fix = "the values seem to start at 1: subtract 1, or map them with LabelSet(raw_ids=...)"
    else:
        fix = (
            f"map the values to class indices with LabelSet(raw_ids=...), "
            f"{ignore_index} for unlabelled"
        )
    raise DataError(
        f"pixel ({column}, {row}) = {label[row, column]}, allowed {allowed}",
        where=where,
        why=f"stray values: {often}{more}",
        fix=fix,
    )


def _histogram(label: np.ndarray) -> np.ndarray:
    """How often each of 0..255 occurs; (256,) int64."""
    counts = np.zeros(256, np.int64)
    flat = label.reshape(-1)
    for start in range(0, flat.size, _BLOCK_PX):  # bincount widens its input to 8 bytes a pixel
        counts += np.bincount(flat[start : start + _BLOCK_PX], minlength=256)
    return counts


def _require_label(label: np.ndarray) -> None:
    if not isinstance(label, np.ndarray) or label.ndim != 2 or label.dtype != np.uint8:
        raise ArgumentError(
            f"got {_described(label)} for a label map", where="label", fix="pass (H, W) uint8"
        )


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return f"a {type(value).__name__}"
