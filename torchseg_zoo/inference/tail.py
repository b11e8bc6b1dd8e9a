"""The label tail: head-stride logits → uint8 labels at any size, without full-size logits.

Both functions agree with a bilinear ``interpolate`` of the logits followed by ``argmax`` (or by the
largest softmax probability), up to rounding where two classes tie.

On a GPU one compiled kernel resizes and compares, without a compiler bands of rows do.

On a CPU the work is done per row of source cells, so that everything stays in the cache. A pixel
whose four surrounding logit vectors have the same largest class has that class, too, because
interpolation is a convex combination: most pixels of a real picture need no interpolation at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.inference.certainty import certainty
from torchseg_zoo.inference.prediction import Confidence
from torchseg_zoo.types import Size

__all__ = ["Tail", "confidence", "label_map"]

_BAND_ELEMENTS = 1 << 18  # floats of one band of resized logits: 1 MiB, which stays in the cache
_DENSE_SHARE = 0.7  # above this share of a row's pixels, picking columns costs more than it saves


class Tail(Protocol):
    """A function from head-stride logits to one value per pixel."""

    def __call__(self, logits: Tensor, size: Size, *, align_corners: bool) -> Tensor: ...


def label_map(logits: Tensor, size: Size, *, align_corners: bool) -> Tensor:
    """Class of the largest logit after a bilinear resize.

    Args:
        logits: (N, K, h, w) float, K at most 256.
        size: (height, width) of the labels.
        align_corners: as in ``torch.nn.functional.interpolate``.

    Returns:
        (N, *size) uint8 on the logits' device.
    """
    if logits.device.type == "cpu":
        maps = [_labels_of(plane, size, align_corners) for plane in logits.float().numpy()]
        return torch.from_numpy(np.stack(maps))
    if (
        logits.device.type == "cuda"
        and (labels := _kernel(logits, size, align_corners)) is not None
    ):
        return labels
    return _labels_by_bands(logits, size, align_corners)


def confidence(
    logits: Tensor,
    size: Size,
    *,
    align_corners: bool,
    kind: Confidence = "probability",
    temperature: float = 1.0,
) -> Tensor:
    """How sure the labels are, after a bilinear resize of the logits.

    Args:
        logits: as in ``label_map``, like ``size`` and ``align_corners``.
        kind: see ``Confidence``.
        temperature: logits are divided by it.

    Returns:
        (N, *size) float32 in 0..1.
    """
    out = torch.empty((logits.shape[0], *size), dtype=torch.float32, device=logits.device)
    for rows, band in _bands(logits, size, align_corners):
        out[:, rows] = certainty(band, kind, temperature)
    return out


def _labels_by_bands(logits: Tensor, size: Size, align_corners: bool) -> Tensor:
    out = torch.empty((logits.shape[0], *size), dtype=torch.uint8, device=logits.device)
    for rows, band in _bands(logits, size, align_corners):
        out[:, rows] = band.argmax(1).to(torch.uint8)
    return out


def _resized_argmax(logits: Tensor, size: Size, align_corners: bool) -> Tensor:
    """The definition; the compiler makes one kernel of it, which keeps no resized logits."""
    resized = F.interpolate(logits.float(), size, mode="bilinear", align_corners=align_corners)
    return resized.argmax(1).to(torch.uint8)


class _Kernel:
    """``_resized_argmax`` as one compiled kernel.

    Args:
        backend: of ``torch.compile``.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self._backend = backend
        self._run: Callable[[Tensor, Size, bool], Tensor] | None = None
        self._failed = False

    def __call__(self, logits: Tensor, size: Size, align_corners: bool) -> Tensor | None:
        """Labels; ``None`` where it cannot be compiled, which is said once."""
        if self._failed:
            return None
        try:
            if self._run is None:
                self._run = torch.compile(_resized_argmax, dynamic=True, backend=self._backend)
            return self._run(logits, size, align_corners)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler and Triton raise what they like
            self._failed = True
            why = str(error).strip().splitlines()[:1]
            warnings.warn(
                "labels are made without a compiled kernel, which is slower: "
                f"{type(error).__name__}: {''.join(why)[:120]}",
                RuntimeWarning,
                stacklevel=3,
            )
            return None


_kernel = _Kernel()


class _Taps(NamedTuple):
    """Lower source index, upper source index and weight of the upper one, per target index."""

    lower: np.ndarray
    upper: np.ndarray
    weight: np.ndarray


def _taps(source: int, target: int, align_corners: bool) -> _Taps:
    index = np.arange(target, dtype=np.float32)
    if align_corners:
        position = index * np.float32((source - 1) / (target - 1) if target > 1 else 0.0)
    else:
        half = np.float32(0.5)
        position = np.maximum((index + half) * np.float32(source / target) - half, 0)
    lower = np.minimum(position.astype(np.int64), source - 1)
    upper = np.minimum(lower + 1, source - 1)
    return _Taps(lower, upper, (position - lower).astype(np.float32))


def _labels_of(logits: np.ndarray, size: Size, align_corners: bool) -> np.ndarray:
    """(K, h, w) float32 → (*size) uint8."""
    height, width = logits.shape[1:]
    rows, columns = _taps(height, size[0], align_corners), _taps(width, size[1], align_corners)
    coarse: np.ndarray = logits.argmax(0).astype(np.uint8)
    labels: np.ndarray = coarse[:, columns.lower][rows.lower]
    contested = _corners_differ(coarse)[:, columns.lower]  # (h, W): pixel columns of each cell row
    ends = np.searchsorted(rows.lower, np.arange(height + 1))
    for cell in range(height):
        part = slice(ends[cell], ends[cell + 1])
        picked = np.flatnonzero(contested[cell])
        if part.start == part.stop or not picked.size:
            continue
        dense = picked.size > _DENSE_SHARE * size[1]
        taps = columns if dense else _Taps(*(tap[picked] for tap in columns))
        pair = logits[:, [cell, min(cell + 1, height - 1)]]  # (K, 2, w)
        across = pair.take(taps.lower, axis=2)
        across += (pair.take(taps.upper, axis=2) - across) * taps.weight
        found = _largest(across[:, 0], across[:, 1], rows.weight[part])
        if dense:
            labels[part] = found
        else:
            labels[part, picked] = found
    return labels


def _corners_differ(coarse: np.ndarray) -> np.ndarray:
    """(h, w): whether the cell right of and below each position has more than one class."""
    right = np.concatenate([coarse[:, 1:], coarse[:, -1:]], axis=1)
    differ: np.ndarray = coarse != right
    differ[:-1] |= (coarse[:-1] != coarse[1:]) | (coarse[:-1] != right[1:])
    return differ


def _largest(top: np.ndarray, bottom: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Class of the largest of top + (bottom - top) · weight: (K, P) twice, (R,) → (R, P) uint8."""
    weight = weight[:, None]
    step = bottom - top
    best = step[0] * weight + top[0]
    value, larger = np.empty_like(best), np.empty(best.shape, np.bool_)
    labels = np.zeros(best.shape, np.uint8)
    as_label = larger.view(np.uint8)
    for index in range(1, len(top)):
        np.multiply(step[index], weight, out=value)
        value += top[index]
        np.greater(value, best, out=larger)
        np.maximum(best, value, out=best)
        # Classes come in rising order, so "the last class that was larger" is a maximum.
        np.multiply(as_label, np.uint8(index), out=as_label)
        np.maximum(labels, as_label, out=labels)
    return labels


def _bands(logits: Tensor, size: Size, align_corners: bool) -> Iterator[tuple[slice, Tensor]]:
    """Row bands of the resized logits: the rows and their (N, K, rows, W) values."""
    logits = logits.float()
    count, classes, height, width = logits.shape

    def on_device(taps: _Taps) -> list[Tensor]:
        return [torch.from_numpy(tap).to(logits.device) for tap in taps]

    top, bottom, down = on_device(_taps(height, size[0], align_corners))
    left, right, across = on_device(_taps(width, size[1], align_corners))
    rows = max(1, _BAND_ELEMENTS // (count * classes * size[1]))
    for start in range(0, size[0], rows):
        part = slice(start, min(start + rows, size[0]))
        upper, lower = logits[:, :, top[part]], logits[:, :, bottom[part]]
        band = torch.lerp(upper, lower, down[part, None])  # (N, K, rows, w)
        yield part, torch.lerp(band[..., left], band[..., right], across)
