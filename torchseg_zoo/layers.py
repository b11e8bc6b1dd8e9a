"""Building blocks that three or more families share."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvNormAct", "init_head", "resize"]


class ConvNormAct(nn.Sequential):
    """Bias-free convolution, batch norm and optional ReLU.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: side of the square kernel; padding keeps the size (before the stride).
        stride: step of the kernel.
        dilation: spacing of the kernel's taps.
        act: whether a ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        if act:
            self.act = nn.ReLU(inplace=True)


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Bilinear resize of (N, C, h, w) to (N, C, *size); unchanged when the size already fits."""
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def init_head(module: nn.Module, *, fan: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Kaiming-normal convolutions under ``module``, as TorchSeg starts all that is not backbone.

    Biases and linear layers keep PyTorch's default. Does nothing on the meta device.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode=fan, nonlinearity="relu")
