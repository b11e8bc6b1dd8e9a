"""Replacing every byte of an array by a table's entry."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["look_up"]


def look_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``table[values]``, more than twice as fast as numpy does it.

    Args:
        table: (256,) uint8.
        values: uint8 of any shape, at least one-dimensional and not empty.

    Returns:
        uint8 of the same shape, C-contiguous and writable.
    """
    rows = np.ascontiguousarray(values).reshape(values.shape[0], -1)
    return np.array(Image.fromarray(rows).point(table.tolist())).reshape(values.shape)
