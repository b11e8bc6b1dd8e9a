"""Checkpoints of TorchSeg (``ycszen/TorchSeg`` and its forks): ResNet stages keep timm's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.resnet import resnet_depth
from torchseg_zoo.weights.convert.semseg import mask_size

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

_BACKBONE: tuple[Rule, ...] = ((r"backbone\.", "backbone.body."),)

_FCN: tuple[Rule, ...] = (
    *_BACKBONE,
    (r"head\.cbr\.", "head.conv."),
    (r"head\.conv1x1\.", "head.classifier."),
    (r"aux_head\.cbr\.", "aux_heads.stage3.conv."),
    (r"aux_head\.conv1x1\.", "aux_heads.stage3.classifier."),
)

_PSPNET: tuple[Rule, ...] = (
    *_BACKBONE,
    (r"psp_layer\.ppm\.(\d)\.psp/cbr\.", r"head.pyramid.\1."),
    (r"psp_layer\.conv6\.0\.", "head.bottleneck."),
    (r"psp_layer\.conv6\.2\.", "head.classifier."),
    (r"aux_layer\.0\.", "aux_heads.stage3.conv."),
    (r"aux_layer\.2\.", "aux_heads.stage3.classifier."),
)

_PSANET: tuple[Rule, ...] = (
    *_BACKBONE,
    (r"psa_layer\.collect_reduction\.", "head.branches.0.reduce."),
    (r"psa_layer\.collect_attention\.0\.", "head.branches.0.attention.0."),
    (r"psa_layer\.collect_attention\.1\.conv\.", "head.branches.0.attention.1."),
    (r"psa_layer\.distribute_reduction\.", "head.branches.1.reduce."),
    (r"psa_layer\.distribute_attention\.0\.", "head.branches.1.attention.0."),
    (r"psa_layer\.distribute_attention\.1\.conv\.", "head.branches.1.attention.1."),
    (r"psa_layer\.proj\.", "head.project."),
    (r"psa_layer\.conv6\.0\.", "head.bottleneck."),
    (r"psa_layer\.conv6\.2\.", "head.classifier."),
    (r"aux_layer\.0\.", "aux_heads.stage3.conv."),
    (r"aux_layer\.2\.", "aux_heads.stage3.classifier."),
)

_DFN: tuple[Rule, ...] = (
    *_BACKBONE,
    (r"global_context\.1\.", "global_context."),
    (r"smooth_pre_rrbs\.", "smooth_pre."),
    (r"cabs\.(\d)\.channel_attention\.fc\.0\.", r"attention.\1.squeeze."),
    (r"cabs\.(\d)\.channel_attention\.fc\.2\.", r"attention.\1.excite."),
    (r"smooth_aft_rrbs\.", "smooth_post."),
    (r"smooth_heads\.0\.", "aux_heads.stride32."),
    (r"smooth_heads\.1\.", "aux_heads.stride16."),
    (r"smooth_heads\.2\.", "aux_heads.stride8."),
    (r"smooth_heads\.3\.", "head."),
    (r"border_pre_rrbs\.", "aux_heads.border.pre."),
    (r"border_aft_rrbs\.", "aux_heads.border.post."),
    (r"border_heads\.", "aux_heads.border.heads."),
)

_DFN_BLOCKS: tuple[Rule, ...] = (
    (r"\.cbr\.", ".conv_3x3."),
    (r"\.conv_refine\.", ".refine."),
    (r"(head|stride\d+|heads\.\d)\.conv\.", r"\1.classifier."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are TorchSeg's."""
    return any(name.startswith(tuple(_NETWORKS)) for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a TorchSeg checkpoint; see ``weights.convert``."""
    for prefix, converter in _NETWORKS.items():
        if any(name.startswith(prefix) for name in tensors):
            return converter(tensors)
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


def _common_config(
    tensors: Mapping[str, Tensor], renamed: Mapping[str, Tensor], model: str, *, output_stride: int
) -> dict[str, Any]:
    """The fields that the networks on a plain list of ResNet maps share.

    Args:
        tensors: by original name.
        renamed: by native name, with the heads ``head`` and ``aux_heads.stage3``.
        model: begins the model's name.
        output_stride: of the backbone.
    """
    depth = resnet_depth(tensors, "backbone.")
    try:
        aux = renamed.get("aux_heads.stage3.conv.conv.weight")
        return {
            "model": f"{model}_r{depth}",
            "backbone": f"resnet{depth}s",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": tensors["backbone.conv1.0.weight"].shape[1],
            "backbone_options": {"output_stride": output_stride},
            "aux_channels": None if aux is None else aux.shape[0],
        }
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like {model}, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error


def _fcn(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [_FCN, _NORM], layout=LAYOUT)
    config = _common_config(tensors, renamed, "fcn32s", output_stride=32)
    config["head_channels"] = renamed["head.classifier.weight"].shape[1]
    return Converted(LAYOUT, "FCN", config, renamed)


def _pspnet(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [_PSPNET, _NORM], layout=LAYOUT)
    config = _common_config(tensors, renamed, "pspnet", output_stride=8)
    config["channels"] = renamed["head.classifier.weight"].shape[1]
    return Converted(LAYOUT, "PSPNet", config, renamed)


def _psanet(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [_PSANET, _NORM], layout=LAYOUT)
    config = _common_config(tensors, renamed, "psanet", output_stride=8)
    if (attention := renamed.get("head.branches.0.attention.1.weight")) is not None:
        config.update(mask_size(attention))
    return Converted(LAYOUT, "PSANet", config, renamed)


def _dfn(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [_DFN, _NORM, _DFN_BLOCKS], layout=LAYOUT)
    config = _common_config(tensors, renamed, "dfn", output_stride=32)
    del config["aux_channels"]
    return Converted(LAYOUT, "DFN", {**config, **_dfn_widths(renamed)}, renamed)


def _dfn_widths(renamed: Mapping[str, Tensor]) -> dict[str, int]:
    widths = {
        "smooth_channels": "global_context.conv.weight",
        "border_channels": "aux_heads.border.pre.0.conv_1x1.weight",
        "head_channels": "head.rrb.conv_1x1.weight",
        "border_head_channels": "aux_heads.border.heads.0.rrb.conv_1x1.weight",
    }
    try:
        return {field: renamed[name].shape[0] for field, name in widths.items()}
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a DFN, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error


# A prefix that only this network has → its converter. The first that matches is taken.
_NETWORKS: dict[str, Callable[[Mapping[str, Tensor]], Converted]] = {
    "context_path.": _bisenet,
    "head.cbr.": _fcn,
    "psp_layer.": _pspnet,
    "psa_layer.": _psanet,
    "smooth_pre_rrbs.": _dfn,
}
