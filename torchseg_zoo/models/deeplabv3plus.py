"""DeepLabV3+: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation.

Chen, Zhu, Papandreou, Schroff, Adam; ECCV 2018; arXiv:1802.02611. The ASPP of DeepLabV3 sees far
but at a coarse stride; its output is enlarged to stride 4 and joined with the backbone's first
stage, which has kept the edges, and a short decoder classifies both there.

The defaults are the paper's for a ResNet: ASPP as in DeepLabV3, 48 low-level channels after the
ASPP's 256, two plain 3×3 of 256 channels, no auxiliary head. Checked against public networks, which
differ from it in fields of the configuration:

===============  ======  ======  =========  ========
..               paper   VainF   jfzhang95  mmseg
===============  ======  ======  =========  ========
channels         256     256     256        512
separable        no      no      no         yes
project_kernel   1       1       1          3
pool_first       no      no      no         yes
low_first        no      yes     no         no
decoder_convs    2       1       2          2
decoder_dropout  none    none    0.5, 0.1   0, 0.1
dropout          0.1     0.1     0.5        0
aux_channels     none    none    none       256
align_corners    yes     no      yes        no
multi-grid       option  no      1, 2, 4    no
===============  ======  ======  =========  ========

On Xception the paper makes every 3×3 of the head separable. mmseg's networks on ResNet-18 have 128
channels with 12 low-level ones, its 769×769 ones align corners, and its D16-MG124 dilates the last
stage by 1, 2, 4 as such. The authors' code puts the global mean first, unlike all but mmseg.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import Backbone
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.layers import ConvNormAct, resize
from torchseg_zoo.models.base import build
from torchseg_zoo.models.deeplabv3 import ASPP, ASPPConfig, DeepLab, conv_3x3, multi_grid_options
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.registry import register_model

__all__ = [
    "DeepLabV3Plus",
    "DeepLabV3PlusConfig",
    "deeplabv3plus_r18",
    "deeplabv3plus_r50",
    "deeplabv3plus_r101",
]  # fmt: skip


@dataclass(frozen=True)
class DeepLabV3PlusConfig(ASPPConfig):
    """Configuration of a DeepLabV3+, beyond ``ASPPConfig``; the decoder is ``channels`` wide, too.

    Args:
        low_channels: width to which the map at stride 4 is brought before it is joined.
        low_first: the map at stride 4 comes before the ASPP's output in the concatenation.
        decoder_convs: number of 3×3 after the concatenation, at least 1.
        decoder_dropout: share dropped in training after each of them; () for none.
    """

    low_channels: int = 48
    low_first: bool = False
    decoder_convs: int = 2
    decoder_dropout: tuple[float, ...] = ()


class DeepLabV3PlusHead(nn.Module):
    """ASPP and decoder (paper, figure 2): maps at stride 4 and at the deepest → logits at stride 4.

    Args:
        backbone: its first map is the one at stride 4.
        config: see ``DeepLabV3PlusConfig``.
    """

    def __init__(self, backbone: Backbone, config: DeepLabV3PlusConfig) -> None:
        super().__init__()
        width = config.channels
        self.aspp = ASPP(backbone.channels[-1], backbone.strides[-1], config)
        self.low = ConvNormAct(backbone.channels[0], config.low_channels)
        self.low_first = config.low_first
        self.align_corners = config.align_corners
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(config.decoder_convs):
            in_channels = width if index else width + config.low_channels
            layers[f"conv{index + 1}"] = conv_3x3(in_channels, width, separable=config.separable)
            if index < len(config.decoder_dropout):
                layers[f"dropout{index + 1}"] = nn.Dropout(config.decoder_dropout[index])
        self.decoder = nn.Sequential(layers)
        self.classifier = nn.Conv2d(width, config.num_classes, 1)

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        size = (low.shape[-2], low.shape[-1])
        low = self.low(low)  # (N, 48, H/4, W/4)
        deep = resize(self.aspp(deep), size, align_corners=self.align_corners)
        maps = [low, deep] if self.low_first else [deep, low]
        logits: Tensor = self.classifier(self.decoder(torch.cat(maps, dim=1)))
        return logits


class DeepLabV3Plus(DeepLab):
    """DeepLabV3+ over any backbone with four maps of which the first has stride 4.

    Takes any input size; logits come at stride 4. Auxiliary head, if configured: ``stage3``, on the
    map before the deepest.

    Args:
        config: see ``DeepLabV3PlusConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: DeepLabV3PlusConfig
    config_class = DeepLabV3PlusConfig
    paper = Paper(
        key="chen2018deeplabv3plus",
        title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
        authors=(
            "Liang-Chieh Chen",
            "Yukun Zhu",
            "George Papandreou",
            "Florian Schroff",
            "Hartwig Adam",
        ),
        venue="ECCV 2018",
        url="https://arxiv.org/abs/1802.02611",
    )

    def __init__(self, config: DeepLabV3PlusConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config, levels=4, pretrained_backbone=pretrained_backbone)

    def _make_head(self) -> nn.Module:
        if self.backbone.strides[0] != 4:
            raise ArgumentError(
                f"{self.config.backbone} has maps at strides {self.backbone.strides}",
                where="backbone",
                fix="DeepLabV3+ needs the first of four at stride 4, as resnet50, convnext_tiny or "
                "mobilenetv3_large_100 have it; DeepLabV3 does not",
            )
        return DeepLabV3PlusHead(self.backbone, self.config)

    def _logits(self, maps: list[Tensor]) -> Tensor:
        logits: Tensor = self.head(maps[0], maps[-1])
        return logits


@register_model
def deeplabv3plus_r18(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18",
    pretrained_backbone: bool = False,
    output_stride: int = 16,
    multi_grid: tuple[int, ...] = (),
) -> DeepLabV3Plus:
    """DeepLabV3+ on ResNet-18, the light one.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("deeplabv3plus_r18")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone with four feature maps of which the first has stride 4.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32. The paper works at 16;
            8 is a little better and several times slower.
        multi_grid: factors on the dilation of the last stage's blocks, one each, as (1, 2) for
            ResNet-18 or (1, 2, 4) for deeper ones. For ResNets only.

    Raises:
        ArgumentError: if the backbone cannot be strided or dilated so, or lacks a map at stride 4.
    """
    config = DeepLabV3PlusConfig(
        "deeplabv3plus_r18",
        backbone,
        in_channels=in_channels,
        backbone_options=multi_grid_options(output_stride, multi_grid),
    )
    return build(
        DeepLabV3Plus,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def deeplabv3plus_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50",
    pretrained_backbone: bool = False,
    output_stride: int = 16,
    multi_grid: tuple[int, ...] = (),
) -> DeepLabV3Plus:
    """DeepLabV3+ on ResNet-50.

    Arguments as in ``deeplabv3plus_r18``.
    """
    config = DeepLabV3PlusConfig(
        "deeplabv3plus_r50",
        backbone,
        in_channels=in_channels,
        backbone_options=multi_grid_options(output_stride, multi_grid),
    )
    return build(
        DeepLabV3Plus,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def deeplabv3plus_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101",
    pretrained_backbone: bool = False,
    output_stride: int = 16,
    multi_grid: tuple[int, ...] = (),
) -> DeepLabV3Plus:
    """DeepLabV3+ on ResNet-101, the larger of the paper's ResNets.

    Arguments as in ``deeplabv3plus_r18``.
    """
    config = DeepLabV3PlusConfig(
        "deeplabv3plus_r101",
        backbone,
        in_channels=in_channels,
        backbone_options=multi_grid_options(output_stride, multi_grid),
    )
    return build(
        DeepLabV3Plus,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )
