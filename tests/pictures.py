"""Small pictures for tests, in memory and as bytes of files that no program would write."""

from __future__ import annotations

import struct
import zlib

import numpy as np

PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """One part of a PNG file, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG file with any header, whatever its rows hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows))]
    return PNG_START + b"".join(parts) + chunk(b"IEND", b"")


def photo(height: int = 24, width: int = 33, seed: int = 0) -> np.ndarray:
    """Smooth (H, W, 3) uint8 with noise on top; no symmetry under flips or turns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, (x * 2 + y) % 200], axis=2)
    return np.clip(base + rng.normal(0, 6, base.shape), 0, 255).astype(np.uint8)
