"""Checkpoints of DenseASPP's authors (``DeepMotionAIResearch/DenseASPP``).

Shapes tell the DenseNet and the widths. They do not tell the output stride (8 is assumed; for 16
pass ``backbone_options`` with ``output_stride: 16`` and ``final_norm: False``) nor
``align_corners``, which is true for all that PyTorch 0.3 trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights.convert.base import Converted, Rule, rename, with_batch_counts

__all__ = ["convert", "recognise"]

LAYOUT = "denseaspp"

_RATES = (3, 6, 12, 18, 24)  # they are part of the blocks' names

_DEPTHS = {  # (channels of the stem, layers of denseblock3, layers of denseblock4) → depth
    (64, 24, 16): 121,
    (96, 36, 24): 161,
    (64, 32, 32): 169,
    (64, 48, 32): 201,
}

_RULES: tuple[Rule, ...] = (
    (r"features\.transition4\.", "neck."),
    (r"features\.norm5\.", "neck.last_norm."),
    (r"features\.(conv0|norm0|denseblock\d|transition[123])\.", r"backbone.body.features_\1."),
    *((rf"ASPP_{rate}\.", f"head.blocks.{index}.") for index, rate in enumerate(_RATES)),
    (r"classification\.1\.", "head.classifier."),
)

# The original has dots inside names, "norm.1", which PyTorch allowed then.
_DOTS: tuple[Rule, ...] = ((r"\.(norm|conv)\.([12])\.", r".\1\2."),)


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of DenseASPP's authors."""
    return any(name.startswith("ASPP_3.") for name in tensors)


def convert(tensors: Mapping[str, Tensor]) -> Converted:
    """Renames a checkpoint; see ``weights.convert``. Batch norms get the counter they lack."""
    renamed = with_batch_counts(rename(tensors, [_RULES, _DOTS], layout=LAYOUT))
    try:
        block = renamed["head.blocks.0.conv2.weight"]
        stem = renamed["backbone.body.features_conv0.weight"]
        classes = renamed["head.classifier.weight"].shape[0]
    except KeyError as error:
        raise CheckpointFormatError(
            f"looks like a DenseASPP, but lacks {error}", where=f"layout {LAYOUT}"
        ) from error
    depth = _depth(tensors, stem.shape[0])
    config = {
        "model": f"denseaspp_d{depth}",
        "backbone": f"densenet{depth}",
        "num_classes": classes,
        "in_channels": stem.shape[1],
        "backbone_options": {"output_stride": 8, "final_norm": False},
        "mid_channels": block.shape[1],
        "block_channels": block.shape[0],
    }
    return Converted(LAYOUT, "DenseASPP", config, renamed)


def _depth(tensors: Mapping[str, Tensor], stem: int) -> int:
    def layers(block: int) -> int:
        start = f"features.denseblock{block}."
        return len({name.split(".")[2] for name in tensors if name.startswith(start)})

    shape = (stem, layers(3), layers(4))
    if shape not in _DEPTHS:
        raise CheckpointFormatError(
            f"no DenseNet with a stem of {shape[0]} channels and {shape[1]} and {shape[2]} layers "
            "in its last two blocks",
            where=f"layout {LAYOUT}",
        )
    return _DEPTHS[shape]
