"""EncNet checkpoints of its authors' ``zhanghang1989/PyTorch-Encoding``.

The backbone is stored under ``pretrained.`` with timm's names. Linear layers on the encoding are
1×1 convolutions here, so their weights get two more axes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename
from torchseg_zoo.weights.convert.resnet import resnet_depth

__all__ = ["convert", "recognise"]

LAYOUT = "encoding"

_RULES: tuple[Rule, ...] = (
    (r"pretrained\.", "backbone.body."),
    (r"head\.conv5\.0\.", "head.conv.conv."),
    (r"head\.conv5\.1\.", "head.conv.norm."),
    (r"head\.connect\.0\.", "head.merge.shallow."),
    (r"head\.connect\.1\.", "head.merge.middle."),
    (r"head\.fusion\.", "head.merge.fusion."),
    (r"head\.encmodule\.encoding\.0\.", "head.context.project.conv."),
    (r"head\.encmodule\.encoding\.1\.", "head.context.project.norm."),
    (r"head\.encmodule\.encoding\.3\.", "head.context.encoding."),
    (r"head\.encmodule\.encoding\.4\.", "head.context.norm."),
    (r"head\.encmodule\.fc\.0\.", "head.gate."),
    (r"head\.encmodule\.selayer\.", "aux_heads.presence.classifier."),
    (r"head\.conv6\.1\.", "head.classifier."),
    (r"auxlayer\.conv5\.0\.", "aux_heads.stage3.conv.conv."),
    (r"auxlayer\.conv5\.1\.", "aux_heads.stage3.conv.norm."),
    (r"auxlayer\.conv5\.4\.", "aux_heads.stage3.classifier."),
)

_LATERAL: tuple[Rule, ...] = (
    (r"(merge\.\w+)\.0\.", r"\1.conv."),
    (r"(merge\.\w+)\.1\.", r"\1.norm."),
)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of PyTorch-Encoding's EncNet."""
    return any(name.startswith("head.encmodule.") for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a checkpoint; see ``weights.convert``."""
    renamed = linear_as_conv(rename(tensors, [_RULES, _LATERAL], layout=LAYOUT))
    depth = resnet_depth(tensors, "pretrained.")
    aux = renamed.get("aux_heads.stage3.conv.conv.weight")
    try:
        config = {
            "model": f"encnet_r{depth}",
            "backbone": f"resnet{depth}s",
            "num_classes": renamed["head.classifier.weight"].shape[0],
            "in_channels": renamed["backbone.body.conv1.0.weight"].shape[1],
            "backbone_options": {"output_stride": 8},
            "lateral": "head.merge.fusion.conv.weight" in renamed,
            "presence": "aux_heads.presence.classifier.weight" in renamed,
            "aux_channels": None if aux is None else aux.shape[0],
        }
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like an EncNet, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    return Converted(LAYOUT, "EncNet", config, renamed)


def linear_as_conv(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EncNet's two linear layers as 1×1 convolutions: (out, in) → (out, in, 1, 1)."""
    linear = ("head.gate.weight", "aux_heads.presence.classifier.weight")
    return {
        name: tensor[:, :, None, None] if name in linear and tensor.ndim == 2 else tensor
        for name, tensor in tensors.items()
    }
