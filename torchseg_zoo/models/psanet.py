"""PSANet: Point-wise Spatial Attention Network for Scene Parsing.

Zhao, Zhang, Liu, Shi, Loy, Lin, Jia; ECCV 2018. Checked against TorchSeg, semseg (the first
author's) and mmsegmentation.

Every cell of the deepest map gathers features from all other cells (``collect``), and hands its own
out to them (``distribute``), each with learned weights. The public variants differ in how a cell
names the others. In semseg and mmsegmentation its channels are a mask laid around the cell, which
works at any size. In TorchSeg they are the 60×60 positions of the map, so only 480×480 pixels can
be taken, and the distribute branch is a second collect branch. Neither needs a compiled operator:
one gather turns masks into a matrix of weights.

The variants as fields of the configuration:

============== ============== ===================== ====================================
field          TorchSeg       semseg                mmsegmentation
============== ============== ===================== ====================================
attention      ``"alike"``    ``"mask"``            ``"mask"``
mask_size      60×60          59×59, 89×89          97×97, in its ADE20K models 66×66
halving        ``"none"``     ``"up"``              ``"parity"``
padded         false          false                 true
aux_channels   1024           256                   256
align_corners  true           true                  false, but for the 769×769 models
backbone       ``resnet50s``  the same, dilated by  ``resnet50c``
                              ``whole_stage``
============== ============== ===================== ====================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.layers import ConvHead, ConvNormAct, init_head, resize
from torchseg_zoo.models.base import InputRule, ModelConfig, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.models.two_maps import TwoMapModel
from torchseg_zoo.registry import register_model
from torchseg_zoo.types import Size

__all__ = ["PSANet", "PSANetConfig", "psanet_r50", "psanet_r101"]

CHANNELS = 512  # of the reduced features, the attention's hidden layer and the bottleneck
DROPOUT = 0.1  # share of hidden channels, in both heads

Direction = Literal["both", "collect", "distribute"]
Attention = Literal["alike", "compact", "mask"]
Halving = Literal["none", "up", "parity"]


@dataclass(frozen=True)
class PSANetConfig(ModelConfig):
    """Configuration of a PSANet; the defaults are TorchSeg's.

    Args:
        direction: which branches there are: ``"both"``, ``"collect"`` or ``"distribute"``.
        attention: what the attention channels of a cell stand for. ``"mask"``: the cells around it,
            in a mask with the cell at its centre; cells outside the mask get the logit 0, not -inf.
            ``"compact"``: all cells of the map, row by row, so that one input size works.
            ``"alike"``: the same, and the distribute branch is computed like the collect branch
            instead of transposed.
        mask_size: (height, width) of the mask, or of the map that the compact forms are made for.
        halving: whether attention works on a map of half the size. ``"none"``: no. ``"up"``: sides
            are halved rounding up, corners aligned. ``"parity"``: so if both sides are odd, else
            rounding down and with the corners not aligned.
        padded: the 1×1 projection after the attention pads its input by one cell.
        aux_channels: hidden width of the auxiliary head on the third stage; ``None`` for no such
            head.
    """

    direction: Direction = "both"
    attention: Attention = "alike"
    mask_size: Size = (60, 60)
    halving: Halving = "none"
    padded: bool = False
    aux_channels: int | None = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, choices in (
            ("direction", get_args(Direction)),
            ("attention", get_args(Attention)),
            ("halving", get_args(Halving)),
        ):
            if (value := getattr(self, field)) not in choices:
                raise ArgumentError(
                    f"{field} is {value!r}",
                    where=self.model,
                    fix=f"choose from {', '.join(choices)}",
                )
        if len(self.mask_size) != 2 or min(self.mask_size) < 1:
            raise ArgumentError(
                f"mask_size is {self.mask_size!r}",
                where=self.model,
                fix="give (height, width) in cells, each at least 1",
            )

    def input_rule(self, stride: int) -> InputRule:
        """Which input sizes work over a backbone of this stride."""
        if self.attention == "mask":
            return InputRule()
        height, width = (
            {"none": stride * side, "up": 2 * stride * (side - 1) + 1, "parity": 2 * stride * side}[
                self.halving
            ]
            for side in self.mask_size
        )
        return InputRule(fixed=(height, width))


class FullSize:
    """Attention at the map's own size."""

    def shrink(self, x: Tensor) -> Tensor:
        return x

    def restore(self, x: Tensor, size: Size) -> Tensor:
        return resize(x, size, align_corners=True)


class HalfRoundingUp(FullSize):
    """Attention on a map of half the size, rounded up, corners aligned (semseg)."""

    def shrink(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return resize(x, ((height + 1) // 2, (width + 1) // 2), align_corners=True)


class HalfByParity(FullSize):
    """Half the size, depending on whether both sides of the full map are odd (mmsegmentation).

    Written as matrix products, because an exported graph with dynamic sizes cannot branch on them.
    """

    def shrink(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        both_odd = (height % 2) * (width % 2)
        # One cell stays one cell, also beside an even side.
        half_height = torch.sym_max(height // 2 + both_odd, 1)
        half_width = torch.sym_max(width // 2 + both_odd, 1)
        return self._resize(x, (half_height, half_width), both_odd)  # type: ignore[arg-type]

    def restore(self, x: Tensor, size: Size) -> Tensor:
        return self._resize(x, size, (size[0] % 2) * (size[1] % 2))

    def _resize(self, x: Tensor, size: Size, align_corners: int) -> Tensor:
        down = _bilinear(x.shape[-2], size[0], align_corners, x)
        across = _bilinear(x.shape[-1], size[1], align_corners, x)
        return down @ x @ across.transpose(0, 1)


def _bilinear(source: int, target: int, align_corners: int, like: Tensor) -> Tensor:
    """(target, source) weights of a linear resize; ``align_corners`` is 1 or 0."""
    identity = torch.eye(source, dtype=like.dtype, device=like.device)[None, None]
    corners, centres = (
        F.interpolate(identity, size=(target, source), mode="bilinear", align_corners=aligned)[0, 0]
        for aligned in (True, False)
    )
    return align_corners * corners + (1 - align_corners) * centres


SCALES = {"none": FullSize, "up": HalfRoundingUp, "parity": HalfByParity}


class MaskToWeights(nn.Module):
    """(N, mh·mw, h, w) masks, each centred on its cell → (N, h·w, h·w) weights [seen cell, cell].

    Args:
        mask_size: (mh, mw).
    """

    def __init__(self, mask_size: Size) -> None:
        super().__init__()
        self.mask_size = mask_size

    def forward(self, masks: Tensor) -> Tensor:
        height, width = masks.shape[-2:]
        row, row_inside = _place_in_mask(height, self.mask_size[0], masks)
        column, column_inside = _place_in_mask(width, self.mask_size[1], masks)
        # Axes: row and column of the seen cell, then of the cell at the centre of the mask.
        index = row[:, None, :, None] * self.mask_size[1] + column[None, :, None, :]
        inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]
        cells = height * width
        index = index.reshape(1, cells, cells).expand(masks.shape[0], -1, -1)
        weights = masks.flatten(2).gather(1, index)
        return weights.masked_fill(~inside.reshape(cells, cells), 0.0)


def _place_in_mask(size: int, mask_size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: where in its mask a cell sees another, and whether that is inside.

    Both are (size, size), [seen cell, cell].
    """
    position = torch.arange(size, device=like.device)
    place = position[:, None] - position + (mask_size - 1) // 2
    return place.clamp(0, mask_size - 1), (place >= 0) & (place < mask_size)


class AttentionBranch(nn.Module):
    """Reduces the map, and makes each cell a weighted mean over all cells.

    Args:
        in_channels: C of the input.
        config: see ``PSANetConfig``.
        transposed: weights are read as what a cell hands out, not as what it gathers.
    """

    def __init__(self, in_channels: int, config: PSANetConfig, *, transposed: bool) -> None:
        super().__init__()
        height, width = config.mask_size
        self.transposed = transposed
        self.scale = SCALES[config.halving]()
        self.reduce = ConvNormAct(in_channels, CHANNELS)
        self.attention = nn.Sequential(
            ConvNormAct(CHANNELS, CHANNELS),
            nn.Conv2d(CHANNELS, height * width, 1, bias=False),
        )
        self.to_weights = (
            MaskToWeights(config.mask_size) if config.attention == "mask" else nn.Flatten(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.scale.shrink(self.reduce(x))
        weights = self.to_weights(self.attention(x))  # (N, h·w, h·w)
        if self.transposed:
            weights = weights.transpose(1, 2)
        # The softmax runs over the cells that a cell gathers from, also when transposed.
        gathered: Tensor = x.flatten(2) @ weights.softmax(1)
        return gathered.view_as(x)


class AttentionHead(nn.Module):
    """Attention branches, their projection beside the map itself, bottleneck and classifier.

    Args:
        in_channels: C of the input.
        config: see ``PSANetConfig``.
    """

    def __init__(self, in_channels: int, config: PSANetConfig) -> None:
        super().__init__()
        directions = (
            ("collect", "distribute") if config.direction == "both" else (config.direction,)
        )
        self.scale = SCALES[config.halving]()
        self.branches = nn.ModuleList(
            [
                AttentionBranch(
                    in_channels,
                    config,
                    transposed=direction == "distribute" and config.attention != "alike",
                )
                for direction in directions
            ]
        )
        self.project = ConvNormAct(CHANNELS * len(directions), in_channels)
        if config.padded:
            self.project.conv.padding = (1, 1)
        self.bottleneck = ConvNormAct(2 * in_channels, CHANNELS, 3)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(CHANNELS, config.num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        gathered = torch.cat([branch(x) for branch in self.branches], dim=1)
        context = self.scale.restore(self.project(gathered), (x.shape[-2], x.shape[-1]))
        x = self.bottleneck(torch.cat([x, context], dim=1))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class PSANet(TwoMapModel):
    """PSANet over the deepest map of any backbone.

    With ``attention="mask"`` it takes any input size; otherwise ``input_rule.fixed`` only, which is
    480×480 for TorchSeg's 60×60 positions at stride 8. Auxiliary head: ``stage3``, on the map
    before the deepest.

    Args:
        config: see ``PSANetConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: PSANetConfig
    config_class = PSANetConfig
    paper = Paper(
        key="zhao2018psanet",
        title="PSANet: Point-wise Spatial Attention Network for Scene Parsing",
        authors=(
            "Hengshuang Zhao",
            "Yi Zhang",
            "Shu Liu",
            "Jianping Shi",
            "Chen Change Loy",
            "Dahua Lin",
            "Jiaya Jia",
        ),
        venue="ECCV 2018",
        url="https://hszhao.github.io/projects/psanet/",
    )

    def __init__(self, config: PSANetConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=2, pretrained=pretrained_backbone)
        self.input_rule = config.input_rule(self.backbone.strides[-1])
        middle, deep = self.backbone.channels
        self.head = AttentionHead(deep, config)
        self.aux_heads = nn.ModuleDict()
        if config.aux_channels is not None:
            self.aux_heads["stage3"] = ConvHead(
                middle, config.aux_channels, config.num_classes, dropout=DROPOUT
            )
        init_head(self.head)
        init_head(self.aux_heads)


@register_model
def psanet_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    mask_size: Size | None = None,
) -> PSANet:
    """PSANet on ResNet-50 with the deep stem, as TorchSeg has it, or with a mask, as semseg has it.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("psanet_r50")`` names them. A checkpoint
            brings its own form along.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone that has at least two feature maps at ``output_stride``.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32.
        mask_size: (height, width) of semseg's mask, in cells of a map at twice the output stride;
            2·s - 1 cells cover a map of s. The model then takes any input size. Without it the
            model has TorchSeg's 60×60 positions and takes 480×480 only (at stride 8).
    """
    return build(
        PSANet,
        _config("psanet_r50", backbone, in_channels, output_stride, mask_size),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def psanet_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    mask_size: Size | None = None,
) -> PSANet:
    """PSANet on ResNet-101 with the deep stem.

    Arguments as in ``psanet_r50``.
    """
    return build(
        PSANet,
        _config("psanet_r101", backbone, in_channels, output_stride, mask_size),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


def _config(
    model: str, backbone: str, in_channels: int, output_stride: int, mask_size: Size | None
) -> PSANetConfig:
    options = BackboneOptions(output_stride=output_stride)
    if mask_size is None:
        return PSANetConfig(model, backbone, in_channels=in_channels, backbone_options=options)
    return PSANetConfig(
        model,
        backbone,
        in_channels=in_channels,
        backbone_options=options,
        attention="mask",
        mask_size=mask_size,
        halving="up",
    )
