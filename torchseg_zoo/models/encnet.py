"""EncNet: Context Encoding for Semantic Segmentation.

Zhang, Dana, Shi, Zhang, Wang, Tyagi, Agrawal; CVPR 2018; arXiv:1803.08904. Checked against the
authors' PyTorch-Encoding and mmsegmentation.

An encoding layer describes the picture by its residuals from 32 learned codewords. The
description weighs the channels of the map, and says which classes the picture holds. That second
answer, the auxiliary output ``presence``, serves the paper's semantic encoding loss (SE loss) in
training and is not computed otherwise.

The public variants differ in the backbone's stem, in ``align_corners`` (mmsegmentation's is false
but for its 769×769 models) and in ``lateral``. They drop features in training, too, at one rate
but each in its own way: PyTorch-Encoding single elements, mmsegmentation whole channels; we do
the latter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.layers import ConvHead, ConvNormAct, init_head, resize
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.registry import register_model
from torchseg_zoo.types import SegOutput

__all__ = ["EncNet", "EncNetConfig", "encnet_r50", "encnet_r101"]

CHANNELS = 512  # of the map that is encoded, and of the encoding
CODES = 32
DROPOUT = 0.1


@dataclass(frozen=True)
class EncNetConfig(ModelConfig):
    """Configuration of an EncNet.

    Args:
        lateral: also read the second and third stage; PyTorch-Encoding does on PASCAL data sets.
        presence: have the layer that says which classes the picture holds.
        aux_channels: hidden width of the auxiliary head on the third stage; ``None`` for none.
    """

    lateral: bool = False
    presence: bool = True
    aux_channels: int | None = 256


class Merge(nn.Module):
    """Joins the second and third stage to the reduced deepest one (``lateral``).

    Args:
        shallow: C of the second stage.
        middle: C of the third stage.
        align_corners: how maps of another stride than the deepest's are resized; at output stride 8
            there are none.
    """

    def __init__(self, shallow: int, middle: int, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.shallow = ConvNormAct(shallow, CHANNELS)
        self.middle = ConvNormAct(middle, CHANNELS)
        self.fusion = ConvNormAct(3 * CHANNELS, CHANNELS, 3)

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> Tensor:
        size = (deep.shape[-2], deep.shape[-1])
        lateral = [
            resize(self.shallow(shallow), size, align_corners=self.align_corners),
            resize(self.middle(middle), size, align_corners=self.align_corners),
        ]
        out: Tensor = self.fusion(torch.cat([deep, *lateral], dim=1))
        return out


class Encoding(nn.Module):
    """Sums the residuals of all positions from each codeword: (N, C, H, W) → (N, codes, C).

    Position x is assigned to codeword k by a softmax over k of scale_k · ‖x - c_k‖² (paper,
    equation 2; the learned scales are negative). It is a sum, so it grows with the picture's area.

    Args:
        channels: C.
        codes: number of codewords.
    """

    def __init__(self, channels: int, codes: int) -> None:
        super().__init__()
        bound = (channels * codes) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._encode(x)
        return self._encode(x)

    def _encode(self, x: Tensor) -> Tensor:
        # The expanded square loses its digits in half precision.
        exact = torch.float32 if x.itemsize < 4 else x.dtype
        codewords, scale = self.codewords.to(exact), self.scale.to(exact)
        x = x.to(exact).flatten(2).transpose(1, 2)  # (N, positions, C)
        squares = (
            x.square().sum(2, keepdim=True) - 2 * (x @ codewords.t()) + codewords.square().sum(1)
        )
        assignment = (scale * squares).softmax(2)  # (N, positions, codes)
        mass = assignment.sum(1).unsqueeze(2)
        encoding = assignment.transpose(1, 2) @ x - mass * codewords
        return encoding.to(self.codewords.dtype)


class ContextEncoding(nn.Module):
    """The picture's encoding: (N, 512, H, W) → (N, 512, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = ConvNormAct(CHANNELS, CHANNELS)
        self.encoding = Encoding(CHANNELS, CODES)
        self.norm = nn.BatchNorm1d(CODES)  # over the codes, not over the channels

    def forward(self, x: Tensor) -> Tensor:
        codes: Tensor = self.norm(self.encoding(self.project(x))).relu()
        return codes.mean(1)[:, :, None, None]


class Head(nn.Module):
    """Encodes the map, weighs its channels by the encoding, and classifies.

    Args:
        in_channels: C of the second, third and fourth stage.
        config: see ``EncNetConfig``.
    """

    def __init__(self, in_channels: tuple[int, ...], config: EncNetConfig) -> None:
        super().__init__()
        shallow, middle, deep = in_channels
        self.conv = ConvNormAct(deep, CHANNELS, 3)
        self.merge = (
            Merge(shallow, middle, align_corners=config.align_corners) if config.lateral else None
        )
        self.context = ContextEncoding()
        self.gate = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = nn.Conv2d(CHANNELS, config.num_classes, 1)

    def forward(self, shallow: Tensor, middle: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K, H/8, W/8) and the encoding (N, 512, 1, 1)."""
        x = self.conv(deep)
        if self.merge is not None:
            x = self.merge(shallow, middle, x)
        encoding = self.context(x)
        # The published relu(x + x·gate), where neither x nor the gate is negative.
        x = x * (1 + self.gate(encoding).sigmoid())
        return self.classifier(self.dropout(x)), encoding


class PresenceHead(nn.Module):
    """Which classes the picture holds: encoding (N, 512, 1, 1) → logits (N, K)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(CHANNELS, num_classes, 1)

    def forward(self, encoding: Tensor) -> Tensor:
        logits: Tensor = self.classifier(encoding).flatten(1)
        return logits


class EncNet(SegmentationModel):
    """EncNet over any backbone with three feature maps, best at output stride 8.

    Takes any input size. Auxiliary outputs: ``stage3``, on the map before the deepest, and
    ``presence``, (N, K) logits of each class being in the picture, for binary cross entropy.

    Args:
        config: see ``EncNetConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: EncNetConfig
    config_class = EncNetConfig
    paper = Paper(
        key="zhang2018encnet",
        title="Context Encoding for Semantic Segmentation",
        authors=(
            "Hang Zhang",
            "Kristin Dana",
            "Jianping Shi",
            "Zhongyue Zhang",
            "Xiaogang Wang",
            "Ambrish Tyagi",
            "Amit Agrawal",
        ),
        venue="CVPR 2018",
        url="https://arxiv.org/abs/1803.08904",
    )

    def __init__(self, config: EncNetConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=3, pretrained=pretrained_backbone)
        self.head = Head(self.backbone.channels, config)
        self.aux_heads = nn.ModuleDict()
        if config.aux_channels is not None:
            self.aux_heads["stage3"] = ConvHead(
                self.backbone.channels[1],
                config.aux_channels,
                config.num_classes,
                dropout=DROPOUT,
            )
        if config.presence:
            self.aux_heads["presence"] = PresenceHead(config.num_classes)
        init_head(self.head)
        init_head(self.aux_heads)

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        shallow, middle, deep = self.backbone(x)
        logits, encoding = self.head(shallow, middle, deep)
        if not with_aux:
            return SegOutput(logits, {})
        read_by = {"stage3": middle, "presence": encoding}
        return SegOutput(
            logits, {name: head(read_by[name]) for name, head in self.aux_heads.items()}
        )


@register_model
def encnet_r50(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet50s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    lateral: bool = False,
) -> EncNet:
    """EncNet on ResNet-50 with the deep stem, as the authors train it.

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("encnet_r50")`` names them. Checkpoints of
            mmsegmentation's variant bring its configuration along.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone that has three feature maps and takes ``output_stride``.
        pretrained_backbone: start from timm's ImageNet weights.
        output_stride: input pixels per cell of the deepest map: 8, 16 or 32.
        lateral: also read the second and third stage.
    """
    return build(
        EncNet,
        _config("encnet_r50", backbone, in_channels, output_stride, lateral),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


@register_model
def encnet_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
    output_stride: int = 8,
    lateral: bool = False,
) -> EncNet:
    """EncNet on ResNet-101 with the deep stem, as the authors train it.

    Arguments as in ``encnet_r50``.
    """
    return build(
        EncNet,
        _config("encnet_r101", backbone, in_channels, output_stride, lateral),
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )


def _config(
    model: str, backbone: str, in_channels: int, output_stride: int, lateral: bool
) -> EncNetConfig:
    return EncNetConfig(
        model,
        backbone,
        in_channels=in_channels,
        backbone_options=BackboneOptions(output_stride=output_stride),
        lateral=lateral,
    )
