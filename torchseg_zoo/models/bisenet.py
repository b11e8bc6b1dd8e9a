"""BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation.

Yu, Wang, Peng, Gao, Yu, Sang; ECCV 2018; arXiv:1808.00897. Checked against TorchSeg, which differs
from the paper in these places, and we with it: the fusion module adds its attended features to
themselves without a reduction, its two attention convolutions have neither bias nor norm, and the
two auxiliary heads sit on the refined maps at strides 16 and 8. Checked against mmsegmentation,
too, whose BiSeNetV1 enlarges context maps by nearest neighbours, has one convolution with norm and
ReLU in the fusion module's gate, other head widths, and is four times as wide on ResNet-50 and
ResNet-101.

A spatial path (three strided convolutions, stride 8) keeps detail; a context path (any backbone
with maps at strides 8, 16 and 32) sees far. Attention refinement (ARM) weighs the context maps,
feature fusion (FFM) joins both paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.layers import ConvHead, ConvNormAct, global_pool, init_head
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.registry import register_model
from torchseg_zoo.types import SegOutput

__all__ = [
    "BiSeNet",
    "BiSeNetConfig",
    "bisenet_r18",
    "bisenet_r18_speed",
    "bisenet_r50",
    "bisenet_r101",
    "bisenet_x39",
    "bisenet_x39_speed",
]  # fmt: skip


@dataclass(frozen=True)
class BiSeNetConfig(ModelConfig):
    """Configuration of a BiSeNet; the defaults are TorchSeg's.

    Args:
        head_channels: hidden width of the main head.
        aux_channels: hidden width of the two auxiliary heads.
        fusion_reduction: how much narrower the fusion module's attention is between its two
            convolutions; TorchSeg's files from before May 2019 have 4. ``None`` for a single
            convolution with norm and ReLU (mmsegmentation).
        width: channels of the context maps and of the spatial path's output; even. The spatial path
            begins with half as many, fusion ends with twice as many. 512 in mmsegmentation's
            ResNet-50 and ResNet-101.
        context_resize: how context maps are enlarged: ``"bilinear"``, with ``align_corners``, or
            ``"nearest"`` (mmsegmentation).
        dropout: share of hidden channels dropped in the heads in training; 0.1 in mmsegmentation.
    """

    head_channels: int = 64
    aux_channels: int = 256
    fusion_reduction: int | None = 1
    width: int = 128
    context_resize: Literal["bilinear", "nearest"] = "bilinear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context_resize not in ("bilinear", "nearest"):
            raise ArgumentError(
                f"context_resize is {self.context_resize!r}",
                where=self.model,
                fix='choose "bilinear" or "nearest"',
            )


class SpatialPath(nn.Sequential):
    """(N, C, H, W) → (N, width, H/8, W/8)."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv_7x7 = ConvNormAct(in_channels, width // 2, 7, stride=2)
        self.conv_3x3_1 = ConvNormAct(width // 2, width // 2, 3, stride=2)
        self.conv_3x3_2 = ConvNormAct(width // 2, width // 2, 3, stride=2)
        self.conv_1x1 = ConvNormAct(width // 2, width)


class AttentionRefinement(nn.Module):
    """ARM: a 3×3 convolution, weighed per channel by its own global average (paper, figure 2b)."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv_3x3 = ConvNormAct(in_channels, width, 3)
        self.attention = ConvNormAct(width, width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_3x3(x)
        gate: Tensor = self.attention(global_pool(x)).sigmoid()
        return x * gate


class FeatureFusion(nn.Module):
    """FFM: joins spatial and context maps, spatial first (paper, figure 2c)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.conv_1x1 = ConvNormAct(2 * width, 2 * width)
        self.squeeze = nn.Conv2d(2 * width, 2 * width // reduction, 1, bias=False)
        self.excite = nn.Conv2d(2 * width // reduction, 2 * width, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.conv_1x1(torch.cat([spatial, context], dim=1))
        gate: Tensor = self.excite(self.squeeze(global_pool(x)).relu()).sigmoid()
        return x + x * gate


class SingleGateFusion(nn.Module):
    """mmsegmentation's FFM: one convolution with norm and ReLU, so the gate is at least 1/2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_1x1 = ConvNormAct(2 * width, 2 * width)
        self.attention = ConvNormAct(2 * width, 2 * width)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x: Tensor = self.conv_1x1(torch.cat([spatial, context], dim=1))
        gate: Tensor = self.attention(global_pool(x)).sigmoid()
        return x + x * gate


class BiSeNet(SegmentationModel):
    """BiSeNet over any backbone with maps at strides 8, 16 and 32.

    Takes any input size. Auxiliary heads: ``stride16`` and ``stride8``, named by where they sit.

    Args:
        config: see ``BiSeNetConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: BiSeNetConfig
    config_class = BiSeNetConfig
    paper = Paper(
        key="yu2018bisenet",
        title="BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
        authors=(
            "Changqian Yu",
            "Jingbo Wang",
            "Chao Peng",
            "Changxin Gao",
            "Gang Yu",
            "Nong Sang",
        ),
        venue="ECCV 2018",
        url="https://arxiv.org/abs/1808.00897",
    )
    pooled_norm = True

    def __init__(self, config: BiSeNetConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=3, pretrained=pretrained_backbone)
        if self.backbone.strides != (8, 16, 32):
            raise ArgumentError(
                f"{config.backbone} has maps at strides {self.backbone.strides}",
                where="backbone",
                fix="BiSeNet needs strides (8, 16, 32), as resnet18 or mobilenetv3_small_100 have",
            )
        _, middle, deep = self.backbone.channels
        width = config.width
        self.spatial_path = SpatialPath(config.in_channels, width)
        self.global_context = ConvNormAct(deep, width)
        self.arms = nn.ModuleList(
            [AttentionRefinement(deep, width), AttentionRefinement(middle, width)]
        )
        self.refines = nn.ModuleList([ConvNormAct(width, width, 3) for _ in range(2)])
        self.ffm = (
            SingleGateFusion(width)
            if config.fusion_reduction is None
            else FeatureFusion(width, config.fusion_reduction)
        )
        self.head = ConvHead(
            2 * width, config.head_channels, config.num_classes, dropout=config.dropout
        )
        self.aux_heads = nn.ModuleDict(
            {
                name: ConvHead(
                    width, config.aux_channels, config.num_classes, dropout=config.dropout
                )
                for name in ("stride16", "stride8")
            }
        )
        # PyTorch takes align_corners with bilinear resizing only.
        self._context_corners = (
            config.align_corners if config.context_resize == "bilinear" else None
        )
        for name, module in self.named_children():
            if name != "backbone":
                init_head(module)

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        spatial = self.spatial_path(x)  # (N, width, H/8, W/8)
        _, middle, deep = self.backbone(x)
        context16 = self.arms[0](deep) + self.global_context(global_pool(deep))
        context16 = self._enlarge(context16, middle)
        context16 = self.refines[0](context16)  # (N, width, H/16, W/16)
        context8 = self.arms[1](middle) + context16
        # The spatial path rounds odd sizes up; some backbones round them down.
        context8 = self._enlarge(context8, spatial)
        context8 = self.refines[1](context8)  # (N, width, H/8, W/8)
        logits = self.head(self.ffm(spatial, context8))
        if not with_aux:
            return SegOutput(logits, {})
        aux = {
            "stride16": self.aux_heads["stride16"](context16),
            "stride8": self.aux_heads["stride8"](context8),
        }
        return SegOutput(logits, aux)

    def _enlarge(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(
            x,
            size=like.shape[-2:],
            mode=self.config.context_resize,
            align_corners=self._context_corners,
        )


@register_model
def bisenet_r18(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18",
    pretrained_backbone: bool = False,
) -> BiSeNet:
    """BiSeNet on ResNet-18, the balanced model of TorchSeg's Cityscapes tables.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("bisenet_r18")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone with maps at strides 8, 16 and 32.
        pretrained_backbone: start from timm's ImageNet weights.
    """
    config = BiSeNetConfig("bisenet_r18", backbone, in_channels=in_channels)
    return build(
        BiSeNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def bisenet_r18_speed(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18",
    pretrained_backbone: bool = False,
) -> BiSeNet:
    """BiSeNet on ResNet-18 as TorchSeg trains it for speed, with labels at stride 8.

    Arguments as in ``bisenet_r18``.
    """
    config = BiSeNetConfig("bisenet_r18_speed", backbone, in_channels=in_channels, aux_channels=128)
    return build(
        BiSeNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def bisenet_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50",
    pretrained_backbone: bool = False,
) -> BiSeNet:
    """BiSeNet on ResNet-50, four times as wide, as mmsegmentation defines it.

    Arguments as in ``bisenet_r18``.
    """
    config = BiSeNetConfig(
        "bisenet_r50",
        backbone,
        in_channels=in_channels,
        align_corners=False,
        head_channels=1024,
        fusion_reduction=None,
        width=512,
        context_resize="nearest",
        dropout=0.1,
    )
    return build(
        BiSeNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def bisenet_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
) -> BiSeNet:
    """BiSeNet on ResNet-101 with the deep stem (timm's ``resnet101s``), the most accurate one.

    Arguments as in ``bisenet_r18``.
    """
    config = BiSeNetConfig("bisenet_r101", backbone, in_channels=in_channels, head_channels=256)
    return build(
        BiSeNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def bisenet_x39(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "xception39",
    pretrained_backbone: bool = False,
) -> BiSeNet:
    """BiSeNet on Xception39, the smallest: 1.8 M parameters, trained from scratch.

    Arguments as in ``bisenet_r18``.
    """
    config = BiSeNetConfig("bisenet_x39", backbone, in_channels=in_channels, aux_channels=128)
    return build(
        BiSeNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def bisenet_x39_speed(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "xception39",
    pretrained_backbone: bool = False,
) -> BiSeNet:
    """BiSeNet on Xception39 as TorchSeg trains it for speed, with labels at stride 8.

    Arguments as in ``bisenet_r18``.
    """
    config = BiSeNetConfig("bisenet_x39_speed", backbone, in_channels=in_channels, aux_channels=128)
    return build(
        BiSeNet,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )
