"""Checkpoints of mmsegmentation 0.x and 1.x: ``backbone.``, ``decode_head.``, ``auxiliary_head.``.

Shapes tell the backbone, the head and the number of classes. They do not tell ``align_corners``
(true in the 769×769 models only) nor the dilations (stride 8 unless the name says D16 or D32): pass
these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.encoding import linear_as_conv
from torchseg_zoo.weights.convert.resnet import resnet_depth
from torchseg_zoo.weights.convert.semseg import mask_size

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


_FCN: tuple[Rule, ...] = (
    *RESNET,
    (r"decode_head\.convs\.", "head.convs."),
    (r"decode_head\.conv_cat\.", "head.merge."),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *AUX,
)


def _fcn(tensors: Mapping[str, Tensor]) -> Converted:
    config = {
        **common_config(tensors, "fcn"),
        "head_channels": tensors["decode_head.conv_cat.conv.weight"].shape[0],
        "concat": True,
    }
    return Converted(LAYOUT, "FCN", config, rename(tensors, [_FCN, NORM], layout=LAYOUT))


_PSPNET: tuple[Rule, ...] = (
    *RESNET,
    (r"decode_head\.psp_modules\.(\d)\.1\.", r"head.pyramid.\1."),
    (r"decode_head\.bottleneck\.", "head.bottleneck."),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *AUX,
)


def _pspnet(tensors: Mapping[str, Tensor]) -> Converted:
    config = {
        **common_config(tensors, "pspnet"),
        "channels": tensors["decode_head.conv_seg.weight"].shape[1],
    }
    return Converted(LAYOUT, "PSPNet", config, rename(tensors, [_PSPNET, NORM], layout=LAYOUT))


_ASPP: tuple[Rule, ...] = (
    (r"decode_head\.image_pool\.1\.", "head.aspp.pool."),
    (r"decode_head\.aspp_modules\.", "head.aspp.branches."),
    (r"decode_head\.bottleneck\.", "head.aspp.project."),
    (r"decode_head\.conv_seg\.", "head.classifier."),
)

_DEEPLABV3PLUS: tuple[Rule, ...] = (
    (r"decode_head\.c1_bottleneck\.", "head.low."),
    (r"decode_head\.sep_bottleneck\.0\.", "head.decoder.conv1."),
    (r"decode_head\.sep_bottleneck\.1\.", "head.decoder.conv2."),
)

_SEPARABLE: tuple[Rule, ...] = ((r"\.(depthwise|pointwise)_conv\.", r".\1."),)


def _deeplab_config(tensors: Mapping[str, Tensor], family: str) -> dict[str, Any]:
    return {
        **common_config(tensors, family),
        "channels": tensors["decode_head.conv_seg.weight"].shape[1],
        "pool_first": True,
        "project_kernel": 3,
    }


def _deeplabv3(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [(*RESNET, *_ASPP, *AUX), NORM], layout=LAYOUT)
    return Converted(LAYOUT, "DeepLabV3", _deeplab_config(tensors, "deeplabv3"), renamed)


def _deeplabv3plus(tensors: Mapping[str, Tensor]) -> Converted:
    rules = (*RESNET, *_ASPP, *_DEEPLABV3PLUS, *AUX)
    config = {
        **_deeplab_config(tensors, "deeplabv3plus"),
        "separable": True,
        "dropout": 0.0,
        "low_channels": tensors["decode_head.c1_bottleneck.conv.weight"].shape[0],
        "decoder_dropout": (0.0, 0.1),
    }
    renamed = rename(tensors, [rules, NORM, _SEPARABLE], layout=LAYOUT)
    return Converted(LAYOUT, "DeepLabV3Plus", config, renamed)


_ENCNET: tuple[Rule, ...] = (
    *RESNET,
    (r"decode_head\.bottleneck\.", "head.conv."),
    (r"decode_head\.lateral_convs\.0\.", "head.merge.shallow."),
    (r"decode_head\.lateral_convs\.1\.", "head.merge.middle."),
    (r"decode_head\.fusion\.", "head.merge.fusion."),
    (r"decode_head\.enc_module\.encoding_project\.", "head.context.project."),
    (r"decode_head\.enc_module\.encoding\.0\.", "head.context.encoding."),
    (r"decode_head\.enc_module\.encoding\.1\.", "head.context.norm."),
    (r"decode_head\.enc_module\.fc\.0\.", "head.gate."),
    (r"decode_head\.se_layer\.", "aux_heads.presence.classifier."),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *AUX,
)


def _encnet(tensors: Mapping[str, Tensor]) -> Converted:
    config = {
        **common_config(tensors, "encnet"),
        "lateral": "decode_head.fusion.conv.weight" in tensors,
        "presence": "decode_head.se_layer.weight" in tensors,
    }
    renamed = linear_as_conv(rename(tensors, [_ENCNET, NORM], layout=LAYOUT))
    return Converted(LAYOUT, "EncNet", config, renamed)


_ISANET: tuple[Rule, ...] = (
    *RESNET,
    (r"decode_head\.in_conv\.", "head.conv."),
    (r"decode_head\.global_relation\.", "head.context.attention.long."),
    (r"decode_head\.local_relation\.", "head.context.attention.short."),
    (r"decode_head\.out_conv\.", "head.context.fuse."),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *AUX,
)

_PROJECT: tuple[Rule, ...] = (
    (r"\.(key|query|value)_project\.", r".\1."),
    (r"\.output_project\.", ".project."),
)


def _isanet(tensors: Mapping[str, Tensor]) -> Converted:
    config = {
        **common_config(tensors, "ocnet_isa"),
        "context": "interlaced",
        "negative_slope": 0.0,
        "separate_query": True,
        "conv_bias": False,
        "dropout": 0.1,
        "aux_dropout": 0.1,
    }
    renamed = rename(tensors, [_ISANET, NORM, _PROJECT], layout=LAYOUT)
    return Converted(LAYOUT, "OCNet", config, renamed)


_PSANET: tuple[Rule, ...] = (
    *RESNET,
    (r"decode_head\.(reduce|attention)\.", r"head.branches.0.\1."),
    (r"decode_head\.(reduce|attention)_p\.", r"head.branches.1.\1."),
    (r"decode_head\.proj\.", "head.project."),
    (r"decode_head\.bottleneck\.", "head.bottleneck."),
    (r"decode_head\.conv_seg\.", "head.classifier."),
    *AUX,
)


def _psanet(tensors: Mapping[str, Tensor]) -> Converted:
    # As in semseg's files, shapes tell neither a lone branch's direction nor a compact mask. mmseg
    # transposes a lone compact branch if it is called "collect": pass the other name for it.
    config = {
        **common_config(tensors, "psanet"),
        "direction": "both" if "decode_head.attention_p.1.weight" in tensors else "collect",
        "attention": "mask",
        **mask_size(tensors["decode_head.attention.1.weight"]),
        "halving": "parity",
        "padded": True,
    }
    return Converted(LAYOUT, "PSANet", config, rename(tensors, [_PSANET, NORM], layout=LAYOUT))


_BISENET: tuple[Rule, ...] = (
    (r"backbone\.context_path\.backbone\.", "backbone.body."),
    (r"backbone\.context_path\.arm32\.", "arms.0."),
    (r"backbone\.context_path\.arm16\.", "arms.1."),
    (r"backbone\.context_path\.conv_head32\.", "refines.0."),
    (r"backbone\.context_path\.conv_head16\.", "refines.1."),
    (r"backbone\.context_path\.gap_conv\.1\.", "global_context."),
    (r"backbone\.spatial_path\.layer1\.", "spatial_path.conv_7x7."),
    (r"backbone\.spatial_path\.layer2\.", "spatial_path.conv_3x3_1."),
    (r"backbone\.spatial_path\.layer3\.", "spatial_path.conv_3x3_2."),
    (r"backbone\.spatial_path\.layer4\.", "spatial_path.conv_1x1."),
    (r"backbone\.ffm\.conv1\.", "ffm.conv_1x1."),
    (r"backbone\.ffm\.conv_atten\.0\.", "ffm.attention."),
    (r"decode_head\.", "head."),
    (r"auxiliary_head\.0\.", "aux_heads.stride8."),
    (r"auxiliary_head\.1\.", "aux_heads.stride16."),
)

_BISENET_PARTS: tuple[Rule, ...] = (
    (r"(arms\.\d)\.conv_layer\.", r"\1.conv_3x3."),
    (r"(arms\.\d)\.atten_conv_layer\.1\.", r"\1.attention."),
    (r"(head|stride16|stride8)\.convs\.0\.", r"\1.conv."),
    (r"(head|stride16|stride8)\.conv_seg\.", r"\1.classifier."),
)


def _bisenet(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [_BISENET, NORM, _BISENET_PARTS], layout=LAYOUT)
    depth = resnet_depth(tensors, "backbone.context_path.backbone.")
    try:
        config = {
            "model": f"bisenet_r{depth}",
            "backbone": f"resnet{depth}",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": renamed["spatial_path.conv_7x7.conv.weight"].shape[1],
            "align_corners": False,
            "head_channels": renamed["head.conv.conv.weight"].shape[0],
            "aux_channels": renamed["aux_heads.stride8.conv.conv.weight"].shape[0],
            "fusion_reduction": None,
            "width": renamed["spatial_path.conv_1x1.conv.weight"].shape[0],
            "context_resize": "nearest",
            "dropout": 0.1,
        }
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a BiSeNetV1, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    return Converted(LAYOUT, "BiSeNet", config, renamed)


# A tensor that only this head has → its converter. The first that matches is taken.
_HEADS: dict[str, Callable[[Mapping[str, Tensor]], Converted]] = {
    "decode_head.attention.1.weight": _psanet,
    "backbone.ffm.conv_atten.0.conv.weight": _bisenet,
    "decode_head.conv_cat.conv.weight": _fcn,
    "decode_head.psp_modules.0.1.conv.weight": _pspnet,
    "decode_head.aspp_modules.1.conv.weight": _deeplabv3,
    "decode_head.c1_bottleneck.conv.weight": _deeplabv3plus,
    "decode_head.enc_module.fc.0.weight": _encnet,
    "decode_head.global_relation.value_project.weight": _isanet,
}
