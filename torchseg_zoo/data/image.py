"""Pictures from files that nobody vouches for, and writing PNG files.

Every function answers a bad file with one ``DataError`` that names it. Pictures come out as they
are displayed: turned as EXIF says, as 8-bit RGB.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from torchseg_zoo.data.decode import (
    MAX_PIXELS,
    decode,
    decoding,
    orientation,
    refuse_empty,
    turned,
)
from torchseg_zoo.errors import ArgumentError, DataError, described
from torchseg_zoo.files import atomic_write, printable

__all__ = ["IMAGE_SUFFIXES", "as_rgb", "list_images", "read_image", "write_png"]

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

_BLOCK_PX = 2**22  # pixels worked on at once, to keep temporary copies of big pictures small


def read_image(
    path: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> np.ndarray:
    """Reads a picture at the size at which it is displayed.

    EXIF orientation is applied. Transparent pixels are laid over white. Grey of 16 bits is scaled
    to 8 by dropping the low byte. Grey of 32 bits does not say which number is white: integers up
    to 65535 are taken for 16-bit grey; floats for a scale that ends at 1, 255 or 65535, the first
    of these that holds all of them; beyond that the largest number found is white. Of an animation
    or a file of several pages the first frame is read, with a warning.

    Args:
        path: PNG, JPEG, TIFF, WebP, BMP, GIF, PPM/PGM/PBM, JPEG 2000 or (from Pillow 11.3) AVIF
            file, or the bytes of one. The content counts, not the ending.
        max_pixels: largest width times height to read; bigger ones are refused by their header.
            A WebP file is also held to twice ``PIL.Image.MAX_IMAGE_PIXELS``.
        name: what messages call the picture; its path by default, which bytes do not have.

    Returns:
        (H, W, 3) uint8, RGB, C-contiguous.

    Raises:
        DataError: if the file cannot be opened, is not one of these formats, is damaged or cut off,
            has too many pixels, for ``max_pixels`` or for its bytes, or does not fit in memory.
    """
    where = name or ("bytes" if isinstance(path, bytes) else printable(path))
    picture, _ = decode(path, where, max_pixels)
    with decoding(where):
        return turned(_rgb_pixels(picture, where), orientation(picture))


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
        refuse_empty(image.size, "image")
        with decoding("image"):
            image.load()
            return turned(_rgb_pixels(image, "image"), orientation(image))
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
            f"cannot write {described(array)} as PNG",
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
            f"cannot use {described(palette)} as palette of {described(array)}",
            where="palette",
            fix="pass a (256, 3) uint8 palette with an (H, W) array",
        )
    picture = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        picture.putpalette(palette.tobytes())
    atomic_write(path, lambda stream: picture.save(stream, format="PNG"))


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
        raise ArgumentError(f"got {described(array)} for a picture", where="image", fix=fix)
    refuse_empty(array.shape, "image")
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
            f"got {described(array)} for a picture",
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
