"""Xception39, the light backbone of BiSeNet (Yu et al., ECCV 2018, arXiv:1808.00897).

The paper names it without a table; the layout is TorchSeg's: three stages of separable-convolution
bottlenecks with 4, 8 and 4 blocks. It differs from Xception (Chollet 2017) in three places that
matter for released weights: nothing stands between the depthwise and the pointwise convolution, a
shortcut that changes the shape is a separable 3×3 and not a 1×1, and there is one activation after
each addition.

``create_backbone("xception39")`` builds :class:`Xception39Features` without timm;
``register_with_timm`` adds the classifier :class:`Xception39` to timm's registry, so that timm's
training script can pre-train it on ImageNet; no such weights have been published.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from torchseg_zoo.layers import ConvNormAct

__all__ = ["Xception39", "Xception39Features", "register_with_timm"]

_STAGES = ((16, 4), (32, 8), (64, 4))  # (bottleneck width, blocks); a stage puts out 4 × its width


class SeparableConv(nn.Sequential):
    """Depthwise 3×3 followed at once by a pointwise ``ConvNormAct``."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, act=act)


class Block(nn.Module):
    """Residual bottleneck (in → width → width → 4·width) beside a separable or no shortcut."""

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            SeparableConv(in_channels, width, stride=stride),
            SeparableConv(width, width),
            SeparableConv(width, 4 * width, act=False),
        )
        changes_shape = stride != 1 or in_channels != 4 * width
        self.shortcut = (
            SeparableConv(in_channels, 4 * width, stride=stride, act=False)
            if changes_shape
            else nn.Identity()
        )
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.shortcut(x) + self.residual(x))
        return out


def _stage(in_channels: int, width: int, depth: int) -> nn.Sequential:
    blocks = [Block(in_channels, width, stride=2)]
    blocks += [Block(4 * width, width, stride=1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class Xception39Features(nn.Module):
    """The backbone: (N, C, H, W) → maps of 64, 128 and 256 channels at strides 8, 16 and 32."""

    channels = (64, 128, 256)
    strides = (8, 16, 32)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, 8, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # The first layer has 8 channels, a stage four times its bottleneck's width.
        self.layer1 = _stage(8, *_STAGES[0])
        self.layer2 = _stage(self.channels[0], *_STAGES[1])
        self.layer3 = _stage(self.channels[1], *_STAGES[2])

    def forward(self, x: Tensor) -> list[Tensor]:
        stage1 = self.layer1(self.maxpool(self.conv1(x)))
        stage2 = self.layer2(stage1)
        return [stage1, stage2, self.layer3(stage2)]


class Xception39(Xception39Features):
    """The same network with a classifier, in the form that timm's tools expect."""

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(in_chans)
        from timm.layers.classifier import create_classifier

        self.num_features = self.head_hidden_size = self.channels[-1]
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"layer{index}"}
            for index, (channels, stride) in enumerate(
                zip(self.channels, self.strides, strict=True), start=1
            )
        ]
        self._make_head = functools.partial(create_classifier, self.num_features)
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """Puts a fresh linear classifier on pooled features."""
        self.num_classes = num_classes
        self.global_pool, self.fc = self._make_head(num_classes, pool_type=global_pool)

    def get_classifier(self) -> nn.Module:
        """The linear layer that makes class scores."""
        classifier: nn.Module = self.fc
        return classifier

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 256, H/32, W/32)."""
        return super().forward(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features, or class scores (N, K)."""
        x = self.drop(self.global_pool(x))
        scores: Tensor = x if pre_logits else self.fc(x)
        return scores

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.forward_head(self.forward_features(x))


@functools.cache
def register_with_timm() -> None:
    """Makes ``timm.create_model("xception39")`` work; safe to call more than once."""
    from timm.models import build_model_with_cfg, register_model

    # timm writes each registered name into its module's __all__, so it gets a list of its own.
    @register_model
    def xception39(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        config = {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1.conv",
            "classifier": "fc",
            "architecture": "xception39",
        }
        network: nn.Module = build_model_with_cfg(
            Xception39, "xception39", pretrained, pretrained_cfg=config,
            feature_cfg={"out_indices": (0, 1, 2)}, **_known(kwargs),
        )  # fmt: skip
        return network


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    """timm hands its own pretrained_cfg through; ours stands in the entry point."""
    return {key: value for key, value in kwargs.items() if key != "pretrained_cfg"}
