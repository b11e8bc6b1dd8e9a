"""Checkpoints of ``VainF/DeepLabV3Plus-Pytorch``: torchvision's backbone and ASPP, its own decoder.

The heads of V3 and V3+ share the prefix ``classifier.classifier.`` and mean different layers by it.
Shapes do not tell the output stride: it is 16 in all published files. The same weights work at 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.resnet import resnet_depth
from torchseg_zoo.weights.convert.torchvision import ASPP, BACKBONE

__all__ = ["convert", "recognise"]

LAYOUT = "vainf"

_V3_MARKER = "classifier.classifier.0.project.0.weight"
_V3PLUS_MARKER = "classifier.aspp.project.0.weight"

_V3: tuple[Rule, ...] = (
    *BACKBONE,
    (r"classifier\.classifier\.0\.", "head.aspp."),
    (r"classifier\.classifier\.1\.", "head.conv.conv."),
    (r"classifier\.classifier\.2\.", "head.conv.norm."),
    (r"classifier\.classifier\.4\.", "head.classifier."),
)

_V3PLUS: tuple[Rule, ...] = (
    *BACKBONE,
    (r"classifier\.aspp\.", "head.aspp."),
    (r"classifier\.project\.0\.", "head.low.conv."),
    (r"classifier\.project\.1\.", "head.low.norm."),
    (r"classifier\.classifier\.0\.", "head.decoder.conv1.conv."),
    (r"classifier\.classifier\.1\.", "head.decoder.conv1.norm."),
    (r"classifier\.classifier\.3\.", "head.classifier."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of VainF's DeepLabs."""
    return _V3_MARKER in tensors or _V3PLUS_MARKER in tensors


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a checkpoint; see ``weights.convert``."""
    is_plus = _V3PLUS_MARKER in tensors
    family = "DeepLabV3Plus" if is_plus else "DeepLabV3"
    depth = resnet_depth(tensors, "backbone.")
    renamed = rename(tensors, [_V3PLUS if is_plus else _V3, ASPP], layout=LAYOUT)
    try:
        config: dict[str, Any] = {
            "model": f"{family.lower()}_r{depth}",
            "backbone": f"resnet{depth}",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": renamed["backbone.body.conv1.weight"].shape[1],
            "align_corners": False,
            "backbone_options": {"output_stride": 16},
            "channels": renamed["head.aspp.project.conv.weight"].shape[0],
        }
        if is_plus:
            config["low_channels"] = renamed["head.low.conv.weight"].shape[0]
            config |= {"low_first": True, "decoder_convs": 1}
        else:
            config["head_channels"] = renamed["head.classifier.weight"].shape[1]
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a {family}, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    return Converted(LAYOUT, family, config, renamed)
