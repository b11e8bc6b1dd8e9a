"""Checkpoints of mmsegmentation 0.x and 1.x: ``backbone.``, ``decode_head.``, ``auxiliary_head.``.

Shapes tell the backbone, the head and the number of classes. They do not tell ``align_corners`` (true in
the 769×769 models only) nor the dilations (stride 8 unless the name says D16 or D32): pass these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule
from torchseg_zoo.weights.convert.resnet import resnet_depth

__all__ = ["convert", "recognise"]

LAYOUT = "mmseg"

NORM: tuple[Rule, ...] = ((r"\.bn\.", ".norm."),)

# The deep stem is one sequence in mmseg; timm splits its last norm off.
RESNET: tuple[Rule, ...] = (
    (r"backbone\.stem\.7\.", "backbone.body.bn1."),
    (r"backbone\.stem\.(\d)\.", r"backbone.body.conv1.\1."),
    (r"backbone\.(conv1|bn1|layer\d)\.", r"backbone.body.\1."),
)

# Every dilated network has the same auxiliary head on the third stage.
AUX: tuple[Rule, ...] = (
    (r"auxiliary_head\.convs\.0\.", "aux_heads.stage3.conv."),
    (r"auxiliary_head\.conv_seg\.", "aux_heads.stage3.classifier."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are mmseg's."""
    return any(name.startswith("decode_head.") and ".conv_seg." in name for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames an mmseg checkpoint; see ``weights.convert``."""
    for marker, converter in _HEADS.items():
        if marker in tensors:
            return converter(tensors)
    raise CheckpointFormatError(
        "not a head of mmseg that this package knows", where=f"layout {LAYOUT}"
    )


def common_config(tensors: Mapping[str, Tensor], family: str) -> dict[str, Any]:
    """The fields that all dilated mmseg networks share; ``family`` begins the model's name."""
    depth = resnet_depth(tensors, "backbone.")
    stem = "c" if "backbone.stem.0.weight" in tensors else ""
    first = tensors.get("backbone.stem.0.weight", tensors.get("backbone.conv1.weight"))
    aux = tensors.get("auxiliary_head.convs.0.conv.weight")
    options: dict[str, Any] = {"output_stride": 8}
    if depth < 50:
        options["dilate_second"] = False
    return {
        "model": f"{family}_r{depth}",
        "backbone": f"resnet{depth}{stem}",
        "num_classes": tensors["decode_head.conv_seg.weight"].shape[0],
        "in_channels": 3 if first is None else first.shape[1],
        "align_corners": False,
        "backbone_options": options,
        "aux_channels": None if aux is None else aux.shape[0],
    }


# A tensor that only this head has → its converter. The first that matches is taken.
_HEADS: dict[str, Callable[[Mapping[str, Tensor]], Converted]] = {}
