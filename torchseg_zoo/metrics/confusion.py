"""Confusion counts on the device of the label maps, without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.metrics.scores import Scores, scores_of

__all__ = ["ConfusionMatrix", "class_ids", "count_pairs", "overlaps"]

_MAX_CLASSES = 255
_INT16_CLASSES = 180  # (K + 1)² pairs fit 16 bits up to here
# Below this share of changes from one pixel to the next, counting runs costs less than pixels.
_FEW_CHANGES = 1 / 12
# Atomic additions to one counter queue up; on a GPU each pair has several, summed at the end.
_LANES = 64


def class_ids(values: Tensor, num_classes: int, *, ignore_index: int | None = None) -> Tensor:
    """Label values as uint8, with K for everything that is no class or is to be ignored.

    Args:
        values: integers of any shape.
        num_classes: K, 1..255.
        ignore_index: value that counts as no class, even if it is below K.
    """
    if values.dtype == torch.uint8:
        found = values.clamp(max=num_classes)
    else:
        known = (values >= 0) & (values < num_classes)
        found = values.where(known, num_classes).to(torch.uint8)
    if ignore_index is not None and 0 <= ignore_index < num_classes:
        found = found.masked_fill(values == ignore_index, num_classes)
    return found


def count_pairs(
    truth: Tensor, prediction: Tensor, num_classes: int, *, ignore_index: int = 255
) -> Tensor:
    """Counts how often each (true class, predicted class) occurs.

    Nothing waits for a GPU: the shape of the result and of all that leads to it is known before.

    Args:
        truth: integers; what is negative, K or above, or ``ignore_index`` has no class.
        prediction: integers of the same shape, on the same device.
        num_classes: K.
        ignore_index: see ``truth``.

    Returns:
        (K + 1, K + 1) int64 on the device; rows are the truth, columns the prediction, and the last
        of each is "no class".

    Raises:
        ArgumentError: if the shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ArgumentError(
            f"truth is {tuple(truth.shape)}, the prediction {tuple(prediction.shape)}",
            where="prediction",
            fix="score label maps of one size",
        )
    truth, prediction = truth.reshape(-1), prediction.reshape(-1)
    count = _count_on_cpu if truth.device.type == "cpu" else _count_on_device
    counts = count(truth, prediction, num_classes, ignore_index)
    return counts.view(num_classes + 1, num_classes + 1)


def _pairs(truth: Tensor, prediction: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(true class) · (K + 1) + (predicted class), in the narrowest type that holds it."""
    kind = torch.int16 if num_classes <= _INT16_CLASSES else torch.int32
    pairs = class_ids(truth, num_classes, ignore_index=ignore_index).to(kind)
    return pairs.mul_(num_classes + 1).add_(class_ids(prediction, num_classes))


def _count_on_cpu(truth: Tensor, prediction: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    bins = (num_classes + 1) ** 2
    true, found = truth.numpy(), prediction.numpy()
    changes = true[1:] != true[:-1]
    changes |= found[1:] != found[:-1]
    if not true.size or np.count_nonzero(changes) > _FEW_CHANGES * true.size:
        return _pairs(truth, prediction, num_classes, ignore_index).bincount(minlength=bins)
    # Label maps have few borders: a run of equal pairs is counted at once.
    ends = np.append(np.flatnonzero(changes), true.size - 1)
    last = torch.from_numpy(true[ends]), torch.from_numpy(found[ends])
    pairs = _pairs(*last, num_classes, ignore_index).numpy()
    counts = np.bincount(pairs, np.diff(ends, prepend=-1), minlength=bins)
    return torch.from_numpy(counts.astype(np.int64))


def _count_on_device(
    truth: Tensor, prediction: Tensor, num_classes: int, ignore_index: int
) -> Tensor:
    # Not bincount: it waits for the device to learn the largest value.
    bins = (num_classes + 1) ** 2
    lane = torch.arange(truth.numel(), device=truth.device).remainder_(_LANES)
    index = lane.mul_(bins).add_(_pairs(truth, prediction, num_classes, ignore_index))
    counts = torch.zeros(_LANES * bins, dtype=torch.int64, device=truth.device)
    counts.scatter_add_(0, index, torch.ones_like(index))
    return counts.view(_LANES, bins).sum(0)


def overlaps(pairs: Tensor) -> Tensor:
    """What the scores of one picture need, much smaller than its pairs.

    Args:
        pairs: (K + 1, K + 1) from ``count_pairs``.

    Returns:
        (3, K) int64 on the device: pixels that are right, true pixels and predicted pixels of each
        class, without those that have no true class.
    """
    labelled = pairs[:-1]
    return torch.stack([labelled.diagonal(), labelled.sum(1), labelled.sum(0)[:-1]])


class ConfusionMatrix:
    """Counts of (true class, predicted class) over labelled pixels.

    Counts stay on the device of the label maps; reading ``counts`` or ``scores`` waits for it.

    Args:
        num_classes: K, 1..255.
        ignore_index: label value that is not counted, even if it is below K.

    Raises:
        ArgumentError: if ``num_classes`` is out of range.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        if not 1 <= num_classes <= _MAX_CLASSES:
            raise ArgumentError(
                f"{num_classes} classes", where="num_classes", fix=f"give 1 to {_MAX_CLASSES}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._pairs = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64)

    @property
    def counts(self) -> Tensor:
        """(K, K) int64 on the CPU, rows are the truth.

        Raises:
            ArgumentError: if a labelled pixel was predicted to be of no class.
        """
        pairs = self._pairs.cpu()
        stray = int(pairs[:-1, -1].sum())
        if stray:
            raise ArgumentError(
                f"{stray} labelled pixels were predicted as none of {self.num_classes} classes",
                where="prediction",
                fix="give class indices below the number of classes",
            )
        return pairs[:-1, :-1].clone()

    def update(self, truth: Tensor, prediction: Tensor) -> None:
        """Adds one or more label maps of equal shape.

        Args:
            truth: train ids; every value of K or above, or negative, is left out.
            prediction: class indices below K, on the same device.

        Raises:
            ArgumentError: if the shapes differ.
        """
        self.add(count_pairs(truth, prediction, self.num_classes, ignore_index=self.ignore_index))

    def add(self, pairs: Tensor) -> None:
        """Adds what ``count_pairs`` returned."""
        self._pairs = self._pairs.to(pairs.device) + pairs

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds another matrix's counts."""
        self._pairs = self._pairs + other._pairs.to(self._pairs.device)

    def scores(self) -> Scores:
        """All scores of the counts so far.

        Raises:
            ArgumentError: as ``counts``.
        """
        return scores_of(self.counts)
