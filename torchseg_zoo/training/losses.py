"""Losses on logits. Models know none of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.layers import resize
from torchseg_zoo.types import SegOutput

__all__ = ["cross_entropy", "ohem_cross_entropy", "total_loss"]

Criterion = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(
    logits: Tensor, labels: Tensor, *, weight: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """Mean cross entropy over labelled pixels; 0 (with zero gradient) when there are none.

    Args:
        logits: (N, K, H, W) float.
        labels: (N, H, W) int64.
        weight: (K,) factor per class; the mean is then weighted.
        ignore_index: label value that does not count.
    """
    total = F.cross_entropy(
        logits, labels, weight=weight, ignore_index=ignore_index, reduction="sum"
    )
    kept = labels != ignore_index
    if weight is None:
        mass = kept.sum().to(total.dtype)
    else:
        mass = (weight[labels.where(kept, 0)] * kept).sum()
    return total / mass.clamp_min(torch.finfo(total.dtype).tiny)


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: int = 100_000,
    weight: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Cross entropy over the hard pixels only (online hard example mining, as TorchSeg selects).

    A pixel counts when its true class has a probability of at most ``threshold``, or of at most the
    ``min_kept``-th smallest probability in the batch if that is larger. With fewer labelled pixels
    than ``min_kept``, or ``min_kept`` 0, all count.

    Args:
        logits: (N, K, H, W) float.
        labels: (N, H, W) int64.
        threshold: 0..1.
        min_kept: pixels of the whole batch that count at least.
        weight: (K,) factor per class.
        ignore_index: label value that does not count.
    """
    with torch.no_grad():
        valid = labels != ignore_index
        log_probability = -F.cross_entropy(
            logits.detach(), labels, ignore_index=ignore_index, reduction="none"
        )
        probability = log_probability.exp().masked_fill(~valid, 1.0).flatten()
        count = int(valid.sum())
        if 0 < min_kept <= count:
            kth = probability.kthvalue(min(min_kept, probability.numel())).values
            limit = kth.clamp_min(threshold)
            dropped = (probability > limit).view_as(labels)
            labels = labels.masked_fill(dropped, ignore_index)
    return cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index)


def total_loss(
    output: SegOutput,
    labels: Tensor,
    criterion: Criterion,
    *,
    aux_weight: float,
    align_corners: bool,
) -> Tensor:
    """Main loss plus weighted auxiliary losses, each head's logits resized to the labels' size.

    Args:
        output: logits at the heads' own strides.
        labels: (N, H, W) int64; H and W decide where the comparison takes place.
        criterion: (logits, labels) → scalar.
        aux_weight: factor on each auxiliary loss.
        align_corners: how logits are resized.
    """
    size = (labels.shape[-2], labels.shape[-1])

    def compare(logits: Tensor) -> Tensor:
        logits = resize(logits, size, align_corners=align_corners)
        # Half precision is too coarse for the sum over pixels.
        return criterion(logits.float() if logits.itemsize < 4 else logits, labels)

    loss = compare(output.logits)
    for logits in output.aux.values():
        loss = loss + aux_weight * compare(logits)
    return loss
