"""What a model costs and how it is built, counted."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["Summary", "summary"]


@dataclass(frozen=True)
class Summary:
    """Figures of one model.

    Args:
        model: factory name.
        family: class name.
        backbone: backbone name.
        num_classes: K.
        parameters: trainable values, auxiliary heads included.
        inference_parameters: without the auxiliary heads.
        size: (height, width) that the work was counted at.
        gmacs: billions of multiply-accumulates for one picture of that size, auxiliary heads left
            out; convolutions and matrix products are counted, element-wise work is not.
        channels: channels of the backbone's maps that the head reads, shallow to deep.
        strides: their strides.
        head_stride: input pixels per cell of the logits before they are resized.
        aux_heads: names of the auxiliary outputs.
    """

    model: str
    family: str
    backbone: str
    num_classes: int
    parameters: int
    inference_parameters: int
    size: Size
    gmacs: float
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    head_stride: float
    aux_heads: tuple[str, ...]


def summary(model: SegmentationModel, *, size: Size | None = None) -> Summary:
    """Counts a model's parameters and work; nothing is computed, so big sizes cost nothing.

    Args:
        model: any model, on any device; it is not changed. A fused one is counted as it was built.
        size: (height, width) of the picture; by default 512×1024, or the nearest size that works.

    Raises:
        InputShapeError: if the model cannot take ``size``.
    """
    size = size or model.input_rule.nearest(512, 1024)
    if model.fused:  # its auxiliary heads are gone, and its convolutions may count otherwise
        with torch.device("meta"):
            model = type(model)(model.config)
    shadow = copy.deepcopy(model).to("meta").eval()
    x = torch.empty(1, model.config.in_channels, *size, device="meta")
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            logits = shadow(x, upsample=False)
        aux = shadow(x, with_aux=True, upsample=False).aux
    parameters = sum(p.numel() for p in model.parameters())
    training_only = sum(
        p.numel() for name, p in model.named_parameters() if name.startswith("aux_heads.")
    )
    return Summary(
        model=model.config.model,
        family=type(model).__name__,
        backbone=model.config.backbone,
        num_classes=model.num_classes,
        parameters=parameters,
        inference_parameters=parameters - training_only,
        size=size,
        gmacs=counter.get_total_flops() / 2e9,
        channels=model.backbone.channels,
        strides=model.backbone.strides,
        head_stride=size[0] / logits.shape[-2],
        aux_heads=tuple(aux),
    )
