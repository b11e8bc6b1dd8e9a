"""OCNet checkpoints of its authors: ``OCNet.pytorch`` and ``openseg.pytorch`` of ``openseg-group``.

OCNet.pytorch lists its shared transform twice, as ``f_key`` and ``f_query``. They are one tensor,
so the first is set aside. It was trained with InPlaceABN, which scales by |weight| + 1e-5 where a
batch norm scales by the weight. InPlaceABN keeps no ``num_batches_tracked``, and by their absence
such a file is known: its norms' weights become |weight| + 1e-5, which makes a plain batch norm
equal. Files that count batches come from a plain batch norm and are taken as they are.

openseg.pytorch's ISANet puts its input in front of the attention where we, like mmsegmentation,
put it behind: the columns of that 1×1 change places. Its values have no bias; ours is zero then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename, with_batch_counts
from torchseg_zoo.weights.convert.resnet import resnet_depth

__all__ = ["convert", "recognise"]

LAYOUT = "openseg"

_INPLACE_EPS = 1e-5


def _resnet(stem: str, stages: str) -> tuple[Rule, ...]:
    return (
        (rf"{stem}conv1\.", "backbone.body.conv1.0."),
        (rf"{stem}bn1\.", "backbone.body.conv1.1."),
        (rf"{stem}conv2\.", "backbone.body.conv1.3."),
        (rf"{stem}bn2\.", "backbone.body.conv1.4."),
        (rf"{stem}conv3\.", "backbone.body.conv1.6."),
        (rf"{stem}bn3\.", "backbone.body.bn1."),
        (rf"{stages}(layer[1-4])\.", r"backbone.body.\1."),
    )


_OCNET: tuple[Rule, ...] = (
    *_resnet("", ""),
    # ASP-OC
    (r"context\.2\.context\.0\.", "head.context.local.conv."),
    (r"context\.2\.context\.1\.", "head.context.local.norm."),
    (r"context\.2\.context\.2\.stages\.0\.", "head.context.attention."),
    (r"context\.2\.context\.2\.conv_bn_dropout\.0\.", "head.context.tail.conv."),
    (r"context\.2\.context\.2\.conv_bn_dropout\.1\.", "head.context.tail.norm."),
    *((rf"context\.2\.conv{i + 2}\.0\.", f"head.context.branches.{i}.conv.") for i in range(4)),
    *((rf"context\.2\.conv{i + 2}\.1\.", f"head.context.branches.{i}.norm.") for i in range(4)),
    # base-OC, and what it shares with ASP-OC
    (r"context\.0\.", "head.conv.conv."),
    (r"context\.1\.", "head.conv.norm."),
    (r"context\.2\.stages\.0\.", "head.context.attention."),
    (r"context\.2\.conv_bn_dropout\.0\.", "head.context.fuse.conv."),
    (r"context\.2\.conv_bn_dropout\.1\.", "head.context.fuse.norm."),
    # pyramid-OC
    (r"layer5\.0\.", "head.conv.conv."),
    (r"layer5\.1\.", "head.conv.norm."),
    (r"context\.stages\.(\d)\.", r"head.context.attentions.\1."),
    (r"context\.up_dr\.0\.", "head.context.expand.conv."),
    (r"context\.up_dr\.1\.", "head.context.expand.norm."),
    (r"context\.conv_bn_dropout\.0\.", "head.context.fuse.conv."),
    (r"context\.conv_bn_dropout\.1\.", "head.context.fuse.norm."),
    # all
    (r"cls\.", "head.classifier."),
    (r"dsn\.0\.", "aux_heads.stage3.conv.conv."),
    (r"dsn\.1\.", "aux_heads.stage3.conv.norm."),
    (r"dsn\.3\.", "aux_heads.stage3.classifier."),
)

_SHARED: tuple[Rule, ...] = (
    (r"\.f_query\.0\.", ".key.0.conv."),
    (r"\.f_query\.1\.", ".key.0.norm."),
    (r"\.f_value\.", ".value."),
    (r"\.W\.", ".project."),
)

# A norm sits in a sequence of its own here, hence the ".0" behind its index.
_OPENSEG: tuple[Rule, ...] = (
    *_resnet(r"backbone\.resinit\.", r"backbone\."),
    # base-OC
    (r"oc_module_pre\.0\.", "head.conv.conv."),
    (r"oc_module_pre\.1\.0\.", "head.conv.norm."),
    (r"oc_module\.stages\.0\.", "head.context.attention."),
    (r"oc_module\.conv_bn_dropout\.0\.", "head.context.fuse.conv."),
    (r"oc_module\.conv_bn_dropout\.1\.0\.", "head.context.fuse.norm."),
    # ASP-OC
    (r"context\.0\.", "head.conv.conv."),
    (r"context\.1\.0\.", "head.conv.norm."),
    (r"context\.2\.context\.0\.", "head.context.local.conv."),
    (r"context\.2\.context\.1\.0\.", "head.context.local.norm."),
    (r"context\.2\.context\.2\.stages\.0\.", "head.context.attention."),
    (r"context\.2\.context\.2\.conv_bn_dropout\.0\.0\.", "head.context.tail.norm."),
    *((rf"context\.2\.conv{i + 2}\.0\.", f"head.context.branches.{i}.conv.") for i in range(4)),
    *((rf"context\.2\.conv{i + 2}\.1\.0\.", f"head.context.branches.{i}.norm.") for i in range(4)),
    (r"context\.2\.conv_bn_dropout\.0\.", "head.context.fuse.conv."),
    (r"context\.2\.conv_bn_dropout\.1\.0\.", "head.context.fuse.norm."),
    # both
    (r"cls\.", "head.classifier."),
    (r"dsn\.0\.", "aux_heads.stage3.conv.conv."),
    (r"dsn\.1\.0\.", "aux_heads.stage3.conv.norm."),
    (r"dsn\.2\.", "aux_heads.stage3.classifier."),
    # ISANet
    (r"isa_head\.0\.", "head.conv.conv."),
    (r"isa_head\.1\.0\.", "head.conv.norm."),
    (r"isa_head\.2\.stages\.0\.(long|short)_range_sa\.", r"head.context.attention.\1."),
    (r"isa_head\.2\.conv_bn\.0\.", "head.context.fuse.conv."),
    (r"isa_head\.2\.conv_bn\.1\.0\.", "head.context.fuse.norm."),
    (r"cls_head\.", "head.classifier."),
    (r"dsn_head\.0\.", "aux_heads.stage3.conv.conv."),
    (r"dsn_head\.1\.0\.", "aux_heads.stage3.conv.norm."),
    (r"dsn_head\.3\.", "aux_heads.stage3.classifier."),
)

_SEPARATE: tuple[Rule, ...] = (
    (r"\.f_(key|query)\.0\.", r".\1.0.conv."),
    (r"\.f_(key|query)\.1\.0\.", r".\1.0.norm."),
    (r"\.f_(key|query)\.2\.", r".\1.1.conv."),
    (r"\.f_(key|query)\.3\.0\.", r".\1.1.norm."),
    (r"\.f_value\.", ".value."),
    (r"\.W\.0\.", ".project.conv."),
    (r"\.W\.1\.0\.", ".project.norm."),
    (r"\.W\.", ".project."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of either repository."""
    return any(".f_query." in name for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a checkpoint; see ``weights.convert``."""
    if any(name.startswith("backbone.resinit.") for name in tensors):
        return _openseg(tensors)
    return _ocnet(tensors)


def _ocnet(tensors: Mapping[str, Tensor]) -> Converted:
    once = {name: tensor for name, tensor in tensors.items() if ".f_key." not in name}
    renamed = rename(once, [_OCNET, _SHARED], layout=LAYOUT)
    if not any(name.endswith(".num_batches_tracked") for name in renamed):
        renamed = _from_inplace_abn(renamed)
    config = {
        **_config(renamed, resnet_depth(tensors, "")),
        "backbone_options": {"output_stride": 8, "whole_stage": True, "ceil_pool": True},
    }
    if config["context"] == "asp":
        config |= {"dropout": 0.1, "aux_dropout": 0.1}
    return Converted(LAYOUT, "OCNet", config, with_batch_counts(renamed))


def _openseg(tensors: Mapping[str, Tensor]) -> Converted:
    renamed = rename(tensors, [_OPENSEG, _SEPARATE], layout=LAYOUT)
    config = {
        **_config(renamed, resnet_depth(tensors, "backbone.")),
        "backbone_options": {"output_stride": 8, "ceil_pool": True},
        "negative_slope": 0.0,
        "separate_query": True,
        "conv_bias": "head.conv.conv.bias" in renamed,
    }
    if config["context"] == "interlaced":
        _turn_interlaced(renamed)
    else:
        config["aux_dropout"] = 0.0
    if config["context"] == "asp":
        config |= {"narrow_asp": "head.context.tail.conv.weight" not in renamed, "dropout": 0.1}
    return Converted(LAYOUT, "OCNet", config, with_batch_counts(renamed))


def _config(renamed: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    if "head.context.attentions.0.value.weight" in renamed:
        context, name = "pyramid", "pyramid"
    elif "head.context.local.conv.weight" in renamed:
        context, name = "asp", "asp"
    elif "head.context.attention.long.value.weight" in renamed:
        context, name = "interlaced", "isa"
    else:
        context, name = "base", "base"
    aux = renamed.get("aux_heads.stage3.conv.conv.weight")
    try:
        return {
            "model": f"ocnet_{name}_r{depth}",
            "backbone": f"resnet{depth}s",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": renamed["backbone.body.conv1.0.weight"].shape[1],
            "context": context,
            "aux_channels": None if aux is None else aux.shape[0],
        }
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like an OCNet, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error


def _from_inplace_abn(renamed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """InPlaceABN's |weight| + eps as the weight of a plain batch norm."""
    norms = {name.rpartition(".")[0] for name in renamed if name.endswith(".running_var")}
    return {
        name: tensor.abs() + _INPLACE_EPS
        if name.endswith(".weight") and name.removesuffix(".weight") in norms
        else tensor
        for name, tensor in renamed.items()
    }


def _turn_interlaced(renamed: dict[str, Tensor]) -> None:
    """Brings ISANet's (input, attention) into our order, and gives its values a bias."""
    fuse = "head.context.fuse.conv.weight"
    if fuse in renamed:
        renamed[fuse] = torch.cat(renamed[fuse].chunk(2, dim=1)[::-1], dim=1)
    for half in ("long", "short"):
        value = f"head.context.attention.{half}.value"
        if f"{value}.weight" in renamed and f"{value}.bias" not in renamed:
            weight = renamed[f"{value}.weight"]
            renamed[f"{value}.bias"] = weight.new_zeros(weight.shape[0])
