"""``create_backbone``: maps, strides, dilations, refusals; and our network in timm's registry."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

from torchseg_zoo.backbones import BackboneOptions, create_backbone
from torchseg_zoo.backbones.xception39 import Xception39Features, register_with_timm
from torchseg_zoo.errors import ArgumentError, DownloadError, UnknownModelError


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_xception39_gives_its_deepest_maps_and_no_more(levels: int) -> None:
    backbone = create_backbone("xception39", levels=levels).eval()
    maps = backbone(torch.zeros(1, 3, 70, 97))
    assert len(maps) == levels
    assert [features.shape[1] for features in maps] == list(backbone.channels)
    assert backbone.strides == (8, 16, 32)[-levels:]
    for features, stride in zip(maps, backbone.strides, strict=True):
        assert features.shape[-2:] == (-(-70 // stride), -(-97 // stride))


@pytest.mark.parametrize(
    ("name", "output_stride", "strides"),
    [
        ("test_resnet", 32, (4, 8, 16, 32)),
        ("test_resnet", 16, (4, 8, 16, 16)),
        ("test_resnet", 8, (4, 8, 8, 8)),
        ("test_convnext", 8, (4, 8, 8, 8)),
    ],
)
def test_strides_are_what_was_asked_for(
    name: str, output_stride: int, strides: tuple[int, ...]
) -> None:
    backbone = create_backbone(name, options=BackboneOptions(output_stride=output_stride)).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.strides == strides
    for features, channels, stride in zip(maps, backbone.channels, strides, strict=True):
        assert features.shape == (1, channels, 64 // stride, 96 // stride)


def test_channels_last_networks_come_out_channels_first() -> None:
    backbone = create_backbone("test_mambaout", levels=2).eval()
    for features, channels in zip(
        backbone(torch.zeros(1, 3, 64, 64)), backbone.channels, strict=True
    ):
        assert features.shape[1] == channels


def dilations(body: nn.Module, stage: str) -> list[tuple[int, ...]]:
    return [
        tuple(
            module.dilation[0]
            for module in block.modules()
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
        )
        for block in body.get_submodule(stage)
    ]


def test_dilations_of_released_networks() -> None:
    def stages(name: str, **options: object) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        body = create_backbone(name, options=BackboneOptions(**options)).body  # type: ignore[arg-type]
        return dilations(body, "layer3"), dilations(body, "layer4")

    plain = stages("resnet50", output_stride=8)
    assert plain == ([(1,)] + [(2,)] * 5, [(2,), (4,), (4,)])
    whole = stages("resnet50", output_stride=8, whole_stage=True)
    assert whole == ([(2,)] * 6, [(4,)] * 3)
    multi_grid = stages("resnet50", output_stride=16, last_stage=(1, 2, 4))
    assert multi_grid == ([(1,)] * 6, [(1,), (2,), (4,)])
    first_conv_only = stages("resnet18c", output_stride=8, dilate_second=False)
    assert first_conv_only == ([(1, 1), (2, 1)], [(2, 1), (4, 1)])


def test_keeping_strides_dilates_all_the_same() -> None:
    backbone = create_backbone(
        "resnet18", options=BackboneOptions(output_stride=8, keep_strides=True)
    )
    assert backbone.strides == (4, 8, 16, 32)
    assert backbone.eval()(torch.zeros(1, 3, 64, 64))[-1].shape[-1] == 2
    assert dilations(backbone.body, "layer4")[1] == (4, 4)


def test_refusals_name_the_argument_and_a_way_out() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean.*resnet50"):
        create_backbone("resnet5O")
    with pytest.raises(ArgumentError, match="output_stride is 12"):
        BackboneOptions(output_stride=12)
    with pytest.raises(ArgumentError, match="stride 32 only"):
        create_backbone("xception39", levels=3, options=BackboneOptions(output_stride=8))
    with pytest.raises(ArgumentError, match="has 3 feature maps, this head needs 4"):
        create_backbone("xception39", levels=4)
    with pytest.raises(ArgumentError, match="cannot give 6 feature maps"):
        create_backbone("convnext_atto", levels=6)
    with pytest.raises(ArgumentError, match="last_stage names 2 dilations"):
        create_backbone("resnet50", options=BackboneOptions(output_stride=8, last_stage=(1, 2)))
    with pytest.raises(ArgumentError, match="in_channels is 0"):
        create_backbone("resnet18", in_channels=0)
    with pytest.raises(DownloadError, match="no published ImageNet weights"):
        create_backbone("xception39", pretrained=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pvt_v2_b0", "no map at stride 8|deep stages use"),
        ("test_vit", "no map at stride 8"),
        ("hrnet_w18_small", "deep stages use upsample_nearest2d"),
        ("test_mambaout", "deep stages use"),
        ("poolformer_s12", "deep stages use avg_pool2d"),
    ],
)
def test_strides_that_cannot_be_changed_are_told_with_a_way_out(name: str, reason: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        create_backbone(name, levels=2, options=BackboneOptions(output_stride=8))
    natural = create_backbone(name, levels=2).strides
    text = str(caught.value)
    assert f"{name} has maps at strides {natural} and cannot be dilated to 8" in text
    assert f"set output_stride={natural[-1]} " in text and "resnet50" in text
    assert re.search(reason, text), text
    options = BackboneOptions(output_stride=natural[-1])
    assert create_backbone(name, levels=2, options=options).strides == natural


# Name, and what squeezes the whole map: an average over more positions is another average.
A_TROUS = {
    "resnet18": 0.0,
    "regnetx_002": 0.0,
    "mobilenetv2_050": 0.0,
    "repvgg_a0": 0.0,
    "test_efficientnet": 0.05,  # squeeze and excitation
    "dla46_c": 0.0,  # from here on timm refuses
    "vgg11_bn": 0.0,
    "starnet_s1": 0.0,
    "legacy_seresnet18": 0.2,  # squeeze and excitation
    "ese_vovnet19b_slim": 0.2,  # effective squeeze and excitation; max pooling that rounds up
}


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", A_TROUS)
def test_a_dilated_network_holds_the_strided_one(name: str, output_stride: int) -> None:
    """At every second or fourth position of the finer map stand the values of the coarser one."""
    torch.manual_seed(0)
    strided = create_backbone(name, levels=2).eval()
    dilated = create_backbone(
        name, levels=2, options=BackboneOptions(output_stride=output_stride)
    ).eval()
    dilated.load_state_dict(strided.state_dict())
    assert dilated.strides == (min(16, output_stride), output_stride)
    x = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        pairs = list(zip(strided(x), dilated(x), strict=True))
    for (coarse, fine), stride, new in zip(pairs, strided.strides, dilated.strides, strict=True):
        assert fine.shape[-2:] == (96 // new, 128 // new)
        step = stride // new
        difference = (fine[..., ::step, ::step] - coarse).abs().max() / coarse.std()
        assert float(difference) <= A_TROUS[name] + 1e-4


def test_a_dilated_network_trains_and_takes_odd_sizes() -> None:
    backbone = create_backbone("ghostnet_050", levels=2, options=BackboneOptions(output_stride=8))
    maps = backbone(torch.randn(2, 3, 49, 71))
    assert [features.shape[-2:] for features in maps] == [(7, 9), (7, 9)]
    maps[-1].sum().backward()
    assert all(one.grad is not None for one in backbone.parameters())


def test_timm_knows_xception39_with_the_same_tensors() -> None:
    register_with_timm()
    classifier = timm.create_model("xception39", num_classes=7).eval()
    features = Xception39Features().eval()
    missing, unexpected = features.load_state_dict(classifier.state_dict(), strict=False)
    assert missing == [] and {key.partition(".")[0] for key in unexpected} == {"fc"}
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert classifier(x).shape == (2, 7)
        assert torch.equal(classifier.forward_features(x), features(x)[-1])
        listed = timm.create_model("xception39", features_only=True).eval()(x)
    assert [one.shape[1] for one in listed] == [64, 128, 256]
