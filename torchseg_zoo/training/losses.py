"""Losses on logits. Models know none of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.layers import resize
from torchseg_zoo.types import SegOutput

__all__ = [
    "binary_focal_loss",
    "border_loss",
    "cross_entropy",
    "legacy_border_loss",
    "ohem_cross_entropy",
    "presence_loss",
    "total_loss",
]

Criterion = Callable[[Tensor, Tensor], Tensor]
BORDER = "border"  # auxiliary outputs whose names begin so are border logits, not class logits


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


def binary_focal_loss(
    logits: Tensor,
    edges: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore_index: int = 255,
) -> Tensor:
    """Mean focal loss over labelled pixels (Lin et al. 2017, equation 5); 0 when there are none.

    A pixel whose true answer has probability p costs ``-a · (1 - p) ** gamma · log(p)``, where a is
    ``alpha`` on edges and ``1 - alpha`` elsewhere.

    Args:
        logits: (N, 1, H, W) float; positive says edge.
        edges: (N, H, W) int64: 1 on an edge, 0 elsewhere.
        alpha: weight of edges, 0..1.
        gamma: how much less a pixel counts the surer it is right; 0 for plain cross entropy.
        ignore_index: label value that does not count.
    """
    logits, kept, is_edge = logits[:, 0], edges != ignore_index, edges == 1
    cost = F.softplus(torch.where(is_edge, -logits, logits))  # -log(p)
    weight = torch.where(is_edge, alpha, 1 - alpha) * (1 - (-cost).exp()) ** gamma
    return (weight * cost * kept).sum() / kept.sum().clamp_min(1)


def legacy_border_loss(
    logits: Tensor,
    edges: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore_index: int = 255,
) -> Tensor:
    """What TorchSeg trained DFN's border heads with; wrong, and here only to replay its runs.

    It means to be ``binary_focal_loss``, but puts the probability s where the logit belongs. So it
    is never positive, and for ``gamma`` 2 its gradient raises s on edges and elsewhere alike. The
    mean is over all pixels, ignored ones included.

    Arguments as in ``binary_focal_loss``.
    """
    s = logits[:, 0].sigmoid()
    off_edge = alpha * (1 - s) ** gamma * s * (edges != 1)
    everywhere = (1 - alpha) * s**gamma * (-s).exp().log1p()
    return -((off_edge + everywhere) * (edges != ignore_index)).mean()


def border_loss(
    output: SegOutput, edges: Tensor, criterion: Criterion, *, align_corners: bool
) -> Tensor:
    """Sum of a criterion over DFN's border heads, each resized to the size of ``edges``.

    TorchSeg adds a tenth of it to ``total_loss``.

    Args:
        output: logits at the heads' own strides; heads whose names begin with "border" count.
        edges: (N, H, W) int64: 1 on an edge between classes, 0 elsewhere, 255 where unknown.
        criterion: (logits, edges) → scalar: ``binary_focal_loss`` or ``legacy_border_loss``.
        align_corners: how logits are resized.
    """
    size = (edges.shape[-2], edges.shape[-1])
    losses = [
        criterion(resize(logits, size, align_corners=align_corners), edges)
        for name, logits in output.aux.items()
        if name.startswith(BORDER)
    ]
    return torch.stack(losses).sum()


def presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of each class being in the picture: EncNet's semantic encoding loss.

    Args:
        logits: (N, K) float.
        labels: (N, H, W) int64; values outside 0..K-1 name no class.
    """
    classes = logits.shape[1]
    named = labels.flatten(1)
    named = named.where((named >= 0) & (named < classes), classes)
    present = logits.new_zeros(len(logits), classes + 1).scatter_(1, named, 1.0)[:, :classes]
    return F.binary_cross_entropy_with_logits(logits, present)


def total_loss(
    output: SegOutput,
    labels: Tensor,
    criterion: Criterion,
    *,
    aux_weight: float,
    align_corners: bool,
) -> Tensor:
    """Main loss plus weighted auxiliary losses, each head's logits resized to the labels' size.

    Border heads are left out: they are compared with edges, by ``border_loss``. An (N, K) output
    says which classes the picture holds, and is compared by ``presence_loss``.

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
    for name, logits in output.aux.items():
        if logits.ndim == 2:
            loss = loss + aux_weight * presence_loss(logits.float(), labels)
        elif not name.startswith(BORDER):
            loss = loss + aux_weight * compare(logits)
    return loss
