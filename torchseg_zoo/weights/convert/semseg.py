"""Checkpoints of ``hszhao/semseg``: PSANet on a ResNet whose stages are dilated whole.

Shapes do not tell everything, so pass what differs: a lone branch is taken for ``direction:
"collect"``, the attention for ``"mask"``, not ``"compact"``, and the mask for square.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.resnet import resnet_depth

__all__ = ["convert", "mask_size", "recognise"]

LAYOUT = "semseg"

# Convolution 0 and norm 1 of a sequence.
_CONV_NORM = (("0", "conv"), ("1", "norm"))

_PSANET: tuple[Rule, ...] = (
    # The deep stem is one sequence; timm splits its last norm off.
    (r"layer0\.7\.", "backbone.body.bn1."),
    (r"layer0\.(\d)\.", r"backbone.body.conv1.\1."),
    (r"layer([1-4])\.", r"backbone.body.layer\1."),
    *(
        rule
        for theirs, ours in _CONV_NORM
        for rule in (
            (rf"psa\.reduce\.{theirs}\.", f"head.branches.0.reduce.{ours}."),
            (rf"psa\.reduce_p\.{theirs}\.", f"head.branches.1.reduce.{ours}."),
            (rf"psa\.attention\.{theirs}\.", f"head.branches.0.attention.0.{ours}."),
            (rf"psa\.attention_p\.{theirs}\.", f"head.branches.1.attention.0.{ours}."),
            (rf"psa\.proj\.{theirs}\.", f"head.project.{ours}."),
            (rf"cls\.{theirs}\.", f"head.bottleneck.{ours}."),
            (rf"aux\.{theirs}\.", f"aux_heads.stage3.conv.{ours}."),
        )
    ),
    (r"psa\.attention\.3\.", "head.branches.0.attention.1."),
    (r"psa\.attention_p\.3\.", "head.branches.1.attention.1."),
    (r"cls\.4\.", "head.classifier."),
    (r"aux\.4\.", "aux_heads.stage3.classifier."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of semseg's PSANet."""
    return "layer0.0.weight" in tensors and "psa.attention.3.weight" in tensors


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a checkpoint; see ``weights.convert``."""
    depth = resnet_depth(tensors, "")
    renamed = rename(tensors, [_PSANET], layout=LAYOUT)
    try:
        aux = renamed.get("aux_heads.stage3.conv.conv.weight")
        config = {
            "model": f"psanet_r{depth}",
            "backbone": f"resnet{depth}s",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": renamed["backbone.body.conv1.0.weight"].shape[1],
            "align_corners": True,
            "backbone_options": {"output_stride": 8, "whole_stage": True},
            "direction": "both" if "psa.attention_p.3.weight" in tensors else "collect",
            "attention": "mask",
            **mask_size(renamed["head.branches.0.attention.1.weight"]),
            "halving": "up",
            "aux_channels": None if aux is None else aux.shape[0],
        }
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a PSANet, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    return Converted(LAYOUT, "PSANet", config, renamed)


def mask_size(attention: Tensor) -> dict[str, Any]:
    """The field ``mask_size`` of a PSANet whose mask is square; no field where it is not.

    Args:
        attention: kernel that makes the mask, one output channel per cell of it.
    """
    side = math.isqrt(attention.shape[0])
    return {"mask_size": (side, side)} if side * side == attention.shape[0] else {}
