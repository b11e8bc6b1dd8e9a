"""Checkpoints of ``jfzhang95/pytorch-deeplab-xception``: DeepLabV3+ with multi-grid 1, 2, 4.

Shapes do not tell the output stride: it is 16 in the published file. For 8, pass
``backbone_options`` with ``output_stride: 8, whole_stage: True, last_stage: (4, 8, 16)``.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.resnet import resnet_depth
from torchseg_zoo.weights.convert.torchvision import BACKBONE

__all__ = ["convert", "recognise"]

LAYOUT = "jfzhang95"

_RULES: tuple[Rule, ...] = (
    *BACKBONE,
    *(
        (rf"aspp\.aspp{index + 1}\.{theirs}\.", f"head.aspp.branches.{index}.{ours}.")
        for index in range(4)
        for theirs, ours in (("atrous_conv", "conv"), ("bn", "norm"))
    ),
    (r"aspp\.global_avg_pool\.1\.", "head.aspp.pool.conv."),
    (r"aspp\.global_avg_pool\.2\.", "head.aspp.pool.norm."),
    (r"aspp\.conv1\.", "head.aspp.project.conv."),
    (r"aspp\.bn1\.", "head.aspp.project.norm."),
    (r"decoder\.conv1\.", "head.low.conv."),
    (r"decoder\.bn1\.", "head.low.norm."),
    (r"decoder\.last_conv\.0\.", "head.decoder.conv1.conv."),
    (r"decoder\.last_conv\.1\.", "head.decoder.conv1.norm."),
    (r"decoder\.last_conv\.4\.", "head.decoder.conv2.conv."),
    (r"decoder\.last_conv\.5\.", "head.decoder.conv2.norm."),
    (r"decoder\.last_conv\.8\.", "head.classifier."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of jfzhang95's DeepLabV3+."""
    return "aspp.aspp1.atrous_conv.weight" in tensors


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a checkpoint; see ``weights.convert``."""
    depth = resnet_depth(tensors, "backbone.")
    renamed = rename(tensors, [_RULES], layout=LAYOUT)
    try:
        config = {
            "model": f"deeplabv3plus_r{depth}",
            "backbone": f"resnet{depth}",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": renamed["backbone.body.conv1.weight"].shape[1],
            "align_corners": True,
            "backbone_options": {
                "output_stride": 16,
                "whole_stage": True,
                "last_stage": (2, 4, 8),
            },
            "channels": renamed["head.aspp.project.conv.weight"].shape[0],
            "dropout": 0.5,
            "low_channels": renamed["head.low.conv.weight"].shape[0],
            "decoder_dropout": (0.5, 0.1),
        }
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a DeepLabV3+, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    return Converted(LAYOUT, "DeepLabV3Plus", config, renamed)
