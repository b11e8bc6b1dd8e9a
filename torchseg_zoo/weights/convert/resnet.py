"""Which ResNet a checkpoint holds, read off its names and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError

__all__ = ["resnet_depth"]

_DEPTHS = {  # (bottleneck, blocks of layer3, blocks of layer4) → depth
    (False, 2, 2): 18,
    (False, 6, 3): 34,
    (True, 6, 3): 50,
    (True, 23, 3): 101,
    (True, 36, 3): 152,
}


def resnet_depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Depth of the ResNet whose stages are ``<prefix>layer1`` .. ``<prefix>layer4``.

    Raises:
        CheckpointFormatError: if there is none, or one that this package does not know.
    """

    def blocks(stage: int) -> int:
        start = f"{prefix}layer{stage}."
        return len(
            {name[len(start) :].partition(".")[0] for name in tensors if name.startswith(start)}
        )

    shape = (f"{prefix}layer1.0.conv3.weight" in tensors, blocks(3), blocks(4))
    if shape not in _DEPTHS:
        kind = "bottleneck" if shape[0] else "basic"
        raise CheckpointFormatError(
            f"no ResNet with {shape[1]} and {shape[2]} {kind} blocks in its last two stages",
            where=prefix.rstrip("."),
        )
    return _DEPTHS[shape]
