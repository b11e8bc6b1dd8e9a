"""How a run's model is scored between epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from torchseg_zoo.inference.modes import Mode, Sliding
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.types import Size

__all__ = ["Scoring", "evaluation_mode", "scoring"]


class Scoring(TypedDict):
    """Arguments for ``evaluate``: see there."""

    mode: Mode | None
    label_size: Size | None


def evaluation_mode(config: TrainConfig) -> Mode | None:
    """Windows merged as TorchSeg does, or ``None`` for what the model does by itself."""
    if config.eval_window is None:
        return None
    return Sliding.at_rate(config.eval_window, config.eval_stride_rate, merge="torchseg")


@contextmanager
def scoring(config: TrainConfig, model: SegmentationModel) -> Iterator[Scoring]:
    """Prepares a model for ``evaluate`` by the settings of a run; afterwards it is as before.

    Args:
        config: windows, and sizes of pictures and labels.
        model: to be scored.
    """
    before = model.preprocess
    if config.eval_size is not None:
        model.preprocess = dataclasses.replace(
            before, resize=config.eval_size, short_side=None, long_side=None
        )
    try:
        yield {"mode": evaluation_mode(config), "label_size": config.eval_label_size}
    finally:
        model.preprocess = before
