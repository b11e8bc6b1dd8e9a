"""Checkpoints of torchvision's segmentation models: ``backbone.``, ``(aux_)classifier.``.

The backbone is an ordinary ResNet without its ``fc``, at stride 8; ``align_corners`` is false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.resnet import resnet_depth

__all__ = ["convert", "recognise"]

LAYOUT = "torchvision"

BACKBONE: tuple[Rule, ...] = ((r"backbone\.(conv1|bn1|layer\d)\.", r"backbone.body.\1."),)

# FCN's head and every auxiliary head: convolution, norm, ReLU, dropout, classifier.
AUX: tuple[Rule, ...] = (
    (r"aux_classifier\.0\.", "aux_heads.stage3.conv.conv."),
    (r"aux_classifier\.1\.", "aux_heads.stage3.conv.norm."),
    (r"aux_classifier\.4\.", "aux_heads.stage3.classifier."),
)

_FCN: tuple[Rule, ...] = (
    *BACKBONE,
    (r"classifier\.0\.", "head.conv.conv."),
    (r"classifier\.1\.", "head.conv.norm."),
    (r"classifier\.4\.", "head.classifier."),
    *AUX,
)

# ASPP, wherever it stands: branches, the pooled one (whose index 0 is the pooling), projection.
ASPP: tuple[Rule, ...] = (
    (r"\.convs\.4\.1\.", ".pool.conv."),
    (r"\.convs\.4\.2\.", ".pool.norm."),
    (r"\.convs\.(\d)\.0\.", r".branches.\1.conv."),
    (r"\.convs\.(\d)\.1\.", r".branches.\1.norm."),
    (r"aspp\.project\.0\.", "aspp.project.conv."),
    (r"aspp\.project\.1\.", "aspp.project.norm."),
)

_DEEPLABV3: tuple[Rule, ...] = (
    *BACKBONE,
    (r"classifier\.0\.", "head.aspp."),
    (r"classifier\.1\.", "head.conv.conv."),
    (r"classifier\.2\.", "head.conv.norm."),
    (r"classifier\.4\.", "head.classifier."),
    *AUX,
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's FCN or DeepLabV3."""
    return "classifier.4.weight" in tensors and any(
        name.startswith("backbone.") for name in tensors
    )


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a torchvision checkpoint; see ``weights.convert``."""
    for marker, converter in _HEADS.items():
        if marker in tensors:
            return converter(tensors)
    raise CheckpointFormatError(
        "not a head of torchvision that this package knows", where=f"layout {LAYOUT}"
    )


def common_config(tensors: Mapping[str, Tensor], family: str) -> dict[str, Any]:
    """The fields that torchvision's models share; ``family`` begins the model's name."""
    depth = resnet_depth(tensors, "backbone.")
    aux = tensors.get("aux_classifier.0.weight")
    return {
        "model": f"{family}_r{depth}",
        "backbone": f"resnet{depth}",
        "num_classes": tensors["classifier.4.weight"].shape[0],
        "in_channels": tensors["backbone.conv1.weight"].shape[1],
        "align_corners": False,
        "backbone_options": {"output_stride": 8},
        "aux_channels": None if aux is None else aux.shape[0],
    }


def _fcn(tensors: Mapping[str, Tensor]) -> Converted:
    config = {
        **common_config(tensors, "fcn"),
        "head_channels": tensors["classifier.0.weight"].shape[0],
    }
    return Converted(LAYOUT, "FCN", config, rename(tensors, [_FCN], layout=LAYOUT))


def _deeplabv3(tensors: Mapping[str, Tensor]) -> Converted:
    config = {
        **common_config(tensors, "deeplabv3"),
        "channels": tensors["classifier.0.project.0.weight"].shape[0],
        "head_channels": tensors["classifier.4.weight"].shape[1],
        "dropout": 0.5,
    }
    renamed = rename(tensors, [_DEEPLABV3, ASPP], layout=LAYOUT)
    return Converted(LAYOUT, "DeepLabV3", config, renamed)


# A tensor that only this head has → its converter. The first that matches is taken.
_HEADS: dict[str, Callable[[Mapping[str, Tensor]], Converted]] = {
    "classifier.0.weight": _fcn,
    "classifier.0.project.0.weight": _deeplabv3,
}
