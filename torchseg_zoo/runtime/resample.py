"""Resizing without torch.

In float arithmetic, which differs from ``inference.resize`` by one grey level in places.
"""

from __future__ import annotations

import numpy as np

from torchseg_zoo.types import Size

__all__ = ["resize_labels", "resize_picture"]


def resize_picture(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Bilinear resize of (H, W, C) uint8 to (*size, C) uint8: half pixels, no antialiasing."""
    if pixels.shape[:2] == size:
        return pixels
    low, high, share = _taps(pixels.shape[0], size[0])
    rows = pixels[low] + (pixels[high].astype(np.float32) - pixels[low]) * share[:, None, None]
    low, high, share = _taps(pixels.shape[1], size[1])
    result = rows[:, low] + (rows[:, high] - rows[:, low]) * share[:, None]
    rounded: np.ndarray = (result + 0.5).astype(np.uint8)
    return rounded


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Nearest resize of (H, W) to size, of any type: the pixel under the target's centre."""
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.int64), source - 1)
        for source, target in zip(labels.shape, size, strict=True)
    )
    resized: np.ndarray = labels[rows[:, None], columns]
    return resized


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower source index, upper source index and weight of the upper one, per target index."""
    position = np.maximum((np.arange(target) + 0.5) * source / target - 0.5, 0)
    low = np.minimum(position.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32)
