"""FCN: Fully Convolutional Networks for Semantic Segmentation.

Long, Shelhamer, Darrell; CVPR 2015; arXiv:1411.4038. What is called FCN today keeps the paper's
idea, a classifier that is a convolution, without its skip connections. Checked against TorchSeg
(``fcn32s_r101``), mmsegmentation and torchvision (``fcn_r50``, ``fcn_r101``).

The public variants differ in where the maps come from and in the head:

- TorchSeg's FCN-32s keeps the backbone's stride of 32; its head is one 3×3 convolution to a quarter
  of the channels, and the classifier. The auxiliary head on the third stage has the same form.
- torchvision has the same two heads on a backbone dilated to stride 8 with the plain 7×7 stem. (In
  training it drops single elements where all others, and we, drop channels.)
- mmsegmentation puts two 3×3 convolutions at stride 8, and a third over the backbone's map beside
  their output (``concat``). Its "D6" models work at stride 16 and dilate the first two, and the
  auxiliary head's 3×3, by six (``head_dilation``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.layers import ConvHead, ConvNormAct, init_head
from torchseg_zoo.models.base import ModelConfig, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.models.two_maps import TwoMapModel
from torchseg_zoo.registry import register_model

__all__ = ["FCN", "FCNConfig", "fcn32s_r101", "fcn_r18", "fcn_r50", "fcn_r101"]

DROPOUT = 0.1  # share of hidden channels, in all heads of all origins


@dataclass(frozen=True)
class FCNConfig(ModelConfig):
    """Configuration of an FCN; the defaults are TorchSeg's.

    Args:
        head_channels: hidden width of the main head.
        aux_channels: hidden width of the auxiliary head on the third stage; ``None`` for no such
            head.
        concat: two 3×3 convolutions and a third over the backbone's map beside their output
            (mmsegmentation) instead of one 3×3 (TorchSeg, torchvision).
        head_dilation: of the 3×3 convolutions in both heads, but not of the one after the
            concatenation; 6 in mmsegmentation's D6 models.
    """

    head_channels: int = 512
    aux_channels: int | None = 256
    concat: bool = False
    head_dilation: int = 1


class ConcatHead(nn.Module):
    """mmsegmentation's head: two 3×3 convolutions, and a third that sees their input, too.

    Args:
        in_channels: C of the input.
        channels: hidden width.
        num_classes: K.
        dilation: of the first two convolutions.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, *, dilation: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(in_channels, channels, 3, dilation=dilation),
            ConvNormAct(channels, channels, 3, dilation=dilation),
        )
        self.merge = ConvNormAct(in_channels + channels, channels, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.merge(torch.cat([x, self.convs(x)], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class FCN(TwoMapModel):
    """FCN over the deepest map of any backbone, at whatever stride it has.

    Takes any input size. Auxiliary head: ``stage3``, on the map before the deepest.

    Args:
        config: see ``FCNConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: FCNConfig
    config_class = FCNConfig
    paper = Paper(
        key="long2015fcn",
        title="Fully Convolutional Networks for Semantic Segmentation",
        authors=(
            "Jonathan Long",
            "Evan Shelhamer",
            "Trevor Darrell",
        ),
        venue="CVPR 2015",
        url="https://arxiv.org/abs/1411.4038",
    )

    def __init__(self, config: FCNConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=2, pretrained=pretrained_backbone)
        middle, deep = self.backbone.channels
        width, classes, dilation = config.head_channels, config.num_classes, config.head_dilation
        self.head: nn.Module = (
            ConcatHead(deep, width, classes, dilation=dilation)
            if config.concat
            else ConvHead(deep, width, classes, dropout=DROPOUT, dilation=dilation)
        )
        self.aux_heads = nn.ModuleDict()
        if config.aux_channels is not None:
            self.aux_heads["stage3"] = ConvHead(
                middle, config.aux_channels, classes, dropout=DROPOUT, dilation=dilation
            )
        init_head(self.head)
        init_head(self.aux_heads)


@register_model
def fcn32s_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
) -> FCN:
    """FCN-32s on ResNet-101 with the deep stem, as TorchSeg trains it on PASCAL VOC.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("fcn32s_r101")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone with at least two feature maps.
        pretrained_backbone: start from timm's ImageNet weights.
    """
    config = FCNConfig("fcn32s_r101", backbone, in_channels=in_channels)
    return build(
        FCN,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def fcn_r18(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18c",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> FCN:
    """Dilated FCN on ResNet-18 with mmsegmentation's narrow heads, the light one.

    Arguments as in ``fcn_r50``.
    """
    config = replace(
        _dilated("fcn_r18", backbone, in_channels, output_stride),
        head_channels=128,
        aux_channels=64,
    )
    return build(
        FCN,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def fcn_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50c",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> FCN:
    """Dilated FCN on ResNet-50, as mmsegmentation defines it.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("fcn_r50")`` names them. Checkpoints of
            torchvision's variant bring its configuration along.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone that has at least two feature maps at ``output_stride``.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32.
    """
    return build(
        FCN,
        _dilated("fcn_r50", backbone, in_channels, output_stride),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def fcn_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101c",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> FCN:
    """Dilated FCN on ResNet-101, as mmsegmentation defines it.

    Arguments as in ``fcn_r50``.
    """
    return build(
        FCN,
        _dilated("fcn_r101", backbone, in_channels, output_stride),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


def _dilated(model: str, backbone: str, in_channels: int, output_stride: int) -> FCNConfig:
    return FCNConfig(
        model,
        backbone,
        in_channels=in_channels,
        align_corners=False,
        backbone_options=BackboneOptions(output_stride=output_stride),
        concat=True,
    )
