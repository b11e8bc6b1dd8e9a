"""AcmeNet: five strided stages, registered with timm like any other backbone."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

__all__ = ["AcmeNet", "acmenet"]

WIDTHS = (8, 8, 12, 16, 24)


class Stage(nn.Module):
    """A strided 3×3 convolution and a residual one."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.down(x)))
        return F.relu(x + self.norm2(self.conv(x)))


class AcmeNet(nn.Module):
    """Strides 2, 4, 8, 16 and 32; knows nothing of output strides."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.feature_info = []
        previous = in_chans
        for index, width in enumerate(WIDTHS):
            self.add_module(f"stage{index}", Stage(previous, width))
            self.feature_info.append(
                {"num_chs": width, "reduction": 2 ** (index + 1), "module": f"stage{index}"}
            )
            previous = width
        self.head = nn.Linear(previous, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(len(WIDTHS)):
            x = self.get_submodule(f"stage{index}")(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@register_model
def acmenet(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """With ``pretrained_cfg={"file": PATH}`` timm loads the weights in PATH."""
    config = {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 64, 64),
        "first_conv": "stage0.down",
        "classifier": "head",
        **(kwargs.pop("pretrained_cfg", None) or {}),
    }
    return build_model_with_cfg(  # type: ignore[no-any-return]
        AcmeNet, "acmenet", pretrained, pretrained_cfg=config,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4)}, **kwargs,
    )  # fmt: skip
