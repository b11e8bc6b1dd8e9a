"""DFN: Learning a Discriminative Feature Network for Semantic Segmentation.

Yu, Wang, Peng, Gao, Yu, Sang; CVPR 2018; arXiv:1804.09337. Checked against TorchSeg, the authors'
own code. Three things of it are kept because released weights depend on them: the border network is
21 channels wide whatever the number of classes, the fully connected layers of an attention block do
not narrow, and one block of the border network exists but is never used.

The smooth network climbs from the deepest map to stride 4; at each step an attention block (CAB)
weighs the finer map's channels by what both maps hold on average, and a refinement block (RRB)
sharpens the sum. The border network learns from the same maps where classes meet. It only guides
training, so it runs when auxiliary outputs are asked for and not otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.layers import ConvNormAct, global_pool, init_head, resize
from torchseg_zoo.models.base import InputRule, ModelConfig, SegmentationModel, build
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.registry import register_model
from torchseg_zoo.types import SegOutput

__all__ = ["DFN", "DFNConfig", "dfn_r101"]

STRIDES = (4, 8, 16, 32)  # of the backbone's maps
COARSE_HEADS = ("stride32", "stride16", "stride8")  # smooth heads that only training needs
BORDER_OUTPUTS = ("border4", "border8", "border16", "border32")


@dataclass(frozen=True)
class DFNConfig(ModelConfig):
    """Configuration of a DFN.

    Args:
        smooth_channels: width of the smooth network.
        border_channels: width of the border network.
        head_channels: hidden width of the smooth heads; TorchSeg's is nine times the number of
            classes that the network was made for.
        border_head_channels: hidden width of the border heads.
    """

    smooth_channels: int = 512
    border_channels: int = 21
    head_channels: int = 9 * 19
    border_head_channels: int = 9


class RefinementResidual(nn.Module):
    """RRB: a 1×1 convolution that sets the width, and a pair of 3×3 beside it.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        act: whether a ReLU follows the sum.
    """

    def __init__(self, in_channels: int, out_channels: int, *, act: bool = True) -> None:
        super().__init__()
        self.conv_1x1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.conv_3x3 = ConvNormAct(out_channels, out_channels, 3)
        self.refine = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_1x1(x)
        return cast(Tensor, self.act(x + self.refine(self.conv_3x3(x))))


class ChannelAttention(nn.Module):
    """CAB: weighs the finer map's channels by both maps' averages, then adds the coarser map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(2 * channels, channels)
        self.excite = nn.Linear(channels, channels)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N, C, h, w) and (N, C, h, w) or (N, C, 1, 1) → (N, C, h, w)."""
        average = torch.cat([global_pool(fine), global_pool(coarse)], dim=1).flatten(1)  # (N, 2C)
        gate: Tensor = self.excite(self.squeeze(average).relu()).sigmoid()
        return fine * gate[:, :, None, None] + coarse


class RefinedHead(nn.Sequential):
    """An RRB without final ReLU, then the 1×1 ``classifier``."""

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.rrb = RefinementResidual(in_channels, channels, act=False)
        self.classifier = nn.Conv2d(channels, out_channels, 1)


class BorderNetwork(nn.Module):
    """Border logits after each of the backbone's maps, from the shallowest on.

    Args:
        in_channels: C of each map, shallowest first.
        channels: width of the network.
        head_channels: hidden width of the heads.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, head_channels: int) -> None:
        super().__init__()
        self.pre = nn.ModuleList([RefinementResidual(width, channels) for width in in_channels])
        # TorchSeg never uses the first of these. It stays, without ever getting a gradient, so that
        # its checkpoints load whole.
        self.post = nn.ModuleList([RefinementResidual(channels, channels) for _ in in_channels])
        self.heads = nn.ModuleList([RefinedHead(channels, head_channels, 1) for _ in in_channels])

    def forward(self, maps: list[Tensor], *, align_corners: bool) -> list[Tensor]:
        """Maps at any strides → as many (N, 1, h, w) logits at the stride of the first map."""
        size = (maps[0].shape[-2], maps[0].shape[-1])
        border = self.pre[0](maps[0])
        logits = [self.heads[0](border)]
        for step, features in enumerate(maps[1:], start=1):
            deeper = resize(self.pre[step](features), size, align_corners=align_corners)
            border = self.post[step](border + deeper)
            logits.append(self.heads[step](border))
        return logits


class DFN(SegmentationModel):
    """DFN over any backbone with maps at strides 4, 8, 16 and 32.

    Sides must be multiples of 32. Auxiliary outputs: ``stride32``, ``stride16`` and ``stride8`` are
    class logits of the smooth network, named by where they sit. ``border4``, ``border8``,
    ``border16`` and ``border32`` are border logits (N, 1, H/4, W/4), named by the deepest map they
    have seen; ``border_loss`` in ``training.losses`` is for them.

    Args:
        config: see ``DFNConfig``.
        pretrained_backbone: load timm's ImageNet weights into the backbone.
    """

    config: DFNConfig
    config_class = DFNConfig
    paper = Paper(
        key="yu2018dfn",
        title="Learning a Discriminative Feature Network for Semantic Segmentation",
        authors=(
            "Changqian Yu",
            "Jingbo Wang",
            "Chao Peng",
            "Changxin Gao",
            "Gang Yu",
            "Nong Sang",
        ),
        venue="CVPR 2018",
        url="https://arxiv.org/abs/1804.09337",
    )
    input_rule = InputRule(multiple=32)
    pooled_norm = True

    def __init__(self, config: DFNConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = config.make_backbone(levels=4, pretrained=pretrained_backbone)
        if self.backbone.strides != STRIDES:
            raise ArgumentError(
                f"{config.backbone} has maps at strides {self.backbone.strides}",
                where="backbone",
                fix="DFN needs strides (4, 8, 16, 32), as resnet18 or convnext_tiny have",
            )
        channels, width = self.backbone.channels, config.smooth_channels

        def smooth_head() -> RefinedHead:
            return RefinedHead(width, config.head_channels, config.num_classes)

        # The smooth network's lists run from the deepest map to the finest.
        self.global_context = ConvNormAct(channels[-1], width)
        self.smooth_pre = nn.ModuleList(
            [RefinementResidual(deep, width) for deep in reversed(channels)]
        )
        self.attention = nn.ModuleList([ChannelAttention(width) for _ in channels])
        self.smooth_post = nn.ModuleList([RefinementResidual(width, width) for _ in channels])
        self.head = smooth_head()
        self.aux_heads = nn.ModuleDict({name: smooth_head() for name in COARSE_HEADS})
        self.aux_heads["border"] = BorderNetwork(
            channels, config.border_channels, config.border_head_channels
        )
        for name, module in self.named_children():
            if name != "backbone":
                init_head(module)

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        align_corners = self.config.align_corners
        maps = self.backbone(x)
        refined: list[Tensor] = []  # at strides 32, 16, 8, 4
        last = self.global_context(
            global_pool(maps[-1])
        )  # (N, C, 1, 1), broadcast where it is added
        for step, features in enumerate(reversed(maps)):
            if refined:
                size = (features.shape[-2], features.shape[-1])
                last = resize(refined[-1], size, align_corners=align_corners)
            fine = self.smooth_pre[step](features)
            refined.append(self.smooth_post[step](self.attention[step](fine, last)))
        logits = self.head(refined[-1])
        if not with_aux:
            return SegOutput(logits, {})
        aux = {
            name: self.aux_heads[name](features)
            for name, features in zip(COARSE_HEADS, refined[:-1], strict=True)
        }
        borders = self.aux_heads["border"](maps, align_corners=align_corners)
        aux.update(zip(BORDER_OUTPUTS, borders, strict=True))
        return SegOutput(logits, aux)


@register_model
def dfn_r101(
    pretrained: str | None = None,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    backbone: str = "resnet101s",
    pretrained_backbone: bool = False,
) -> DFN:
    """DFN on ResNet-101 with the deep stem (timm's ``resnet101s``).

    Args:
        pretrained: checkpoint tag; ``list_checkpoints("dfn_r101")`` names them.
        num_classes: K; the checkpoint's own, else 19. Another number beside ``pretrained`` puts
            fresh classifiers on loaded features.
        in_channels: C of the input.
        backbone: any timm backbone with maps at strides 4, 8, 16 and 32.
        pretrained_backbone: start from timm's ImageNet weights.
    """
    head_channels = 9 * (DFNConfig.num_classes if num_classes is None else num_classes)
    config = DFNConfig("dfn_r101", backbone, in_channels=in_channels, head_channels=head_channels)
    return build(
        DFN,
        config,
        pretrained,
        num_classes=num_classes,
        pretrained_backbone=pretrained_backbone,
    )
