"""Which pixels are hard: online hard example mining, on one process or over all of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Scope", "hard_pixels", "kth_smallest"]

Scope = Literal["process", "global"]
_DIGIT_BITS = 11


@torch.no_grad()
def hard_pixels(
    probability: Tensor,
    valid: Tensor,
    *,
    threshold: float,
    min_kept: float,
    scope: Scope = "process",
) -> Tensor:
    """Marks the pixels that count, as TorchSeg selects them.

    A pixel counts when its true class has a probability of at most ``threshold``, or of at most the
    ``min_kept``-th smallest probability if that is larger. With fewer labelled pixels than
    ``min_kept``, or ``min_kept`` 0, all labelled ones count. On a GPU nothing waits for the device.

    Args:
        probability: of the true class, 0..1, of any shape.
        valid: bool of the same shape; others never count.
        threshold: 0..1.
        min_kept: pixels that count at least; below 1 it is a share of all pixels, valid or not.
        scope: whether the ``min_kept`` smallest are those of this process or of all processes,
            which must then call this together, with as many pixels each.

    Returns:
        bool of the same shape.
    """
    everywhere = scope == "global" and torch.distributed.is_initialized()
    total = probability.numel() * (torch.distributed.get_world_size() if everywhere else 1)
    wanted = int(min_kept * total) if 0 < min_kept < 1 else int(min_kept)
    if not 0 < wanted <= total:
        return valid
    # Others come last in the order, as TorchSeg has them.
    probability = probability.masked_fill(~valid, torch.inf).flatten()
    if probability.is_cpu and not everywhere:
        limit = _limit_on_host(probability, threshold, wanted)
    else:
        kth = kth_smallest(probability, wanted, everywhere=everywhere)
        limit = kth.clamp_min(threshold)
    # The limit is infinite where fewer than ``wanted`` are valid: all of them count then.
    return (probability <= limit).view_as(valid) & valid


def _limit_on_host(probability: Tensor, threshold: float, wanted: int) -> Tensor:
    """The same limit; most often counting shows that the threshold is it."""
    if int((probability <= threshold).sum()) >= wanted:
        return probability.new_tensor(threshold)
    return probability.kthvalue(wanted).values.clamp_min(threshold)


def kth_smallest(values: Tensor, k: int, *, everywhere: bool = False) -> Tensor:
    """The ``k``-th smallest of many numbers, exactly, without sorting them or reading any back.

    Numbers that are not negative are in the order of their bits. So their leading digits are
    counted, the digit that holds the k-th is kept, and so on with the next digits of those that
    have it: three rounds for float32. Counts of several processes only need to be added up.

    Args:
        values: (n,) floats of at least 0, infinity included.
        k: 1 for the smallest; at most as many as there are numbers.
        everywhere: whether the numbers are those of all processes, which must call this together.

    Returns:
        Scalar of the values' type, on their device.
    """
    whole = torch.int32 if values.itemsize == 4 else torch.int64
    bits = values.contiguous().view(whole)
    left = 8 * values.itemsize - 1  # the sign is not looked at
    rank = torch.full((), k, dtype=torch.int64, device=values.device)
    found = torch.zeros((), dtype=whole, device=values.device)
    while left:
        width = min(_DIGIT_BITS, left)
        inside = (bits >> left) == found
        left -= width
        digit = ((bits >> left) & (2**width - 1)).masked_fill(~inside, 2**width)
        counts = torch.zeros(2**width + 1, dtype=torch.int64, device=values.device)
        counts.index_add_(0, digit, torch.ones_like(digit, dtype=torch.int64))
        counts = counts[:-1]
        if everywhere:
            torch.distributed.all_reduce(counts)
        reached = counts.cumsum(0)
        before = reached < rank
        rank = rank - counts.where(before, 0).sum()
        found = (found << width) | before.sum().to(whole)
    return found.view(values.dtype)
