"""Output stride 8 or 16 for DenseNets, which timm builds at stride 32 only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from torchseg_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from torchseg_zoo.backbones import BackboneOptions

__all__ = ["dilate_densenet", "is_densenet"]

# Output stride → (transitions that no longer pool, dilation of the third and of the fourth block).
_DILATED: dict[int, tuple[tuple[int, ...], tuple[int, int]]] = {
    32: ((), (1, 1)),
    16: ((3,), (1, 2)),
    8: ((2, 3), (2, 4)),
}


def is_densenet(body: nn.Module) -> bool:
    """Whether ``body`` is timm's feature extractor of a DenseNet."""
    return hasattr(body, "features_denseblock4")


def dilate_densenet(body: nn.Module, name: str, options: BackboneOptions) -> None:
    """Un-strides and dilates a DenseNet, in place, as DenseASPP does (Yang et al., CVPR 2018).

    The average pools of the last transitions go; every 3×3 of a block behind them is dilated, the
    first one of the block included.

    Args:
        body: timm's feature extractor with children ``features_denseblock1`` and so on.
        name: for messages.
        options: ``output_stride`` and ``final_norm`` apply.

    Raises:
        ArgumentError: if ``options`` has fields set that only a ResNet has.
    """
    from torchseg_zoo.backbones import BackboneOptions

    own = BackboneOptions(output_stride=options.output_stride, final_norm=options.final_norm)
    if options != own:
        raise ArgumentError(
            f"{name} is not a ResNet, so its dilations cannot be set one by one",
            where="backbone_options",
            fix="set output_stride only",
        )
    unpooled, dilations = _DILATED[options.output_stride]
    for transition in unpooled:
        body.get_submodule(f"features_transition{transition}").pool = nn.Identity()
    for block, dilation in zip((3, 4), dilations, strict=True):
        for key, conv in body.get_submodule(f"features_denseblock{block}").named_modules():
            if key.endswith("conv2"):
                assert isinstance(conv, nn.Conv2d)
                conv.dilation = conv.padding = (dilation, dilation)
    if not options.final_norm:
        body.features_norm5 = nn.Identity()
