"""What FCN, PSPNet, PSANet and OCNet share: which of the backbone's maps their heads read."""

from __future__ import annotations

from torch import Tensor, nn

from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import SegOutput

__all__ = ["TwoMapModel"]


class TwoMapModel(SegmentationModel):
    """Base of families whose head reads the backbone's deepest map.

    Their auxiliary heads, at most ``stage3``, read the map before it. A family makes ``backbone``
    with two levels, ``head`` and ``aux_heads``.
    """

    head: nn.Module
    aux_heads: nn.ModuleDict

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        middle, deep = self.backbone(x)
        aux = {name: head(middle) for name, head in self.aux_heads.items()} if with_aux else {}
        return SegOutput(self.head(deep), aux)
