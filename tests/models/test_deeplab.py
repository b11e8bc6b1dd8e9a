"""What the goldens of DeepLab do not show: rates, multi-grid, refusals."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, InputShapeError
from torchseg_zoo.models.checkpoint import model_from_state_dict
from torchseg_zoo.models.deeplabv3 import DeepLab, DeepLabV3, deeplabv3_r50, deeplabv3_r101
from torchseg_zoo.models.deeplabv3plus import DeepLabV3Plus, deeplabv3plus_r18

SMALL = "resnet10t"


def rates(model: DeepLab) -> list[int]:
    branches = list(model.get_submodule("head.aspp.branches").children())[1:]
    return [conv.dilation[0] for branch in branches for conv in convolutions(branch)[:1]]


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("output_stride", "expected"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])]
)
def test_rates_follow_the_output_stride(output_stride: int, expected: list[int]) -> None:
    model = deeplabv3_r50(backbone=SMALL, output_stride=output_stride)
    assert rates(model) == expected


def test_configured_rates_hold_for_separable_branches() -> None:
    config = deeplabv3plus_r18(backbone=SMALL).config
    model = DeepLabV3Plus(dataclasses.replace(config, rates=(2, 5), separable=True))
    assert rates(model) == [2, 5]
    assert model(torch.zeros(2, 3, 33, 65)).shape == (2, 19, 33, 65)


@pytest.mark.parametrize(("output_stride", "dilations"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_multi_grid_multiplies_the_stage_dilation(output_stride: int, dilations: list[int]) -> None:
    with torch.device("meta"):
        model = deeplabv3_r101(output_stride=output_stride, multi_grid=(1, 2, 4))
    stage = model.get_submodule("backbone.body.layer4")
    assert [block.conv2.dilation[0] for block in stage.children()] == dilations
    assert model.backbone.strides[-1] == output_stride


def test_mmseg_d16_mg124_is_a_configuration() -> None:
    with torch.device("meta"):
        source = deeplabv3_r101(backbone="resnet101c", output_stride=16).config
        options = BackboneOptions(16, last_stage=(1, 2, 4))
        model = DeepLabV3(dataclasses.replace(source, backbone_options=options))
    stages = {
        stage: [
            block.conv2.dilation[0]
            for block in model.get_submodule(f"backbone.body.{stage}").children()
        ]
        for stage in ("layer3", "layer4")
    }
    assert set(stages["layer3"]) == {1}
    assert stages["layer4"] == [1, 2, 4]


def test_auxiliary_head_runs_only_when_asked_for() -> None:
    config = dataclasses.replace(deeplabv3_r50(backbone=SMALL).config, aux_channels=8)
    model = DeepLabV3(config).eval()
    calls = []
    model.aux_heads["stage3"].register_forward_hook(lambda *_: calls.append(1))
    x = torch.zeros(1, 3, 64, 64)
    model(x)
    assert not calls
    assert set(model(x, with_aux=True).aux) == {"stage3"}
    model.reset_classifier(7)
    assert model(x, with_aux=True).aux["stage3"].shape == (1, 7, 64, 64)


def test_plus_refuses_a_backbone_without_stride_4() -> None:
    with pytest.raises(ArgumentError, match="stride 4"):
        deeplabv3plus_r18(backbone="vit_tiny_patch16_224", output_stride=32)


def test_one_picture_cannot_be_trained_on() -> None:
    model = deeplabv3_r50(backbone=SMALL).train()
    with pytest.raises(InputShapeError, match="batch of one"):
        model(torch.zeros(1, 3, 64, 64))


def test_unknown_names_are_refused() -> None:
    names = [
        "backbone.layer1.0.conv1.weight",
        *(f"backbone.layer{stage}.{block}.conv1.weight" for stage in (3, 4) for block in (0, 1)),
        "aspp.aspp1.atrous_conv.weight",
        "decoder.extra.weight",
    ]
    with pytest.raises(CheckpointFormatError, match=r"decoder\.extra\.weight"):
        model_from_state_dict({name: torch.zeros(1) for name in names})
