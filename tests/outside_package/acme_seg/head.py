"""Lite: a gated 1×1 head over the two deepest maps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import torchseg_zoo as tsz
from torchseg_zoo.backbones import BackboneOptions, create_backbone
from torchseg_zoo.layers import ConvHead, ConvNormAct, global_pool, init_head, resize
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, build
from torchseg_zoo.types import SegOutput

__all__ = ["Lite", "LiteConfig", "lite_acme", "lite_r18"]


@dataclass(frozen=True)
class LiteConfig(ModelConfig):
    """One field more than every model has."""

    width: int = 16


class LiteHead(nn.Module):
    """The deep map, gated by its own average, beside the map before it."""

    def __init__(self, middle: int, deep: int, config: LiteConfig) -> None:
        super().__init__()
        self.reduce = ConvNormAct(deep, config.width)
        self.gate = nn.Conv2d(deep, config.width, 1)
        self.skip = nn.Conv2d(middle, config.width, 1)
        self.classifier = nn.Conv2d(config.width, config.num_classes, 1)

    def forward(self, middle: Tensor, deep: Tensor) -> Tensor:
        gated = self.reduce(deep) * self.gate(global_pool(deep)).sigmoid()
        size = (middle.shape[-2], middle.shape[-1])
        logits: Tensor = self.classifier(
            resize(gated, size, align_corners=False) + self.skip(middle)
        )
        return logits


class Lite(SegmentationModel):
    """Takes any input size; auxiliary head: ``middle``."""

    config: LiteConfig
    config_class = LiteConfig

    def __init__(self, config: LiteConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = create_backbone(
            config.backbone,
            in_channels=config.in_channels,
            levels=2,
            options=config.backbone_options,
            pretrained=pretrained_backbone,
        )
        middle, deep = self.backbone.channels
        self.head = LiteHead(middle, deep, config)
        self.aux_heads = nn.ModuleDict(
            {"middle": ConvHead(middle, config.width, config.num_classes)}
        )
        init_head(self.head)
        init_head(self.aux_heads)

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        """Logits at the stride of the map before the deepest."""
        middle, deep = self.backbone(x)
        aux = {"middle": self.aux_heads["middle"](middle)} if with_aux else {}
        return SegOutput(self.head(middle, deep), aux)


@tsz.register_model
def lite_r18(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet18",
    pretrained_backbone: bool = False,
    output_stride: int = 32,
    width: int = 16,
) -> Lite:
    """Lite on ResNet-18."""
    config = LiteConfig(
        "lite_r18",
        backbone,
        in_channels=in_channels,
        align_corners=False,
        backbone_options=BackboneOptions(output_stride=output_stride),
        width=width,
    )
    return build(
        Lite, config, pretrained, num_classes=num_classes, pretrained_backbone=pretrained_backbone
    )


@tsz.register_model
def lite_acme(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "acmenet",
    pretrained_backbone: bool = False,
) -> Lite:
    """Lite on AcmeNet: both parts from outside."""
    config = LiteConfig("lite_acme", backbone, in_channels=in_channels, align_corners=False)
    return build(
        Lite, config, pretrained, num_classes=num_classes, pretrained_backbone=pretrained_backbone
    )
