"""Label maps too big for memory, written as their rows come. Free of torch."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchseg_zoo.data.strips import import_tifffile
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.files import atomic_write, printable
from torchseg_zoo.types import Size

__all__ = ["TARGET_SUFFIXES", "check_target", "write_rows"]

TARGET_SUFFIXES: tuple[str, ...] = (".npy", ".tif", ".tiff", ".png")
"""Endings of the files that can be written by rows."""

_TIFF = (".tif", ".tiff")
_TILE = 256  # side of the tiles of TIFF files written here


def check_target(target: str | os.PathLike[str]) -> None:
    """Refuses what ``write_rows`` could not write, before any work is done.

    Raises:
        ArgumentError: if the ending is none of ``TARGET_SUFFIXES``.
        MissingExtraError: if writing TIFF takes tifffile, which is not installed.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in TARGET_SUFFIXES:
        raise ArgumentError(
            f"cannot write a label map as {suffix or 'a file without ending'}",
            where=printable(target),
            fix=f"use {', '.join(TARGET_SUFFIXES)}",
        )
    if suffix in _TIFF:
        import_tifffile()


def write_rows(
    target: str | os.PathLike[str],
    size: Size,
    rows: Iterator[np.ndarray],
    *,
    palette: np.ndarray | None = None,
) -> None:
    """Writes a label map as its rows come; at any moment there is the old file or the new, whole.

    Args:
        target: ``.npy`` (for ``numpy.load(mmap_mode="r")``), ``.tif`` (tiles of 256, deflated;
            BigTIFF from 2 GiB) or ``.png``.
        size: (height, width).
        rows: (n, W) uint8, together H rows.
        palette: (256, 3) uint8 RGB colours, for TIFF and PNG.

    Raises:
        ArgumentError: if the ending is none of these.
        DataError: if the file cannot be written.
        MissingExtraError: if writing TIFF takes tifffile, which is not installed.
    """
    check_target(target)
    suffix = Path(target).suffix.lower()
    write: Callable[[BinaryIO, Size, Iterator[np.ndarray], np.ndarray | None], None]
    if suffix in _TIFF:
        write = _write_tiff
    else:
        write = _write_npy if suffix == ".npy" else _write_png
    atomic_write(target, lambda stream: write(stream, size, rows, palette))


def _write_npy(
    stream: BinaryIO, size: Size, rows: Iterator[np.ndarray], palette: np.ndarray | None
) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": size}
    np.lib.format.write_array_header_1_0(stream, header)
    for part in rows:
        stream.write(part.tobytes())


def _write_png(
    stream: BinaryIO, size: Size, rows: Iterator[np.ndarray], palette: np.ndarray | None
) -> None:
    def chunk(kind: bytes, data: bytes) -> None:
        stream.write(struct.pack(">I", len(data)) + kind + data)
        stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))

    stream.write(b"\x89PNG\r\n\x1a\n")
    color = 0 if palette is None else 3
    chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, color, 0, 0, 0))
    if palette is not None:
        chunk(b"PLTE", palette.tobytes())
    deflate = zlib.compressobj(6)
    for part in rows:
        lines: Any = np.zeros(
            (len(part), size[1] + 1), np.uint8
        )  # a filter byte of 0 before each line
        lines[:, 1:] = part
        if data := deflate.compress(memoryview(lines).cast("B")):
            chunk(b"IDAT", data)
    chunk(b"IDAT", deflate.flush())
    chunk(b"IEND", b"")


def _write_tiff(
    stream: BinaryIO, size: Size, rows: Iterator[np.ndarray], palette: np.ndarray | None
) -> None:
    colors = {} if palette is None else {"colormap": palette.T.astype(np.uint16) * 257}
    tifffile = import_tifffile()
    # A temporary file has a number in place of a name, which tifffile takes for a path.
    handle = tifffile.FileHandle(stream, name="labels.tif", mode="wb")
    with tifffile.TiffWriter(handle, bigtiff=size[0] * size[1] >= 2**31) as writer:
        writer.write(
            _tiles(size, rows), shape=size, dtype=np.uint8, tile=(_TILE, _TILE),
            photometric="minisblack" if palette is None else "palette", compression="zlib",
            metadata=None, maxworkers=1, **colors,
        )  # fmt: skip


def _tiles(size: Size, rows: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """(256, 256) tiles from left to right and down, the last ones padded with zeros."""
    band = np.zeros((_TILE, -(-size[1] // _TILE) * _TILE), np.uint8)
    filled = done = 0
    for part in rows:
        taken = 0
        while taken < len(part):
            count = min(_TILE - filled, len(part) - taken)
            band[filled : filled + count, : size[1]] = part[taken : taken + count]
            filled, taken, done = filled + count, taken + count, done + count
            if filled == _TILE or done == size[0]:
                band[filled:] = 0
                for left in range(0, band.shape[1], _TILE):
                    yield band[:, left : left + _TILE].copy()
                filled = 0
