"""Resizing on the device of the tensor: photos as OpenCV does, score maps band by band."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.types import Size

__all__ = ["bands", "resize_photo"]

_BAND_ELEMENTS = 1 << 17  # values of one band, so that all passes over it stay in the cache
_NARROW = 128  # wider maps are resized across by ``interpolate``: the matrix would be mostly zeros
_WEIGHT_ONE = 2048  # OpenCV's 8-bit linear resize has weights of 11 bits


def resize_photo(image: Tensor, size: Size, *, factor: float | None = None) -> Tensor:
    """Linear resize of an 8-bit picture with OpenCV's fixed-point arithmetic.

    A resize in float arithmetic differs by one grey level in places, which is enough to move a
    published score in its second digit.

    Args:
        image: (H, W, C) uint8.
        size: (height, width) of the result.
        factor: source coordinates are ``(i + 0.5) / factor - 0.5``, as OpenCV has it when it is
            given a factor; otherwise the ratio of the sizes counts.

    Returns:
        (*size, C) uint8 on the same device; the picture itself if nothing is to be done.
    """
    height, width, channels = image.shape
    if (height, width) == size and factor in (None, 1):
        return image
    top, down = _fixed_taps(height, size[0], factor, clamp_weight=False)
    left, across = _fixed_taps(width, size[1], factor, clamp_weight=True)
    device = image.device
    channel = torch.arange(channels)
    near = (left[:, None] * channels + channel).flatten().to(device)
    far = ((left + 1).clamp(max=width - 1)[:, None] * channels + channel).flatten().to(device)
    across = across.repeat_interleave(channels).to(device)
    upper, lower = top.clamp(0, height - 1), (top + 1).clamp(0, height - 1)
    flat = image.reshape(height, width * channels)
    out = torch.empty((size[0], size[1] * channels), dtype=torch.uint8, device=device)
    step = _rows_per_band(device, size[0], size[1] * channels)
    for start in range(0, size[0], step):
        part = slice(start, min(start + step, size[0]))
        first, last = int(upper[part.start]), int(lower[part.stop - 1]) + 1
        source = flat[first:last].to(torch.int32)
        mixed = source[:, near] * (_WEIGHT_ONE - across) + source[:, far] * across
        mixed >>= 4
        weight = down[part, None].to(device)
        above = mixed[(upper[part] - first).to(device)] * (_WEIGHT_ONE - weight)
        below = mixed[(lower[part] - first).to(device)] * weight
        out[part] = (((above >> 16) + (below >> 16) + 2) >> 2).to(torch.uint8)
    out = out.view(*size, channels)
    if factor == 0.5:
        _halve_border(image, out)
    return out


def _halve_border(image: Tensor, out: Tensor) -> None:
    """Half of an odd side, rounded up: OpenCV takes means there, and rounds halves to even.

    Everywhere else its special case for one half agrees with the general one.
    """
    height, width = image.shape[:2]
    if 2 * out.shape[1] > width:
        column = image[:, -1].double()
        rows = column[: height // 2 * 2].view(-1, 2, image.shape[2]).mean(1)
        out[: len(rows), -1] = rows.round().to(torch.uint8)
    if 2 * out.shape[0] > height:
        row = image[-1].double()
        columns = row[: width // 2 * 2].view(-1, 2, image.shape[2]).mean(1)
        out[-1, : len(columns)] = columns.round().to(torch.uint8)


def _fixed_taps(
    source: int, target: int, factor: float | None, *, clamp_weight: bool
) -> tuple[Tensor, Tensor]:
    """Lower source index (may be -1 unless clamped) and the upper one's weight in 0..2048."""
    step = source / target if factor is None else 1 / factor
    position = ((torch.arange(target, dtype=torch.float64) + 0.5) * step - 0.5).float()
    lower = position.floor()
    weight = position - lower
    if clamp_weight:  # OpenCV does this for columns only; rows keep the weight, repeat the pixel
        weight[(lower < 0) | (lower >= source - 1)] = 0
        lower = lower.clamp(0, source - 1)
    return lower.long(), (weight * _WEIGHT_ONE).round().int()


def bands(
    maps: Tensor,
    size: Size,
    *,
    align_corners: bool,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear resize, one band of rows after the other.

    On a CPU each band fits the cache; on other devices there is one band.

    Args:
        maps: (N, K, h, w) float.
        size: (height, width) of the whole result.
        align_corners: as in ``torch.nn.functional.interpolate``.
        rows: part of the result's rows that is wanted; no step.
        columns: the same for columns.

    Yields:
        The band's rows, counted from the first wanted one, and its (N, K, rows, columns) values,
        which may be a view of ``maps``.
    """
    count, classes, height, width = maps.shape
    first, last, _ = rows.indices(size[0])
    if maps.device.type != "cpu":
        whole = maps
        if (height, width) != size:
            whole = F.interpolate(maps, size, mode="bilinear", align_corners=align_corners)
        yield slice(0, last - first), whole[..., rows, columns]
        return
    step = _rows_per_band(maps.device, last - first, count * classes * size[1])
    taken, across = slice(None), None
    if width < size[1] and width <= _NARROW:
        taken, across = _mixing(width, size[1], align_corners, 0, size[1])
        across = across[columns].T.to(maps)
    for start in range(first, last, step):
        end = min(start + step, last)
        if height == size[0]:
            source, down = slice(start, end), None
        else:
            source, down = _mixing(height, size[0], align_corners, start, end)
        band = maps[:, :, source]
        if across is not None:
            band = band[..., taken]
            band = (band.reshape(-1, band.shape[3]) @ across).view(*band.shape[:3], -1)
        elif width != size[1]:
            shape = (band.shape[2], size[1])
            band = F.interpolate(band, shape, mode="bilinear", align_corners=align_corners)
            band = band[..., columns]
        else:
            band = band[..., columns]
        yield slice(start - first, end - first), band if down is None else down.to(band) @ band


@lru_cache(maxsize=64)
def _taps(source: int, target: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """Lower source index and weight of the next one, in the arithmetic of ``interpolate``."""
    index = torch.arange(target, dtype=torch.float32)
    if align_corners:
        position = index * ((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        position = ((index + 0.5) * (source / target) - 0.5).clamp(min=0)
    lower = position.long().clamp(max=source - 1)
    return lower, position - lower


@lru_cache(maxsize=256)
def _mixing(
    source: int, target: int, align_corners: bool, start: int, end: int
) -> tuple[slice, Tensor]:
    """Which source rows the target rows ``start`` to ``end`` are mixed of, and with what weights.

    As a matrix product a resize needs no copies of rows and no index arithmetic per value.
    """
    lower, weight = (values[start:end, None] for values in _taps(source, target, align_corners))
    upper = (lower + 1).clamp(max=source - 1)
    rows = slice(int(lower[0]), int(upper[-1]) + 1)
    matrix = torch.zeros(end - start, rows.stop - rows.start)
    matrix.scatter_add_(1, lower - rows.start, 1 - weight)
    matrix.scatter_add_(1, upper - rows.start, weight)
    return rows, matrix


def _rows_per_band(device: torch.device, rows: int, row_elements: int) -> int:
    return max(1, _BAND_ELEMENTS // row_elements) if device.type == "cpu" else max(1, rows)
