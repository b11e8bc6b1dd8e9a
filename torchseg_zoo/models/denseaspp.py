"""DenseASPP: DenseASPP for Semantic Segmentation in Street Scenes.

Yang, Yu, Zhang, Li, Yang; CVPR 2018, pages 3684-3692 (not on arXiv). Checked against the authors'
code, which is inference only and was run with PyTorch 0.3.1. What it does beyond the paper, and
we with it:

- On the backbone, a DenseNet without its last norm, follow a fourth transition (norm, ReLU, 1×1
  to half the channels) and a norm. The ReLU behind that norm works in place there, so the
  rectified map is what all later blocks see; here it is simply part of the neck.
- Each block puts its output in front of what it read, not behind.
- At output stride 16 the neck's map is doubled before that ReLU: the blocks always work at stride
  8.

The released weights were trained with ``align_corners=True``, the only way that PyTorch 0.3
resized. The same code run today resizes without: ``align_corners`` gives either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.layers import init_head, resize
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.registry import register_model
from torchseg_zoo.types import SegOutput

__all__ = [
    "DenseASPP",
    "DenseASPPConfig",
    "denseaspp_d121",
    "denseaspp_d161",
    "denseaspp_d169",
    "denseaspp_d201",
]

RATES = (3, 6, 12, 18, 24)
MOMENTUM = 3e-4  # of the batch norms inside the blocks
DROPOUT = 0.1
STRIDE = 8  # where the blocks work


@dataclass(frozen=True)
class DenseASPPConfig(ModelConfig):
    """Configuration of a DenseASPP; ``align_corners`` holds for both of its resizes.

    Args:
        mid_channels: width between the two convolutions of a block.
        block_channels: what each block adds.
    """

    mid_channels: int = 128
    block_channels: int = 64


class Neck(nn.Module):
    """The fourth transition and the last norm: (N, C, H, W) → (N, C/2, s·H, s·W).

    Args:
        in_channels: C.
        scale: s, the backbone's stride over 8.
        align_corners: how the map is enlarged.
    """

    def __init__(self, in_channels: int, *, scale: int, align_corners: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(in_channels // 2)
        self.scale = scale
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        x = self.last_norm(self.conv(self.norm(x).relu()))
        if self.scale > 1:
            size = (self.scale * x.shape[-2], self.scale * x.shape[-1])
            x = resize(x, size, align_corners=self.align_corners)
        return x.relu()


class Block(nn.Sequential):
    """Norm, ReLU, 1×1, norm, ReLU, dilated 3×3: (N, C, H, W) → (N, out, H, W).

    Args:
        in_channels: C.
        mid_channels: width between the convolutions.
        out_channels: what the block adds.
        rate: dilation of the 3×3.
        first: leave out the first norm and ReLU; the neck ends in them.
    """

    def __init__(
        self, in_channels: int, mid_channels: int, out_channels: int, *, rate: int, first: bool
    ) -> None:
        super().__init__()
        if not first:
            self.norm1 = nn.BatchNorm2d(in_channels, momentum=MOMENTUM)
            self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 1)
        self.norm2 = nn.BatchNorm2d(mid_channels, momentum=MOMENTUM)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(mid_channels, out_channels, 3, padding=rate, dilation=rate)
        self.dropout = nn.Dropout2d(DROPOUT)


class Cascade(nn.Module):
    """Five blocks, each of which reads all maps before it, and the classifier.

    Args:
        in_channels: C of the neck's map.
        mid_channels: see ``Block``.
        block_channels: what each block adds.
        num_classes: K.
    """

    def __init__(
        self, in_channels: int, mid_channels: int, block_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                in_channels + index * block_channels,
                mid_channels,
                block_channels,
                rate=rate,
                first=index == 0,
            )
            for index, rate in enumerate(RATES)
        )
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(in_channels + len(RATES) * block_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.cat([block(x), x], dim=1)  # (N, C + 64·blocks so far, H/8, W/8)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


class DenseASPP(SegmentationModel):
    """DenseASPP over the deepest map of a DenseNet, or of any other backbone.

    Takes any input size; a map at a stride beyond 8 is enlarged. There is no auxiliary head.

    Args:
        config: see ``DenseASPPConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: DenseASPPConfig
    config_class = DenseASPPConfig
    paper = Paper(
        key="yang2018denseaspp",
        title="DenseASPP for Semantic Segmentation in Street Scenes",
        authors=(
            "Maoke Yang",
            "Kun Yu",
            "Chi Zhang",
            "Zhiwei Li",
            "Kuiyuan Yang",
        ),
        venue="CVPR 2018",
        url="https://doi.org/10.1109/CVPR.2018.00388",
    )

    def __init__(self, config: DenseASPPConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=1, pretrained=pretrained_backbone)
        (deep,) = self.backbone.channels
        scale = max(1, self.backbone.strides[-1] // STRIDE)
        self.neck = Neck(deep, scale=scale, align_corners=config.align_corners)
        self.head = Cascade(
            deep // 2, config.mid_channels, config.block_channels, config.num_classes
        )
        init_head(self.neck)
        init_head(self.head)

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        (deep,) = self.backbone(x)
        return SegOutput(self.head(self.neck(deep)), {})


def _build(
    model: str,
    widths: tuple[int, int],
    backbone: str,
    in_channels: int,
    output_stride: int,
    pretrained: str | None,
    *,
    num_classes: int | None,
    pretrained_backbone: bool,
) -> DenseASPP:
    config = DenseASPPConfig(
        model,
        backbone,
        in_channels=in_channels,
        backbone_options=BackboneOptions(
            output_stride=output_stride, final_norm="densenet" not in backbone
        ),
        mid_channels=widths[0],
        block_channels=widths[1],
    )
    return build(
        DenseASPP,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def denseaspp_d121(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "densenet121",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> DenseASPP:
    """DenseASPP on DenseNet-121, the smallest: 8.3 M parameters.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("denseaspp_d121")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone that takes ``output_stride``; on a DenseNet the head replaces
            the network's last norm.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the backbone's deepest map: 8, 16 or 32.
    """
    return _build(
        "denseaspp_d121",
        (128, 64),
        backbone,
        in_channels,
        output_stride,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def denseaspp_d161(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "densenet161",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> DenseASPP:
    """DenseASPP on DenseNet-161, the widest and the only one whose weights were released.

    Arguments as in ``denseaspp_d121``.
    """
    return _build(
        "denseaspp_d161",
        (512, 128),
        backbone,
        in_channels,
        output_stride,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def denseaspp_d169(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "densenet169",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> DenseASPP:
    """DenseASPP on DenseNet-169.

    Arguments as in ``denseaspp_d121``.
    """
    return _build(
        "denseaspp_d169",
        (336, 168),
        backbone,
        in_channels,
        output_stride,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def denseaspp_d201(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "densenet201",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
) -> DenseASPP:
    """DenseASPP on DenseNet-201, the deepest.

    Arguments as in ``denseaspp_d121``.
    """
    return _build(
        "denseaspp_d201",
        (480, 240),
        backbone,
        in_channels,
        output_stride,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )
