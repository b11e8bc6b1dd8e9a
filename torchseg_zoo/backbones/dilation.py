"""Dilations of ResNets that differ from timm's, as released checkpoints need them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from torchseg_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from torchseg_zoo.backbones import BackboneOptions

__all__ = ["dilate_resnet"]


def dilate_resnet(body: nn.Module, name: str, options: BackboneOptions) -> None:
    """Sets the dilation of every 3×3 of the last two stages, and the stem's pooling, in place.

    Args:
        body: timm ResNet with stages ``layer3`` and ``layer4``.
        name: for messages.
        options: see ``BackboneOptions``; the strides are right already.

    Raises:
        ArgumentError: if ``body`` is not a ResNet, or has another number of last blocks.
    """
    try:
        stages = [list(body.get_submodule(stage).children()) for stage in ("layer3", "layer4")]
    except AttributeError as error:
        raise ArgumentError(
            f"{name} is not a ResNet, so its dilations cannot be set one by one",
            where="backbone_options",
            fix="set output_stride only",
        ) from error
    if not options.final_norm:
        raise ArgumentError(
            f"final_norm=False is for DenseNets, and {name} is not one", where="backbone_options"
        )
    rates = {32: (1, 1), 16: (1, 2), 8: (2, 4)}[options.output_stride]
    for stage, blocks in enumerate(stages):
        dilations = [rates[stage]] * len(blocks)
        if not options.whole_stage:
            dilations[0] = max(1, rates[stage] // 2)
        if stage == 1 and options.last_stage:
            if len(options.last_stage) != len(blocks):
                raise ArgumentError(
                    f"last_stage names {len(options.last_stage)} dilations, "
                    f"{name} has {len(blocks)} blocks there",
                    where="backbone_options",
                )
            dilations = list(options.last_stage)
        for block, dilation in zip(blocks, dilations, strict=True):
            _dilate_block(block, dilation, second=options.dilate_second)
    if options.ceil_pool:
        maxpool: Any = body.get_submodule("maxpool")
        maxpool.ceil_mode = True


def _dilate_block(block: nn.Module, dilation: int, *, second: bool) -> None:
    is_bottleneck = hasattr(block, "conv3")
    if is_bottleneck:
        _dilate(block.get_submodule("conv2"), dilation)
    else:
        _dilate(block.get_submodule("conv1"), dilation)
        _dilate(block.get_submodule("conv2"), dilation if second else 1)


def _dilate(conv: nn.Module, dilation: int) -> None:
    assert isinstance(conv, nn.Conv2d)
    conv.dilation = conv.padding = (dilation, dilation)
