"""Batches of head-stride logits, cut into bands of full-size rows that fit a processor's cache."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from torchseg_zoo.types import Size

__all__ = ["Band", "bands"]

_CPU_BAND_BYTES = 2 << 20  # per thread: measured best where a core has 1 MiB of cache to itself
_GPU_BAND_BYTES = 64 << 20
_LEAST_ROWS = 4  # of a band: neighbours share the source rows between them


@dataclass(frozen=True)
class Band:
    """Some rows of some pictures, and the source rows that they are made of.

    Args:
        pictures: which of the batch.
        rows: which at full size.
        source: which at the head's stride.
        down: (rows, source rows) weights of the vertical resize.
        geometry: the whole resize.
    """

    pictures: slice
    rows: slice
    source: slice
    down: Tensor
    geometry: _Geometry

    def across(self, logits: Tensor, peaks: Tensor | None = None) -> Tensor:
        """(n, K, s, W): the source rows, less ``peaks`` (N, 1, h, w), stretched to full width."""
        part = logits[self.pictures, :, self.source]
        if peaks is not None:
            part = part - peaks[self.pictures, :, self.source]
        width = self.geometry.size[1]
        if part.is_cpu:
            flat = part.flatten(0, 1)
            wide: Tensor = torch.ops.aten.upsample_linear1d(
                flat, [width], self.geometry.align_corners
            )
            return wide.view(*part.shape[:-1], width)
        # Elsewhere its backward pass adds in no fixed order; a product is as fast, and exact.
        return part @ self.geometry.across.t()

    def across_back(self, slope: Tensor) -> Tensor:
        """The adjoint: (n, K, s, W) → (n, K, s, w)."""
        narrow = (*slope.shape[:-1], self.geometry.across.shape[1])
        if slope.is_cpu:
            flat = slope.flatten(0, 1)
            back: Tensor = torch.ops.aten.upsample_linear1d_backward(
                flat, [slope.shape[-1]], [*flat.shape[:-1], narrow[-1]], self.geometry.align_corners
            )
            return back.view(narrow)
        return slope @ self.geometry.across


def bands(logits: Tensor, labels: Tensor, align_corners: bool) -> Iterator[Band]:
    """All of the batch, in bands whose full-size logits fit the budget."""
    size = labels.shape[-2], labels.shape[-1]
    source = logits.shape[-2], logits.shape[-1]
    geometry = _geometry(source, size, align_corners, logits.dtype, logits.device)
    budget = _CPU_BAND_BYTES * torch.get_num_threads() if logits.is_cpu else _GPU_BAND_BYTES
    row_bytes = logits.shape[1] * size[1] * logits.itemsize
    height = min(size[0], max(_LEAST_ROWS, budget // row_bytes))
    pictures = max(1, budget // (row_bytes * size[0]))
    first, last = geometry.reach
    starts = range(0, size[0], height)
    # As many source rows for each: a compiled kernel is made for one shape.
    count = max(last[min(top + height, size[0]) - 1] + 1 - first[top] for top in starts)
    for picture in range(0, len(logits), pictures):
        for top in starts:
            bottom = min(top + height, size[0])
            above = min(first[top], source[0] - count)
            yield Band(
                slice(picture, picture + pictures),
                slice(top, bottom),
                slice(above, above + count),
                geometry.down[top:bottom, above : above + count],
                geometry,
            )


@dataclass(frozen=True)
class _Geometry:
    """A bilinear resize as two small matrices.

    Args:
        size: (H, W) after it.
        align_corners: which convention.
        down: (H, h) weights, on the logits' device.
        across: (W, w) weights, likewise.
        reach: first and last source row of each row.
    """

    size: Size
    align_corners: bool
    down: Tensor
    across: Tensor
    reach: tuple[list[int], list[int]]


@functools.lru_cache(maxsize=32)
def _geometry(
    source: Size, size: Size, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> _Geometry:
    (down, *reach), (across, *_) = (
        _weights(before, after, align_corners) for before, after in zip(source, size, strict=True)
    )
    return _Geometry(
        size,
        align_corners,
        down.to(device, dtype),
        across.to(device, dtype),
        (reach[0].tolist(), reach[1].tolist()),
    )


def _weights(source: int, size: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(size, source) weights of a linear resize, and the first and last source index of each."""
    index = torch.arange(size, dtype=torch.float64)
    if align_corners:
        position = index * ((source - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = ((index + 0.5) * (source / size) - 0.5).clamp_min(0)
    first = position.floor().long().clamp_max(source - 1)
    last = (first + 1).clamp_max(source - 1)
    share = position - first
    weights = torch.zeros(size, source, dtype=torch.float64)
    weights.scatter_add_(1, first[:, None], 1 - share[:, None])
    weights.scatter_add_(1, last[:, None], share[:, None])
    return weights, first, last
