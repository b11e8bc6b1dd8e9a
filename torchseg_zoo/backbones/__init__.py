"""The one door to backbones: timm's, by name, and the few that timm lacks."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchseg_zoo.backbones.atrous import CannotDilateError, dilate_convolutions
from torchseg_zoo.backbones.densenet import dilate_densenet, is_densenet
from torchseg_zoo.backbones.dilation import dilate_resnet
from torchseg_zoo.errors import ArgumentError, DownloadError, UnknownModelError

__all__ = ["Backbone", "BackboneOptions", "create_backbone"]


@dataclass(frozen=True)
class BackboneOptions:
    """How a backbone is strided and dilated; the defaults are timm's.

    The fields below ``output_stride`` hold for ResNets. They exist because released checkpoints
    were trained on networks that differ in them.

    Args:
        output_stride: input pixels per cell of the deepest map: 32, 16 or 8. Below 32 the last
            stages are dilated instead of strided: by timm where it can, else, if they are
            convolutional, by ``backbones.atrous``.
        whole_stage: dilate the first block of a stage like its other blocks (semseg, OCNet,
            jfzhang95) instead of half as much (timm, torchvision, mmseg, TorchSeg).
        last_stage: dilations of the last stage's blocks, one each (multi-grid); () for the usual.
        keep_strides: dilate as ``output_stride`` asks, but stride all stages (mmseg's D32).
        dilate_second: in basic blocks, dilate the second convolution, too; mmseg does not.
        ceil_pool: round up in the stem's pooling (OCNet).
        final_norm: of DenseNets: end in the network's own batch norm and ReLU. Without it the
            deepest map is what the last dense block puts out (DenseASPP goes on from there).
    """

    output_stride: int = 32
    whole_stage: bool = False
    last_stage: tuple[int, ...] = ()
    keep_strides: bool = False
    dilate_second: bool = True
    ceil_pool: bool = False
    final_norm: bool = True

    def __post_init__(self) -> None:
        if self.output_stride not in (8, 16, 32):
            raise ArgumentError(f"output_stride is {self.output_stride}", fix="choose 8, 16 or 32")


_EXAMPLES = "resnet50, convnext_tiny, densenet121 or mobilenetv3_large_100"

# Networks that timm can build, but has no name for: ours → (timm's, its arguments).
_ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18c": ("resnet18", {"stem_type": "deep", "stem_width": 32}),
}


class Backbone(nn.Module):
    """A network that turns a picture into feature maps, shallow to deep.

    Args:
        body: module returning a list of maps; the last ones are taken.
        channels: C of each map taken.
        strides: input pixels per map cell, for each map.
        channels_last: whether ``body`` puts out (N, H, W, C); ``forward`` returns (N, C, H, W).
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
        maps: list[Tensor] = self.body(x)[-len(self.channels) :]
        if self._channels_last:
            maps = [features.permute(0, 3, 1, 2).contiguous() for features in maps]
        return maps


def create_backbone(
    name: str,
    *,
    in_channels: int = 3,
    levels: int = 4,
    options: BackboneOptions = BackboneOptions(),
    pretrained: bool = False,
) -> Backbone:
    """Builds a backbone that returns its last ``levels`` feature maps.

    Args:
        name: ``"xception39"`` or any timm model that supports ``features_only``, with or without a
            weight tag (``"resnet101s.gluon_in1k"``).
        in_channels: C of the input, at least 1.
        levels: number of maps wanted, counted from the deepest.
        options: strides and dilations.
        pretrained: load timm's ImageNet weights (fetched from the hub by timm).

    Raises:
        UnknownModelError: if timm knows no such backbone.
        ArgumentError: if the backbone cannot give that many maps or that stride.
        DownloadError: if its ImageNet weights do not exist or cannot be fetched.
    """
    if in_channels < 1:
        raise ArgumentError(f"in_channels is {in_channels}", fix="give a number of at least 1")
    if name == "xception39":
        return _xception39(in_channels, levels, options, pretrained)
    return _timm_backbone(name, in_channels, levels, options, pretrained)


def _xception39(
    in_channels: int, levels: int, options: BackboneOptions, pretrained: bool
) -> Backbone:
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
    if options != BackboneOptions():
        raise ArgumentError(
            "xception39 has output stride 32 only",
            where="output_stride",
            fix="choose another backbone, e.g. resnet18",
        )
    return Backbone(body, body.channels[-levels:], body.strides[-levels:])


def _timm_backbone(
    name: str, in_channels: int, levels: int, options: BackboneOptions, pretrained: bool
) -> Backbone:
    import timm

    from torchseg_zoo.backbones.xception39 import register_with_timm

    register_with_timm()
    timm_name, arguments = _ALIASES.get(name, (name, {}))
    architecture = timm_name.partition(".")[0]
    if not timm.is_model(architecture):
        raise UnknownModelError(
            f"no backbone {name!r} in timm {timm.__version__}",
            where="backbone",
            fix=_did_you_mean(architecture, timm.list_models()),
        )
    # timm takes no output stride for a DenseNet: dilate_densenet sets it afterwards.
    asked = options.output_stride
    if asked != 32 and not (options.keep_strides or "densenet" in architecture):
        arguments = {**arguments, "output_stride": asked}
    arguments |= {"in_chans": in_channels, "out_indices": tuple(range(-levels, 0))}
    try:
        body = _from_timm(timm_name, pretrained, arguments)
    except ArgumentError:
        if arguments.pop("output_stride", None) is None:
            raise
        body = _from_timm(timm_name, pretrained, arguments)
    info: Any = body.feature_info
    strides = tuple(info.reduction())
    if is_densenet(body):
        dilate_densenet(body, name, options)
    elif options != BackboneOptions(output_stride=asked):
        dilate_resnet(body, name, options)
    elif asked != 32 and max(strides) > asked:
        _dilate(body, name, strides, asked, in_channels)
    if asked != 32 and not options.keep_strides:
        strides = tuple(min(stride, asked) for stride in strides)
    return Backbone(
        body,
        tuple(info.channels()),
        strides,
        channels_last=str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC"),
    )


def _from_timm(name: str, pretrained: bool, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        body: nn.Module = timm.create_model(
            name, pretrained=pretrained, features_only=True, **arguments
        )
    except (TypeError, NotImplementedError, AssertionError, IndexError, AttributeError) as error:
        at = (
            f" at output stride {arguments['output_stride']}"
            if "output_stride" in arguments
            else ""
        )
        raise ArgumentError(
            f"timm's {name} cannot give {len(arguments['out_indices'])} feature maps{at}",
            where="backbone",
            why=f"{type(error).__name__}: {error}",
            fix=f"choose another backbone, e.g. {_EXAMPLES}",
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
    return body


def _dilate(
    body: nn.Module, name: str, strides: tuple[int, ...], output_stride: int, in_channels: int
) -> None:
    try:
        dilate_convolutions(body, output_stride, in_channels)
    except CannotDilateError as error:
        raise ArgumentError(
            f"{name} has maps at strides {strides} and cannot be dilated to {output_stride}",
            where="backbone",
            why=str(error),
            fix=f"set output_stride={max(strides)} where the family takes it, or choose a "
            f"convolutional backbone, e.g. {_EXAMPLES}",
        ) from error


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return "timm.list_models() lists all names"
