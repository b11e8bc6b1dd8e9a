"""PSPNet: Pyramid Scene Parsing Network.

Zhao, Shi, Qi, Wang, Jia; CVPR 2017; arXiv:1612.01105. Checked against TorchSeg and mmsegmentation.

The deepest map is averaged into 1×1, 2×2, 3×3 and 6×6 bins. Each of these goes through a
convolution and is resized back; one 3×3 convolution, the bottleneck, sees the map and all four. The
public variants differ in the backbone's stem (TorchSeg: ``resnet50s``; mmsegmentation:
``resnet50c`` and ``resnet50``), in ``align_corners`` (TorchSeg: true; mmsegmentation: in its
769×769 models only) and in widths. mmsegmentation's "D32" models dilate a backbone that keeps its
strides: ``BackboneOptions(output_stride=8, keep_strides=True)``.

The bottleneck's share of the resized bins is computed on the bins, see ``conv_of_resized``: the
same numbers, up to rounding, at half the cost of the head, and without its widest map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.layers import ConvHead, ConvNormAct, init_head, pool_to_bins
from torchseg_zoo.models.base import ModelConfig, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.models.two_maps import TwoMapModel
from torchseg_zoo.registry import register_model

__all__ = ["PSPNet", "PSPNetConfig", "pspnet_r18", "pspnet_r50", "pspnet_r101"]

BINS = (1, 2, 3, 6)  # bins per side of each level of the pyramid
DROPOUT = 0.1  # share of hidden channels, in both heads


@dataclass(frozen=True)
class PSPNetConfig(ModelConfig):
    """Configuration of a PSPNet; the defaults are TorchSeg's.

    Args:
        channels: width of each level of the pyramid and of the bottleneck; 128 in mmsegmentation's
            R18 models.
        aux_channels: hidden width of the auxiliary head on the third stage (mmsegmentation: 256, or
            64 for R18); ``None`` for no such head.
    """

    channels: int = 512
    aux_channels: int | None = 1024


def conv_of_resized(
    x: Tensor, kernel: Tensor, size: tuple[int, int], *, align_corners: bool
) -> Tensor:
    """The 3×3 convolution, zero-padded by 1, of ``x`` resized to ``size``, without the resized map.

    Bilinear resizing is a matrix per axis, and a tap of the kernel shifts that matrix by one row.
    So the taps are applied at the size of ``x``, and a matrix product per axis resizes and sums.

    Args:
        x: (N, C, b, b).
        kernel: (K, C, 3, 3).
        size: (height, width) that ``x`` would be resized to.
        align_corners: of that resize.

    Returns:
        (N, K, *size)
    """
    channels, bins = kernel.shape[0], x.shape[-1]
    taps = kernel.permute(2, 3, 0, 1).reshape(9 * channels, -1, 1, 1)
    products = F.conv2d(x, taps).view(-1, 3, 3, channels, bins, bins)
    products = products.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, 3 * bins, 3 * bins)
    down = _shifted_resize(bins, size[0], x, align_corners=align_corners)
    across = _shifted_resize(bins, size[1], x, align_corners=align_corners)
    return down @ products @ across.transpose(0, 1)


def _shifted_resize(bins: int, size: int, like: Tensor, *, align_corners: bool) -> Tensor:
    """(size, 3·bins): bilinear weights of the row before, of the row itself, of the row after."""
    identity = torch.eye(bins, dtype=like.dtype, device=like.device)
    weights = F.interpolate(
        identity[None, None], size=(size, bins), mode="bilinear", align_corners=align_corners
    )[0, 0]
    padded = F.pad(weights, (0, 0, 1, 1))
    return torch.cat([padded[:-2], weights, padded[2:]], dim=1)


class PyramidHead(nn.Module):
    """Pyramid pooling, the bottleneck over the map and its pyramid, and the classifier.

    Args:
        in_channels: C of the input.
        channels: width of each level and of the bottleneck.
        num_classes: K.
        align_corners: how the levels are resized to the map.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, *, align_corners: bool
    ) -> None:
        super().__init__()
        self.widths = [in_channels] + [channels] * len(BINS)
        self.align_corners = align_corners
        self.pyramid = nn.ModuleList([ConvNormAct(in_channels, channels) for _ in BINS])
        self.bottleneck = ConvNormAct(sum(self.widths), channels, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        conv = self.bottleneck.conv
        kernel, *level_kernels = torch.split(conv.weight, self.widths, dim=1)
        y = F.conv2d(x, kernel, conv.bias, padding=1)
        for bins, level, level_kernel in zip(BINS, self.pyramid, level_kernels, strict=True):
            pooled = level(pool_to_bins(x, bins))
            y = y + conv_of_resized(pooled, level_kernel, size, align_corners=self.align_corners)
        y = self.bottleneck.act(self.bottleneck.norm(y))  # (N, channels, H/8, W/8)
        logits: Tensor = self.classifier(self.dropout(y))
        return logits


class PSPNet(TwoMapModel):
    """PSPNet over the deepest map of any backbone, at whatever stride it has.

    Takes any input size. Auxiliary head: ``stage3``, on the map before the deepest.

    Args:
        config: see ``PSPNetConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: PSPNetConfig
    config_class = PSPNetConfig
    paper = Paper(
        key="zhao2017pspnet",
        title="Pyramid Scene Parsing Network",
        authors=(
            "Hengshuang Zhao",
            "Jianping Shi",
            "Xiaojuan Qi",
            "Xiaogang Wang",
            "Jiaya Jia",
        ),
        venue="CVPR 2017",
        url="https://arxiv.org/abs/1612.01105",
    )
    pooled_norm = True

    def __init__(self, config: PSPNetConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=2, pretrained=pretrained_backbone)
        middle, deep = self.backbone.channels
        self.head = PyramidHead(
            deep, config.channels, config.num_classes, align_corners=config.align_corners
        )
        self.aux_heads = nn.ModuleDict()
        if config.aux_channels is not None:
            self.aux_heads["stage3"] = ConvHead(
                middle, config.aux_channels, config.num_classes, dropout=DROPOUT
            )
        init_head(self.head)
        init_head(self.aux_heads)


@register_model
def pspnet_r18(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18c",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> PSPNet:
    """PSPNet on ResNet-18 with mmsegmentation's narrow heads, the light one.

    Arguments as in ``pspnet_r50``.
    """
    config = PSPNetConfig(
        "pspnet_r18",
        backbone,
        in_channels=in_channels,
        align_corners=False,
        backbone_options=BackboneOptions(output_stride=output_stride),
        channels=128,
        aux_channels=64,
    )
    return build(
        PSPNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def pspnet_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> PSPNet:
    """PSPNet on ResNet-50 with the deep stem, as TorchSeg trains it on ADE20K.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("pspnet_r50")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone that has at least two feature maps at ``output_stride``.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32.
    """
    config = PSPNetConfig(
        "pspnet_r50",
        backbone,
        in_channels=in_channels,
        backbone_options=BackboneOptions(output_stride=output_stride),
    )
    return build(
        PSPNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def pspnet_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> PSPNet:
    """PSPNet on ResNet-101 with the deep stem, as TorchSeg trains it on ADE20K.

    Arguments as in ``pspnet_r50``.
    """
    config = PSPNetConfig(
        "pspnet_r101",
        backbone,
        in_channels=in_channels,
        backbone_options=BackboneOptions(output_stride=output_stride),
    )
    return build(
        PSPNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )
