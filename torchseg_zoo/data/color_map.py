"""Label maps that are painted: reading class indices from their colours."""

from __future__ import annotations

import functools
import os

import numpy as np
from PIL import Image, ImageFile

from torchseg_zoo.data.decode import decoding, orientation, turned
from torchseg_zoo.data.label_map import decode_label
from torchseg_zoo.data.labels import Color, LabelSet
from torchseg_zoo.errors import ArgumentError, DataError, listed
from torchseg_zoo.files import printable

__all__ = ["count_colors", "packed_colors", "read_color_label", "unpacked"]


def read_color_label(
    path: str | os.PathLike[str] | bytes, labels: LabelSet, *, name: str | None = None
) -> np.ndarray:
    """Reads a painted label map as train ids. EXIF orientation is applied.

    Args:
        path: PNG, TIFF or BMP file in RGB, grey or with a palette, of 8 bits and without
            transparency; or the bytes of one.
        labels: its ``raw_colors`` say what the colours mean.
        name: what messages call the map; its path by default.

    Returns:
        (H, W) uint8 train ids, C-contiguous.

    Raises:
        ArgumentError: if ``labels`` has no ``raw_colors``, or one that is not in 0..255.
        DataError: as ``read_label``; or if a colour is not listed, with the first such pixel as
            (column, row) and the commonest of these colours.
    """
    if not labels.raw_colors:
        raise ArgumentError("the label set lists no colours", where=f"labels {labels.name!r}")
    where = name or ("bytes" if isinstance(path, bytes) else printable(path))
    picture, _ = decode_label(path, where)
    packed = packed_colors(picture, where)
    ids = _table(tuple(labels.raw_colors.items()), labels.name)[packed]
    if ids.min() < 0:
        row, column = np.unravel_index(int(ids.argmin()), ids.shape)
        stray, counts = count_colors(packed[ids < 0])
        pairs = zip(stray.tolist(), counts.tolist(), strict=True)
        often = listed([f"{_hex(value)} ({count} px)" for value, count in pairs])
        raise DataError(
            f"pixel ({column}, {row}) has colour {_hex(int(packed[row, column]))}, "
            "which stands for no class",
            where=where,
            why=f"colours that are not listed: {often}",
            fix=f"list them in raw_colors of the classes file, {labels.ignore_index} for "
            "unlabelled, or mend the label map",
        )
    trains: np.ndarray = ids.astype(np.uint8)
    return trains


def packed_colors(picture: ImageFile.ImageFile, where: str) -> np.ndarray:
    """The colours of a label map that ``decode_label`` gave, turned as EXIF wants it displayed.

    Returns:
        (H, W) uint32, red · 65536 + green · 256 + blue.

    Raises:
        DataError: if it is transparent somewhere or has more than 8 bits.
    """
    with decoding(where):
        if picture.mode not in ("1", "L", "P", "LA", "RGB", "RGBA", "RGBX"):
            raise DataError(
                f"a painted label map cannot be of mode {picture.mode}",
                where=where,
                fix="save it as 8-bit RGB or palette PNG",
            )
        alpha = picture.mode in ("LA", "RGBA") or "transparency" in picture.info
        if alpha and np.asarray(picture.convert("RGBA").getchannel("A")).min() < 255:
            raise DataError(
                "the label map has transparent pixels",
                where=where,
                fix="save it without transparency, in a colour of their own",
            )
        rgb = np.asarray(_without_transparency(picture).convert("RGB")).astype(np.uint32)
        packed = rgb[:, :, 0] << 16 | rgb[:, :, 1] << 8 | rgb[:, :, 2]
        return turned(packed, orientation(picture))


def count_colors(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct packed colours and how often each occurs, the commonest first."""
    values, counts = np.unique(packed, return_counts=True)
    order = np.lexsort((values, -counts))
    return values[order], counts[order]


def unpacked(color: int) -> Color:
    """(red, green, blue) of a packed colour."""
    return color >> 16, color >> 8 & 255, color & 255


def _without_transparency(picture: Image.Image) -> Image.Image:
    """Alpha is 255 everywhere by now; Pillow must not blend with it or warn of it."""
    if "transparency" in picture.info:
        picture = picture.copy()
        del picture.info["transparency"]
    return picture


@functools.lru_cache(maxsize=1)  # 32 MiB, and a run reads one label set
def _table(colors: tuple[tuple[Color, int], ...], name: str) -> np.ndarray:
    """(2**24,) int16: packed colour → train id, -1 where none is listed."""
    table = np.full(1 << 24, -1, np.int16)
    for (red, green, blue), train in colors:
        if not 0 <= train <= 255 or not all(0 <= part <= 255 for part in (red, green, blue)):
            raise ArgumentError(
                f"colour {(red, green, blue)} cannot stand for {train}",
                where=f"labels {name!r}",
                fix="use colours and train ids in 0–255",
            )
        table[red << 16 | green << 8 | blue] = train
    return table


def _hex(color: int) -> str:
    return f"{color:06x}"
