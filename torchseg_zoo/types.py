"""Types shared by all rooms.

Shape legend, used throughout: N pictures, C channels, H rows, W columns, K classes. Sizes are
always ``(height, width)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SegOutput", "Size"]

Size = tuple[int, int]


class SegOutput(NamedTuple):
    """What a model returns when it is asked for its auxiliary heads.

    Args:
        logits: (N, K, H, W) main prediction.
        aux: name of the auxiliary head → its logits; the shape depends on the head.
    """

    logits: Tensor
    aux: dict[str, Tensor]
