"""Losses on logits. Models know none of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.layers import resize
from torchseg_zoo.training.border import BORDER
from torchseg_zoo.training.head_loss import banded_cross_entropy, true_class_probability
from torchseg_zoo.training.selection import Scope, hard_pixels
from torchseg_zoo.types import SegOutput

__all__ = [
    "Criterion",
    "after_resize",
    "cross_entropy",
    "ohem_cross_entropy",
    "presence_loss",
    "total_loss",
]

Criterion = Callable[..., Tensor]
"""``(logits, labels, *, align_corners)`` → scalar; the logits are at the head's own stride."""


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    align_corners: bool | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """Mean cross entropy over labelled pixels; 0 (with zero gradient) when there are none.

    Logits of another size than the labels are resized band by band: no full-size logits are made,
    and the loss can be differentiated once, not twice.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) integers: 0..K-1 or ``ignore_index``.
        align_corners: how logits are resized; needed if (h, w) is not (H, W).
        weight: (K,) factor per class; the mean is then weighted.
        label_smoothing: share of the target that is spread evenly over all classes, 0..1.
        ignore_index: label value that does not count.

    Raises:
        ArgumentError: if sizes differ and ``align_corners`` is not given.
    """
    mass = _mass(labels, weight, ignore_index).to(torch.promote_types(logits.dtype, torch.float32))
    mass = mass + (mass == 0)  # an empty sum stays 0
    if logits.shape[-2:] != labels.shape[-2:]:
        return banded_cross_entropy(
            logits, labels, mass, align_corners=_given(align_corners), weight=weight,
            label_smoothing=label_smoothing, ignore_index=ignore_index,
        )  # fmt: skip
    total = F.cross_entropy(
        # Half precision is too coarse for the sum over pixels.
        logits.float() if logits.itemsize < 4 else logits,
        labels.long(),
        weight=weight,
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / mass


def _mass(labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """How many pixels are labelled, each counted with its class's weight."""
    kept = labels != ignore_index
    if weight is None:
        return kept.sum()
    # One picture at a time: indices take eight bytes per pixel.
    masses = [
        (weight[one.where(here, 0).long()] * here).sum()
        for one, here in zip(labels, kept, strict=True)
    ]
    return torch.stack(masses).sum()


def _given(align_corners: bool | None) -> bool:
    if align_corners is None:
        raise ArgumentError(
            "logits and labels differ in size",
            where="align_corners",
            fix="say how logits are resized: model.config.align_corners",
        )
    return align_corners


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 100_000,
    scope: Scope = "process",
    align_corners: bool | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """Cross entropy over the hard pixels only (online hard example mining, as TorchSeg selects).

    A pixel counts when its true class has a probability of at most ``threshold``, or of at most the
    ``min_kept``-th smallest probability in the batch if that is larger. With fewer labelled pixels
    than ``min_kept``, or ``min_kept`` 0, all count.

    Args:
        logits: (N, K, h, w) float.
        labels: (N, H, W) integers: 0..K-1 or ``ignore_index``.
        threshold: 0..1.
        min_kept: pixels of the whole batch that count at least; below 1, their share.
        scope: whether the batch is this process's part of it or that of all processes.
        align_corners: how logits are resized; needed if (h, w) is not (H, W).
        weight: (K,) factor per class.
        label_smoothing: share of the target that is spread evenly over all classes, 0..1.
        ignore_index: label value that does not count.

    Raises:
        ArgumentError: if sizes differ and ``align_corners`` is not given.
    """
    if logits.shape[-2:] == labels.shape[-2:]:
        with torch.no_grad():
            costs = F.cross_entropy(
                logits.float() if logits.itemsize < 4 else logits, labels.long(),
                ignore_index=ignore_index, reduction="none",
            )  # fmt: skip
            probability = costs.neg_().exp_()
    else:
        probability = true_class_probability(
            logits.detach(), labels, align_corners=_given(align_corners),
            ignore_index=ignore_index,
        )  # fmt: skip
    kept = hard_pixels(
        probability, labels != ignore_index,
        threshold=threshold, min_kept=min_kept, scope=scope,
    )  # fmt: skip
    del probability
    return cross_entropy(
        logits, labels.masked_fill(~kept, ignore_index), align_corners=align_corners,
        weight=weight, label_smoothing=label_smoothing, ignore_index=ignore_index,
    )  # fmt: skip


def after_resize(loss: Callable[[Tensor, Tensor], Tensor]) -> Criterion:
    """A criterion from a loss that wants full-size logits; they are made for it, in float32."""

    def criterion(logits: Tensor, labels: Tensor, *, align_corners: bool) -> Tensor:
        size = (labels.shape[-2], labels.shape[-1])
        logits = resize(logits, size, align_corners=align_corners)
        return loss(logits.float() if logits.itemsize < 4 else logits, labels)

    return criterion


def presence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of each class being in the picture: EncNet's semantic encoding loss.

    Args:
        logits: (N, K) float.
        labels: (N, H, W) integers; values outside 0..K-1 name no class.
    """
    classes = logits.shape[1]
    named = labels.flatten(1).long()
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
    aux_criterion: Criterion | None = None,
    presence_weight: float = 0.2,
) -> Tensor:
    """Main loss plus weighted auxiliary losses, each compared at the labels' size.

    Border heads are left out: they are compared with edges, by ``border_loss``. An (N, K) output
    says which classes the picture holds, and is compared by ``presence_loss``.

    Args:
        output: logits at the heads' own strides.
        labels: (N, H, W) integers; H and W decide where the comparison takes place.
        criterion: see ``Criterion``.
        aux_weight: factor on each auxiliary loss.
        align_corners: how logits are resized.
        aux_criterion: for the auxiliary heads, if another.
        presence_weight: factor on the presence loss.
    """
    aux_criterion = aux_criterion or criterion
    loss = criterion(output.logits, labels, align_corners=align_corners)
    for name, logits in output.aux.items():
        if logits.ndim == 2:
            loss = loss + presence_weight * presence_loss(logits.float(), labels)
        elif not name.startswith(BORDER):
            loss = loss + aux_weight * aux_criterion(logits, labels, align_corners=align_corners)
    return loss
