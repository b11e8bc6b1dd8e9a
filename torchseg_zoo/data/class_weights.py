"""Class weights from how often each class occurs."""

from __future__ import annotations

import numpy as np

__all__ = ["balanced_weights"]

_LEAST_SHARE = 1e-4  # rarer classes weigh no more than one of this share


def balanced_weights(counts: np.ndarray) -> np.ndarray:
    """Weights of 1 / sqrt(share of pixels), scaled so that the average labelled pixel weighs 1.

    So scaled, the learning rate keeps its meaning.

    Args:
        counts: (K,) labelled pixels per class.

    Returns:
        (K,) float64.
    """
    share = np.maximum(counts / max(1, int(counts.sum())), _LEAST_SHARE)
    weight = share**-0.5
    scaled: np.ndarray = weight / (weight * share).sum()
    return scaled
