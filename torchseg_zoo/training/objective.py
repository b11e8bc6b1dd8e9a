"""What a training step makes smaller: the losses that the settings name, put together."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training.border import (
    BORDER,
    binary_focal_loss,
    border_loss,
    cropped_border_targets,
    legacy_border_loss,
)
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.losses import (
    Criterion,
    after_resize,
    cross_entropy,
    ohem_cross_entropy,
    total_loss,
)
from torchseg_zoo.training.overlap_losses import dice_loss, focal_loss, lovasz_softmax
from torchseg_zoo.types import SegOutput

__all__ = ["Objective"]


class Objective:
    """The loss of a model's output, by the settings of a run.

    Cross entropy and OHEM work on logits at the heads' own strides; the others need them at full
    size, and make them.

    Args:
        config: which losses, and their weights.
        weight: (K,) factor per class, on the device; ``None`` for 1.
        ignore_index: label value that does not count.
        align_corners: how logits are resized.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        weight: Tensor | None = None,
        ignore_index: int = 255,
        align_corners: bool,
    ) -> None:
        self._config, self._ignore_index = config, ignore_index
        self._align_corners = align_corners
        self._criterion = _criterion(config.criterion, config, weight, ignore_index)
        same = config.aux_criterion == "same"
        self._aux = self._criterion if same else _criterion("ce", config, weight, ignore_index)

    def __call__(self, output: SegOutput, labels: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            output: logits at the heads' own strides.
            labels: (N, H, W) integers: 0..K-1 or the ignored value.

        Raises:
            ArgumentError: if border losses are asked for and the model has no border heads.
        """
        config = self._config
        loss = total_loss(
            output, labels, self._criterion, aux_criterion=self._aux,
            aux_weight=config.aux_weight, presence_weight=config.presence_weight,
            align_corners=self._align_corners,
        )  # fmt: skip
        if not config.border_weight:
            return loss
        if not any(name.startswith(BORDER) for name in output.aux):
            raise ArgumentError(
                f"{config.model} has no border heads",
                where="border_weight",
                fix="set border_weight=0, or train a DFN",
            )
        legacy = config.border_criterion == "legacy"
        edges = cropped_border_targets(labels, ignore_index=self._ignore_index)
        borders = border_loss(
            output, edges, legacy_border_loss if legacy else binary_focal_loss,
            align_corners=self._align_corners,
        )  # fmt: skip
        return loss + config.border_weight * borders


def _criterion(
    name: str, config: TrainConfig, weight: Tensor | None, ignore_index: int
) -> Criterion:
    """The criterion that a setting names; ``a+b`` is the sum of two."""
    first, _, second = name.partition("+")
    if second:
        one = _criterion(first, config, weight, ignore_index)
        other = _criterion(second, config, weight, ignore_index)

        def both(logits: Tensor, labels: Tensor, *, align_corners: bool) -> Tensor:
            return one(logits, labels, align_corners=align_corners) + other(
                logits, labels, align_corners=align_corners
            )

        return both
    weighted: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index}
    smoothed: dict[str, Any] = {**weighted, "label_smoothing": config.label_smoothing}
    table: dict[str, Criterion] = {
        "ce": functools.partial(cross_entropy, **smoothed),
        "ohem": functools.partial(
            ohem_cross_entropy, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept,
            scope=config.ohem_scope, **smoothed,
        ),
        "focal": after_resize(functools.partial(focal_loss, **weighted)),
        "dice": after_resize(functools.partial(dice_loss, ignore_index=ignore_index)),
        "lovasz": after_resize(functools.partial(lovasz_softmax, ignore_index=ignore_index)),
    }  # fmt: skip
    return table[first]
