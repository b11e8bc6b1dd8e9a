"""The one door to backbones: timm's, by name, and the few that timm lacks."""

from __future__ import annotations

import difflib

from torch import Tensor, nn

from torchseg_zoo.errors import ArgumentError, DownloadError, UnknownModelError

__all__ = ["Backbone", "create_backbone"]


class Backbone(nn.Module):
    """A network that turns a picture into feature maps, shallow to deep.

    Args:
        body: module returning a list of maps.
        channels: C of each map.
        strides: input pixels per map cell, for each map.
        channels_last: whether ``body`` puts out (N, H, W, C); ``forward`` returns (N, C, H, W) always.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        *,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.channels = channels
        self.strides = strides
        self._channels_last = channels_last

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(x)
        if self._channels_last:
            maps = [features.permute(0, 3, 1, 2).contiguous() for features in maps]
        return maps


def create_backbone(
    name: str,
    *,
    in_channels: int = 3,
    levels: int = 4,
    output_stride: int = 32,
    pretrained: bool = False,
) -> Backbone:
    """Builds a backbone that returns its last ``levels`` feature maps.

    Args:
        name: ``"xception39"`` or any timm model that supports ``features_only``, with or without a
            weight tag (``"resnet101s.gluon_in1k"``).
        in_channels: C of the input, at least 1.
        levels: number of maps wanted, counted from the deepest.
        output_stride: stride of the deepest map: 32, 16 or 8. Below 32 the last stages are dilated.
        pretrained: load timm's ImageNet weights (fetched from the hub by timm).

    Raises:
        UnknownModelError: if timm knows no such backbone.
        ArgumentError: if the backbone cannot give that many maps or that stride.
        DownloadError: if its ImageNet weights do not exist or cannot be fetched.
    """
    if in_channels < 1:
        raise ArgumentError(f"in_channels is {in_channels}", fix="give a number of at least 1")
    if name == "xception39":
        return _xception39(in_channels, levels, output_stride, pretrained)
    return _timm_backbone(name, in_channels, levels, output_stride, pretrained)


def _xception39(in_channels: int, levels: int, output_stride: int, pretrained: bool) -> Backbone:
    from torchseg_zoo.backbones.xception39 import Xception39Features

    if pretrained:
        raise DownloadError(
            "xception39 has no published ImageNet weights",
            where="pretrained_backbone",
            fix="train from scratch, or start from a checkpoint with pretrained=",
        )
    body = Xception39Features(in_channels)
    if levels > len(body.channels):
        raise ArgumentError(
            f"xception39 has {len(body.channels)} feature maps, this head needs {levels}",
            where="backbone",
            fix="choose a backbone with more maps, e.g. resnet18",
        )
    if output_stride != 32:
        raise ArgumentError("xception39 has output stride 32 only", where="output_stride")
    return Backbone(body, body.channels, body.strides)


def _timm_backbone(
    name: str, in_channels: int, levels: int, output_stride: int, pretrained: bool
) -> Backbone:
    import timm

    from torchseg_zoo.backbones.xception39 import register_with_timm

    register_with_timm()
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UnknownModelError(
            f"no backbone {name!r} in timm {timm.__version__}",
            where="backbone",
            fix=_did_you_mean(architecture, timm.list_models()),
        )
    options: dict[str, int] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        body = timm.create_model(
            name,
            pretrained=pretrained,
            features_only=True,
            in_chans=in_channels,
            out_indices=tuple(range(-levels, 0)),
            **options,
        )
    except (TypeError, NotImplementedError, AssertionError, IndexError, AttributeError) as error:
        raise ArgumentError(
            f"timm's {name} cannot give {levels} feature maps at output stride {output_stride}",
            where="backbone",
            why=f"{type(error).__name__}: {error}",
            fix="choose another backbone, e.g. resnet50, convnext_tiny or mobilenetv3_large_100",
        ) from error
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        raise DownloadError(
            f"ImageNet weights of {name} could not be loaded",
            where="pretrained_backbone",
            why=f"{type(error).__name__}: {error}",
            fix="check the network, or build with pretrained_backbone=False",
        ) from error
    info = body.feature_info
    return Backbone(
        body,
        tuple(info.channels()),
        tuple(info.reduction()),
        channels_last=str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC"),
    )


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "timm.list_models() lists all names"
