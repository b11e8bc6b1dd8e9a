"""Losses on overlap and on hard pixels, for classes that are rare: Dice, Lovász-softmax, focal.

All take logits at the labels' size, return a scalar, and are 0 with a zero gradient when no pixel
is labelled.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dice_loss", "focal_loss", "lovasz_softmax"]


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    squared: bool = True,
    per_class: bool = True,
    count_ignored: bool = False,
    sigmoid: bool = False,
    smooth: float = 1e-3,
    ignore_index: int = 255,
) -> Tensor:
    """One minus the Dice coefficient of probabilities and labels (Milletari et al. 2016).

    Args:
        logits: (N, K, H, W) float.
        labels: (N, H, W) integers.
        squared: sum squares in the denominator, as the paper does; else plain probabilities.
        per_class: average over the classes that the batch holds. Otherwise one coefficient per
            picture, over all classes and pixels together, as mmsegmentation computes it.
        count_ignored: let probabilities at ignored pixels count as wrong, as mmsegmentation does.
        sigmoid: classes are independent of each other.
        smooth: added to the sums, against division by 0.
        ignore_index: label value that does not count.
    """
    classes = logits.shape[1]
    kept = labels != ignore_index
    probability = logits.sigmoid() if sigmoid else logits.softmax(1)
    if not count_ignored:
        probability = probability * kept[:, None]
    truth = F.one_hot(labels.where(kept, classes).long(), classes + 1)[..., :-1]
    truth = truth.movedim(-1, 1).to(probability.dtype)
    over = (0, 2, 3) if per_class else (1, 2, 3)
    common = (probability * truth).sum(over)
    size = probability.square() if squared else probability
    if squared:
        coefficient = 2 * common / (size.sum(over) + truth.sum(over) + 2 * smooth)
    else:
        coefficient = (2 * common + smooth) / (size.sum(over) + truth.sum(over) + smooth)
    counts = truth.sum(over) > 0 if per_class else kept.flatten(1).any(1)
    return ((1 - coefficient) * counts).sum() / counts.sum().clamp_min(1)


def lovasz_softmax(
    logits: Tensor, labels: Tensor, *, per_image: bool = False, ignore_index: int = 255
) -> Tensor:
    """Lovász extension of the mean Jaccard loss over the classes present (Berman et al. 2018).

    Args:
        logits: (N, K, H, W) float.
        labels: (N, H, W) integers.
        per_image: average over pictures instead of taking the batch as one.
        ignore_index: label value that does not count.
    """
    if per_image:
        terms = [
            lovasz_softmax(logits[i : i + 1], labels[i : i + 1], ignore_index=ignore_index)
            for i in range(len(logits))
        ]
        return torch.stack(terms).mean()
    kept = labels != ignore_index
    probability = logits.softmax(1).movedim(1, -1)[kept]  # (pixels, K)
    truth = labels[kept]
    losses = [
        _lovasz_of_class(probability[:, index], truth == index)
        for index in range(probability.shape[1])
    ]
    present = torch.stack([(truth == index).any() for index in range(probability.shape[1])])
    if not len(truth):
        return (logits * 0).sum()
    return (torch.stack(losses) * present).sum() / present.sum().clamp_min(1)


def _lovasz_of_class(probability: Tensor, truth: Tensor) -> Tensor:
    """Sorted errors, each weighted by how much the Jaccard loss grows when it is added."""
    errors, order = (truth.to(probability.dtype) - probability).abs().sort(descending=True)
    hit = truth[order].to(probability.dtype)
    total = hit.sum()
    jaccard = 1 - (total - hit.cumsum(0)) / (total + (1 - hit).cumsum(0)).clamp_min(1)
    growth = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return (errors * growth).sum()


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Mean of ``-(1 - p) ** gamma · log(p)`` over labelled pixels (Lin et al. 2017, equation 4).

    Args:
        logits: (N, K, H, W) float.
        labels: (N, H, W) integers; p is the probability of a pixel's own class.
        gamma: how much less a pixel counts the surer it is right; 0 for plain cross entropy.
        weight: (K,) factor per class; the mean is then weighted.
        ignore_index: label value that does not count.
    """
    kept = labels != ignore_index
    index = labels.where(kept, 0).long()
    cost = F.cross_entropy(logits, index, reduction="none")  # -log(p)
    factor = kept.to(cost.dtype) if weight is None else weight[index] * kept
    easy = (1 - (-cost).exp()).clamp_min(0)
    total = (factor * easy**gamma * cost).sum() if gamma else (factor * cost).sum()
    mass = factor.sum()
    return total / (mass + (mass == 0))
