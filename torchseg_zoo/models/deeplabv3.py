"""DeepLabV3: Rethinking Atrous Convolution for Semantic Image Segmentation.

Chen, Papandreou, Schroff, Adam; 2017; arXiv:1706.05587. Atrous spatial pyramid pooling (ASPP) looks
at the deepest map with several dilations at once and at its global mean; its output is classified.
``deeplabv3plus.py`` puts a decoder on the same ASPP.

The defaults are the paper's: 256 channels, rates 6, 12, 18 at output stride 16 and twice that at 8,
the classifier directly on the ASPP's output, no auxiliary head. Checked against public networks,
which differ from it in fields of the configuration:

==============  ======  ===========  ======  ======
..              paper   torchvision  VainF   mmseg
==============  ======  ===========  ======  ======
channels        256     256          256     512
project_kernel  1       1            1       3
head_channels   none    256          256     none
pool_first      no      no           no      yes
dropout         0.1     0.5          0.1     0.1
aux_channels    none    256          none    256
align_corners   yes     no           no      no
==============  ======  ===========  ======  ======

mmseg's networks on ResNet-18 have 128 channels, and its 769×769 ones align corners. Multi-grid is
the backbone's ``last_stage``: the paper multiplies the stage's dilation by 1, 2, 4, which the
factories' ``multi_grid`` does; mmseg's D16-MG124 dilates by 1, 2, 4 as such. Dropout drops single
elements, as in the authors' code; mmseg's drops whole channels.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.layers import ConvHead, ConvNormAct, global_pool, init_head
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.registry import register_model
from torchseg_zoo.types import SegOutput

__all__ = [
    "DeepLabV3",
    "DeepLabV3Config",
    "deeplabv3_r18",
    "deeplabv3_r50",
    "deeplabv3_r101",
]  # fmt: skip


@dataclass(frozen=True)
class ASPPConfig(ModelConfig):
    """What the configurations of DeepLabV3 and DeepLabV3+ have in common.

    Args:
        channels: width of the ASPP's branches and of its output.
        rates: dilations of the ASPP's 3×3 branches; () for the paper's 6, 12, 18 at output stride
            16 and in inverse proportion at others.
        separable: the 3×3 of branches and decoder are depthwise and pointwise, each with norm and
            ReLU.
        pool_first: the global mean comes before the other branches in the concatenation, not after.
        project_kernel: side of the convolution that joins the branches: 1, or mmseg's 3.
        dropout: share of the ASPP's output dropped in training.
        aux_channels: hidden width of the auxiliary head on the third stage; ``None`` for no head.
    """

    channels: int = 256
    rates: tuple[int, ...] = ()
    separable: bool = False
    pool_first: bool = False
    project_kernel: int = 1
    dropout: float = 0.1
    aux_channels: int | None = None


@dataclass(frozen=True)
class DeepLabV3Config(ASPPConfig):
    """Configuration of a DeepLabV3, beyond what ``ASPPConfig`` has.

    Args:
        head_channels: width of a 3×3 between ASPP and classifier; ``None`` for the paper's head,
            which has none.
    """

    head_channels: int | None = None


class SeparableConv(nn.Sequential):
    """Depthwise 3×3, then pointwise 1×1, each with norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, 3, dilation=dilation, groups=in_channels
        )
        self.pointwise = ConvNormAct(in_channels, out_channels)


def conv_3x3(
    in_channels: int, out_channels: int, *, separable: bool, dilation: int = 1
) -> nn.Sequential:
    """A 3×3 with norm and ReLU, whole or separable."""
    if separable:
        return SeparableConv(in_channels, out_channels, dilation=dilation)
    return ConvNormAct(in_channels, out_channels, 3, dilation=dilation)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (paper, figure 5): (N, C, h, w) → (N, channels, h, w).

    Args:
        in_channels: C.
        stride: input pixels per cell of the map; gives the rates where ``config`` names none.
        config: see ``ASPPConfig``.
    """

    def __init__(self, in_channels: int, stride: int, config: ASPPConfig) -> None:
        super().__init__()
        width, separable = config.channels, config.separable
        rates = config.rates or tuple(max(1, times * 96 // stride) for times in (1, 2, 3))
        self.branches = nn.ModuleList([ConvNormAct(in_channels, width)])
        for rate in rates:
            self.branches.append(conv_3x3(in_channels, width, separable=separable, dilation=rate))
        self.pool = ConvNormAct(in_channels, width)
        self.project = ConvNormAct((len(rates) + 2) * width, width, config.project_kernel)
        self.dropout = nn.Dropout(config.dropout)
        self.pool_first = config.pool_first

    def forward(self, x: Tensor) -> Tensor:
        maps = [branch(x) for branch in self.branches]
        # Resizing a 1×1 map repeats its value; a broadcast does so for nothing.
        mean = self.pool(global_pool(x)).expand_as(maps[0])
        maps = [mean, *maps] if self.pool_first else [*maps, mean]
        joined: Tensor = self.dropout(self.project(torch.cat(maps, dim=1)))
        return joined


class DeepLab(SegmentationModel):
    """What DeepLabV3 and DeepLabV3+ share: the backbone and the auxiliary head.

    Args:
        config: see ``ASPPConfig``.
        levels: number of maps taken from the backbone.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: ASPPConfig
    pooled_norm = True

    def __init__(self, config: ASPPConfig, *, levels: int, pretrained_backbone: bool) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=levels, pretrained=pretrained_backbone)
        self.head = self._make_head()
        self.aux_heads = nn.ModuleDict()
        if config.aux_channels is not None:
            self.aux_heads["stage3"] = ConvHead(
                self.backbone.channels[-2], config.aux_channels, config.num_classes, dropout=0.1
            )
        init_head(self.head)
        init_head(self.aux_heads)

    @abc.abstractmethod
    def _make_head(self) -> nn.Module:
        """The main head; its last layer is ``classifier``."""

    @abc.abstractmethod
    def _logits(self, maps: list[Tensor]) -> Tensor:
        """The main head's logits from the backbone's maps."""

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        maps = self.backbone(x)
        aux = {name: head(maps[-2]) for name, head in self.aux_heads.items()} if with_aux else {}
        return SegOutput(self._logits(maps), aux)


class DeepLabV3Head(nn.Sequential):
    """ASPP, a 3×3 where one is configured, and the classifier, all at the deepest map's stride."""

    def __init__(self, in_channels: int, stride: int, config: DeepLabV3Config) -> None:
        super().__init__()
        self.aspp = ASPP(in_channels, stride, config)
        width = config.channels
        if config.head_channels is not None:
            self.conv = ConvNormAct(width, config.head_channels, 3)
            width = config.head_channels
        self.classifier = nn.Conv2d(width, config.num_classes, 1)


class DeepLabV3(DeepLab):
    """DeepLabV3 over the deepest map of any backbone; logits come at its stride.

    Takes any input size. Auxiliary head, if configured: ``stage3``, on the map before the deepest.

    Args:
        config: see ``DeepLabV3Config``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: DeepLabV3Config
    config_class = DeepLabV3Config
    paper = Paper(
        key="chen2017deeplabv3",
        title="Rethinking Atrous Convolution for Semantic Image Segmentation",
        authors=(
            "Liang-Chieh Chen",
            "George Papandreou",
            "Florian Schroff",
            "Hartwig Adam",
        ),
        venue="arXiv 2017",
        url="https://arxiv.org/abs/1706.05587",
    )

    def __init__(self, config: DeepLabV3Config, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config, levels=2, pretrained_backbone=pretrained_backbone)

    def _make_head(self) -> nn.Module:
        return DeepLabV3Head(self.backbone.channels[-1], self.backbone.strides[-1], self.config)

    def _logits(self, maps: list[Tensor]) -> Tensor:
        logits: Tensor = self.head(maps[-1])
        return logits


def multi_grid_options(output_stride: int, multi_grid: tuple[int, ...]) -> BackboneOptions:
    """How the paper strides and dilates a ResNet.

    Args:
        output_stride: 8, 16 or 32.
        multi_grid: factors on the dilation of the last stage's blocks, one each (paper, section
            3.1.1); () for a plain dilation, which any backbone can have.
    """
    plain = BackboneOptions(output_stride)
    if not multi_grid:
        return plain
    if min(multi_grid) < 1:
        raise ArgumentError(f"multi_grid is {multi_grid}", fix="give factors of at least 1")
    dilation = 32 // output_stride
    grid = tuple(dilation * factor for factor in multi_grid)
    return BackboneOptions(output_stride, whole_stage=True, last_stage=grid)


@register_model
def deeplabv3_r18(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    multi_grid: tuple[int, ...] = (),
) -> DeepLabV3:
    """DeepLabV3 on ResNet-18, the light one.

    Arguments as in ``deeplabv3_r50``, but that ``multi_grid`` has two factors.
    """
    config = DeepLabV3Config(
        "deeplabv3_r18",
        backbone,
        in_channels=in_channels,
        backbone_options=multi_grid_options(output_stride, multi_grid),
    )
    return build(
        DeepLabV3,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def deeplabv3_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    multi_grid: tuple[int, ...] = (),
) -> DeepLabV3:
    """DeepLabV3 on ResNet-50.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("deeplabv3_r50")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone with at least two feature maps.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32. The paper trains at 16
            and evaluates at 8; the same weights serve both.
        multi_grid: factors on the dilation of the last stage's blocks, one each; (1, 2, 4) is the
            paper's best. For ResNets only.

    Raises:
        ArgumentError: if the backbone cannot be strided or dilated so.
    """
    config = DeepLabV3Config(
        "deeplabv3_r50",
        backbone,
        in_channels=in_channels,
        backbone_options=multi_grid_options(output_stride, multi_grid),
    )
    return build(
        DeepLabV3,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def deeplabv3_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    multi_grid: tuple[int, ...] = (),
) -> DeepLabV3:
    """DeepLabV3 on ResNet-101, the paper's best.

    Arguments as in ``deeplabv3_r50``.
    """
    config = DeepLabV3Config(
        "deeplabv3_r101",
        backbone,
        in_channels=in_channels,
        backbone_options=multi_grid_options(output_stride, multi_grid),
    )
    return build(
        DeepLabV3,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )
