"""Checkpoints of TorchSeg (``ycszen/TorchSeg`` and its forks): ResNet stages keep timm's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename

__all__ = ["convert", "recognise"]

LAYOUT = "torchseg"

_NORM: tuple[Rule, ...] = ((r"\.bn\.", ".norm."),)

_BISENET: tuple[Rule, ...] = (
    (r"context_path\.", "backbone.body."),
    (r"spatial_path\.", "spatial_path."),
    (r"global_context\.1\.", "global_context."),
    (r"arms\.(\d)\.conv_3x3\.", r"arms.\1.conv_3x3."),
    (r"arms\.(\d)\.channel_attention\.1\.", r"arms.\1.attention."),
    (r"refines\.", "refines."),
    (r"ffm\.conv_1x1\.", "ffm.conv_1x1."),
    (r"ffm\.channel_attention\.1\.conv\.", "ffm.squeeze."),
    (r"ffm\.channel_attention\.2\.conv\.", "ffm.excite."),
    (r"heads\.0\.", "aux_heads.stride16."),
    (r"heads\.1\.", "aux_heads.stride8."),
    (r"heads\.2\.", "head."),
)

_BISENET_HEAD: tuple[Rule, ...] = (
    (r"(head|stride16|stride8)\.conv_3x3\.", r"\1.conv."),
    (r"(head|stride16|stride8)\.conv_1x1\.", r"\1.classifier."),
)

_XCEPTION39: tuple[Rule, ...] = (
    (r"\.proj\.", ".shortcut."),
    (r"\.residual_branch\.", ".residual."),
    (r"\.point_wise_cbr\.", ".pointwise."),
    (r"(shortcut|residual\.\d)\.conv1\.", r"\1.depthwise."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are TorchSeg's."""
    return any(name.startswith("context_path.") for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a TorchSeg checkpoint; see ``weights.convert``."""
    if recognise(tensors):
        return _bisenet(tensors)
    raise CheckpointFormatError(
        "not a network of TorchSeg that this package knows", where=f"layout {LAYOUT}"
    )


def _bisenet(tensors: Mapping[str, Tensor]) -> Converted:
    is_xception = "context_path.conv1.conv.weight" in tensors
    stages = [_BISENET, _NORM, _BISENET_HEAD, _XCEPTION39 if is_xception else ()]
    renamed = rename(tensors, stages, layout=LAYOUT)
    try:
        squeeze = renamed["ffm.squeeze.weight"]
        head = renamed["head.conv.conv.weight"].shape[0]
        aux = renamed["aux_heads.stride8.conv.conv.weight"].shape[0]
        classes = renamed["head.classifier.weight"].shape[0]
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a BiSeNet, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    if is_xception:
        model, backbone = "bisenet_x39", "xception39"
    elif "context_path.layer1.0.conv3.weight" in tensors:
        model, backbone = "bisenet_r101", "resnet101s"
    else:
        # The speed variant differs in its auxiliary width only; X39's two variants not at all.
        model, backbone = ("bisenet_r18_speed" if aux == 128 else "bisenet_r18"), "resnet18"
    config = {
        "model": model,
        "backbone": backbone,
        "num_classes": classes,
        "in_channels": renamed["spatial_path.conv_7x7.conv.weight"].shape[1],
        "head_channels": head,
        "aux_channels": aux,
        "fusion_reduction": squeeze.shape[1] // squeeze.shape[0],
    }
    return Converted(LAYOUT, "BiSeNet", config, renamed)
