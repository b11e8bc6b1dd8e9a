"""The label tail: head-stride logits → uint8 labels, without full-size logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from torchseg_zoo.types import Size

__all__ = ["Tail", "confidence", "label_map"]

_BAND_ELEMENTS = (
    1 << 18
)  # floats of one band of resized logits: 1 MiB, so that it stays in the cache


class Tail(Protocol):
    """A function from head-stride logits to one value per pixel."""

    def __call__(self, logits: Tensor, size: Size, *, align_corners: bool) -> Tensor: ...


def label_map(logits: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Class of the largest logit after a bilinear resize, computed band by band.

    Args:
        logits: (N, K, h, w) float.
        size: (height, width) of the labels.
        align_corners: as in ``torch.nn.functional.interpolate``.

    Returns:
        (N, *size) uint8 on the logits' device.
    """
    out = torch.empty((logits.shape[0], *size), dtype=torch.uint8, device=logits.device)
    for rows, band in _bands(logits, size, align_corners):
        out[:, rows] = band.argmax(1).to(torch.uint8)
    return out


def confidence(logits: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Probability of the most probable class after a bilinear resize of the logits.

    Returns:
        (N, *size) float32 in 0..1; arguments as in ``label_map``.
    """
    out = torch.empty((logits.shape[0], *size), dtype=torch.float32, device=logits.device)
    for rows, band in _bands(logits, size, align_corners):
        out[:, rows] = (band.amax(1) - band.logsumexp(1)).exp()
    return out


def _bands(logits: Tensor, size: Size, align_corners: bool) -> Iterator[tuple[slice, Tensor]]:
    logits = logits.float()
    count, classes, height, width = logits.shape
    top, bottom, down = _taps(height, size[0], align_corners, logits.device)
    left, right, across = _taps(width, size[1], align_corners, logits.device)
    rows = max(1, _BAND_ELEMENTS // (count * classes * size[1]))
    for start in range(0, size[0], rows):
        part = slice(start, min(start + rows, size[0]))
        upper, lower = logits[:, :, top[part]], logits[:, :, bottom[part]]
        band = torch.lerp(upper, lower, down[part, None])  # (N, K, rows, w)
        yield part, torch.lerp(band[..., left], band[..., right], across)


def _taps(
    source: int, target: int, align_corners: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower index, upper index and weight of the upper one, as ``interpolate`` takes them."""
    index = torch.arange(target, device=device, dtype=torch.float32)
    if align_corners:
        position = index * ((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        position = ((index + 0.5) * (source / target) - 0.5).clamp_min(0)
    lower = position.long().clamp_max(source - 1)
    return lower, (lower + 1).clamp_max(source - 1), position - lower
