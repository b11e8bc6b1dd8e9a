"""OCNet: Object Context Network for Scene Parsing, and its interlaced successor.

Yuan, Wang (later Huang, Guo, Zhang, Chen); 2018; arXiv:1809.00916. Interlaced attention: Huang,
Yuan, Guo, Zhang, Chen, Wang; 2019; arXiv:1907.12273. Checked against the authors' OCNet.pytorch
(base, pyramid, ASP) and, for interlaced attention, mmsegmentation's ISANet. The authors' later
openseg.pytorch was read, but there is no output of it to check against.

A 3×3 convolution narrows the backbone's map; a context block, the heart of the network, lets each
position gather from those like it; a 1×1 classifies. The blocks are in ``object_context.py``.

The public variants differ in more than the context block, and each difference is a field:

- OCNet.pytorch has one shared transform for keys and queries and leaky ReLUs (it used
  InPlaceABN). Its pyramid variant has no activation after the 3×3 convolutions in front of the
  context block and in the auxiliary head.
- openseg.pytorch has separate two-layer transforms, plain ReLUs, no dropout in the auxiliary head
  and a narrower attention in ASP-OC.
- mmsegmentation's ISANet has no biases in front of norms and a narrower auxiliary head.

OCNet.pytorch dilates whole stages, and all the authors' ResNets round up in the stem's pooling.
The factories do so on deep-stem ResNets (``resnet101s`` and its like) and leave other backbones
as timm has them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.errors import ArgumentError, InputShapeError
from torchseg_zoo.layers import init_head
from torchseg_zoo.models.base import ModelConfig, build
from torchseg_zoo.models.object_context import (
    ASPContext,
    BesideContext,
    ConvNormLeaky,
    InterlacedAttention,
    PyramidContext,
    SelfAttention,
)
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.models.two_maps import TwoMapModel
from torchseg_zoo.registry import register_model

__all__ = [
    "OCNet",
    "OCNetConfig",
    "ocnet_asp_r101",
    "ocnet_base_r101",
    "ocnet_isa_r50",
    "ocnet_isa_r101",
    "ocnet_pyramid_r101",
]  # fmt: skip

CHANNELS = 512  # of the map that the context block reads and puts out
KEY = 256  # of queries and keys
CONTEXTS = ("base", "pyramid", "asp", "interlaced")
AUTHORS_RESNETS = ("resnet50s", "resnet101s", "resnet152s")


@dataclass(frozen=True)
class OCNetConfig(ModelConfig):
    """Configuration of an OCNet; the defaults are OCNet.pytorch's base variant.

    Args:
        context: ``"base"`` (one attention over the whole map), ``"pyramid"`` (over windows of four
            sizes), ``"asp"`` (beside dilated convolutions) or ``"interlaced"`` (sparse).
        negative_slope: of the leaky ReLUs; 0 for plain ones, as interlaced attention always has.
        separate_query: queries and keys from two transforms of two layers each instead of one
            shared layer; interlaced attention always has separate ones.
        narrow_asp: ASP-OC as in openseg.pytorch, see ``ASPContext``.
        conv_bias: biases in the 3×3 in front of the context block and in the auxiliary head's.
        dropout: share of channels dropped before the classifier.
        aux_channels: hidden width of the auxiliary head on the third stage; ``None`` for none.
        aux_dropout: share of channels dropped in that head.
    """

    context: str = "base"
    negative_slope: float = 0.01
    separate_query: bool = False
    narrow_asp: bool = False
    conv_bias: bool = True
    dropout: float = 0.05
    aux_channels: int | None = 512
    aux_dropout: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.context not in CONTEXTS:
            raise ArgumentError(
                f"context is {self.context!r}",
                where=self.model,
                fix=f"choose from {', '.join(CONTEXTS)}",
            )


def _context(config: OCNetConfig) -> nn.Module:
    slope, separate = config.negative_slope, config.separate_query
    if config.context == "pyramid":
        return PyramidContext(CHANNELS, KEY, slope=slope, separate_query=separate)
    if config.context == "asp":
        return ASPContext(
            CHANNELS,
            slope=slope,
            separate_query=separate,
            narrow=config.narrow_asp,
            align_corners=config.align_corners,
        )
    if config.context == "interlaced":
        interlaced = InterlacedAttention(CHANNELS, KEY)
        return BesideContext(interlaced, CHANNELS, slope=slope, bias=False)
    attention = SelfAttention(CHANNELS, KEY, KEY, CHANNELS, slope=slope, separate_query=separate)
    return BesideContext(attention, CHANNELS, slope=slope, bias=True)


def _head(
    in_channels: int, channels: int, config: OCNetConfig, *, context: nn.Module | None
) -> nn.Sequential:
    """A 3×3 ``conv``, the ``context`` block (not in an auxiliary head), dropout, ``classifier``."""
    slope = None if config.context == "pyramid" else config.negative_slope
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = ConvNormLeaky(in_channels, channels, 3, slope=slope, bias=config.conv_bias)
    if context is not None:
        layers["context"] = context
    layers["dropout"] = nn.Dropout2d(config.aux_dropout if context is None else config.dropout)
    layers["classifier"] = nn.Conv2d(channels, config.num_classes, 1)
    return nn.Sequential(layers)


class OCNet(TwoMapModel):
    """OCNet over any backbone with two feature maps, best at output stride 8.

    Takes any input size (ASP-OC: of at least two cells of the deepest map), known or dynamic.
    Auxiliary head: ``stage3``, on the map before the deepest. Attention over the whole map takes
    time in the square of its area, and memory likewise where PyTorch has no fused kernel for it.

    Args:
        config: see ``OCNetConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: OCNetConfig
    config_class = OCNetConfig
    paper = Paper(
        key="yuan2018ocnet",
        title="OCNet: Object Context Network for Scene Parsing",
        authors=(
            "Yuhui Yuan",
            "Jingdong Wang",
        ),
        venue="arXiv 2018",
        url="https://arxiv.org/abs/1809.00916",
    )

    def __init__(self, config: OCNetConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=2, pretrained=pretrained_backbone)
        middle, deep = self.backbone.channels
        self.head = _head(deep, CHANNELS, config, context=_context(config))
        self.aux_heads = nn.ModuleDict()
        if config.aux_channels is not None:
            self.aux_heads["stage3"] = _head(middle, config.aux_channels, config, context=None)
        init_head(self.head)
        init_head(self.aux_heads)
        for module in self.head.modules():
            if isinstance(module, SelfAttention):
                module.start_silent()

    def _check_input(self, x: Tensor) -> None:
        super()._check_input(x)
        least = 2 * self.backbone.strides[-1]
        if self.config.context == "asp" and (x.shape[-2] < least or x.shape[-1] < least):
            size = "×".join(str(max(side, least)) for side in x.shape[-2:])
            raise InputShapeError(
                f"image is {x.shape[-2]}×{x.shape[-1]} but {self.config.model} "
                f"needs sides of at least {least}",
                why="its attention works at half the size of the deepest map",
                fix=f"pad to {size} or more",
            )


@register_model
def ocnet_base_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> OCNet:
    """OCNet with one attention over the whole map (base-OC) on ResNet-101 with the deep stem.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("ocnet_base_r101")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone that has two feature maps and takes ``output_stride``.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32.
    """
    return build(
        OCNet,
        OCNetConfig(
            "ocnet_base_r101",
            backbone,
            in_channels=in_channels,
            backbone_options=_options(backbone, output_stride),
        ),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def ocnet_pyramid_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> OCNet:
    """OCNet with attention over windows of four sizes (pyramid-OC) on ResNet-101.

    Arguments as in ``ocnet_base_r101``.
    """
    return build(
        OCNet,
        OCNetConfig(
            "ocnet_pyramid_r101",
            backbone,
            in_channels=in_channels,
            backbone_options=_options(backbone, output_stride),
            context="pyramid",
        ),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def ocnet_asp_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> OCNet:
    """OCNet with attention beside dilated convolutions (ASP-OC) on ResNet-101.

    Arguments as in ``ocnet_base_r101``.
    """
    return build(
        OCNet,
        OCNetConfig(
            "ocnet_asp_r101",
            backbone,
            in_channels=in_channels,
            backbone_options=_options(backbone, output_stride),
            context="asp",
            dropout=0.1,
            aux_dropout=0.1,
        ),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def ocnet_isa_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> OCNet:
    """ISANet, the OCNet with interlaced attention, on ResNet-50; the fast one.

    Arguments as in ``ocnet_base_r101``. mmsegmentation's checkpoints bring their configuration.
    """
    return build(
        OCNet,
        _interlaced("ocnet_isa_r50", backbone, in_channels, output_stride),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def ocnet_isa_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> OCNet:
    """ISANet, the OCNet with interlaced attention, on ResNet-101.

    Arguments as in ``ocnet_base_r101``. mmsegmentation's checkpoints bring their configuration.
    """
    return build(
        OCNet,
        _interlaced("ocnet_isa_r101", backbone, in_channels, output_stride),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


def _interlaced(model: str, backbone: str, in_channels: int, output_stride: int) -> OCNetConfig:
    return OCNetConfig(
        model,
        backbone,
        in_channels=in_channels,
        backbone_options=_options(backbone, output_stride, whole_stage=False),
        context="interlaced",
        negative_slope=0.0,
        separate_query=True,
        conv_bias=False,
    )


def _options(backbone: str, output_stride: int, *, whole_stage: bool = True) -> BackboneOptions:
    if backbone.partition(".")[0] not in AUTHORS_RESNETS:
        return BackboneOptions(output_stride=output_stride)
    return BackboneOptions(output_stride=output_stride, whole_stage=whole_stage, ceil_pool=True)
