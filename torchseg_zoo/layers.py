"""Building blocks that three or more families share."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvHead", "ConvNormAct", "global_pool", "init_head", "pool_to_bins", "resize"]


class ConvNormAct(nn.Sequential):
    """Bias-free convolution, batch norm and optional ReLU.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: side of the square kernel; padding keeps the size (before the stride).
        stride: step of the kernel.
        dilation: spacing of the kernel's taps.
        groups: how many parts of the channels are convolved apart; C for a depthwise convolution.
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
        groups: int = 1,
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
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        if act:
            self.act = nn.ReLU(inplace=True)


class ConvHead(nn.Sequential):
    """A 3×3 ``conv``, channel dropout, and the 1×1 ``classifier``: the plain head of many families.

    Args:
        in_channels: C of the input.
        channels: hidden width.
        num_classes: K.
        dropout: share of hidden channels dropped in training.
        dilation: of the 3×3.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        dilation: int = 1,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = ConvNormAct(in_channels, channels, 3, dilation=dilation)
        if dropout:
            layers["dropout"] = nn.Dropout2d(dropout)
        layers["classifier"] = nn.Conv2d(channels, num_classes, 1)
        super().__init__(layers)


def global_pool(x: Tensor) -> Tensor:
    """Mean over all positions: (N, C, H, W) → (N, C, 1, 1)."""
    return x.mean((2, 3), keepdim=True)


def pool_to_bins(x: Tensor, bins: int) -> Tensor:
    """Adaptive average pooling (N, C, H, W) → (N, C, bins, bins) that exports with dynamic H and W.

    Equal to ``F.adaptive_avg_pool2d``: bin i averages rows floor(i·H/bins) to ceil((i+1)·H/bins)-1.
    It is a matrix product over all positions, because exporters turn adaptive pooling whose bins do
    not divide the map into something fixed or wrong.
    """
    if bins == 1:
        return global_pool(x)
    down = _bin_matrix(x.shape[-2], bins, x)
    across = _bin_matrix(x.shape[-1], bins, x)
    weights = (down[:, None, :, None] * across[None, :, None, :]).reshape(bins * bins, -1)
    # Positions before channels: a product that is as fast on channels-last maps.
    pooled = weights @ x.flatten(2).transpose(1, 2)  # (N, bins², C)
    return pooled.transpose(1, 2).reshape(-1, x.shape[1], bins, bins)


def _bin_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """(bins, size) weights; each row averages one bin."""
    position = torch.arange(size, device=like.device)
    index = torch.arange(bins, device=like.device)[:, None]
    start = index * size // bins
    end = ((index + 1) * size + bins - 1) // bins
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


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
