"""Networks of one function for the tests of inference.

They depend on the place within the window and are not symmetric, so that windows, padding,
mirroring and overlaps all show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from golden import procedural
from torch import Tensor, nn

from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.models.base import InputRule


@dataclasses.dataclass(frozen=True)
class _Config:
    align_corners: bool = False


class Fake(nn.Module):
    """A network in one function, (N, 3, h, w) → logits at its own stride."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        rule: InputRule | None = None,
        align_corners: bool = False,
        preprocess: Preprocess | None = None,
    ) -> None:
        super().__init__()
        self.function = function
        self.config = _Config(align_corners)
        self.preprocess = preprocess or Preprocess()
        self.input_rule = rule or InputRule()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, *, upsample: bool = True) -> Tensor:
        assert not upsample
        rule = self.input_rule
        assert rule.nearest(*x.shape[2:]) == tuple(x.shape[2:])
        self.shapes.append(tuple(x.shape))
        return self.function(x)


def strided(x: Tensor) -> Tensor:
    """Logits of five classes at stride 4, unsymmetric and aware of the place in the window."""
    weight = torch.from_numpy(procedural.uniform("strided", (5, 3, 5, 5), -0.4, 0.4)).float()
    z = F.conv2d(x, weight, stride=4, padding=2)
    return z * torch.linspace(0.7, 1.4, z.shape[3])


def local(x: Tensor) -> Tensor:
    """The same without the place."""
    weight = torch.from_numpy(procedural.uniform("strided", (5, 3, 3, 3), -0.4, 0.4)).float()
    return F.conv2d(x, weight, padding=1)
