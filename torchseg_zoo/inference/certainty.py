"""From class scores to one number that says how sure a label is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchseg_zoo.inference.prediction import Confidence

__all__ = ["certainty", "log_scores"]


def certainty(scores: Tensor, kind: Confidence, temperature: float = 1.0) -> Tensor:
    """How sure the largest score is.

    Args:
        scores: (N, K, ...) float logits, or logarithms of probabilities or of any multiple of them.
        kind: see ``Confidence``.
        temperature: above 0; scores are divided by it, which changes no label.

    Returns:
        (N, ...) float32 in 0..1.
    """
    classes = scores.shape[1]
    if temperature != 1:
        scores = scores / temperature
    if kind == "margin" and classes > 1:
        first, second = scores.topk(2, 1).values.unbind(1)
        total = (scores - first[:, None]).exp_().sum(1)
        return ((1 - (second - first).exp()) / total).float()
    below = scores - scores.amax(1, keepdim=True)
    weights = below.exp()
    total = weights.sum(1)
    if kind != "entropy":
        return total.reciprocal().float()
    if classes == 1:
        return torch.ones_like(total, dtype=torch.float32)
    entropy = total.log() - weights.mul_(below).sum(1) / total
    return (1 - entropy / math.log(classes)).clamp_(0, 1).float()


def log_scores(probabilities: Tensor) -> Tensor:
    """Logarithms of probabilities, or of sums of them; what is zero becomes very small."""
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
