"""PSPNet beyond the golden files: its rewrites, D32, dynamic sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.layers import pool_to_bins
from torchseg_zoo.models.pspnet import BINS, PSPNet, PSPNetConfig, conv_of_resized, pspnet_r50


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (6, 6), (9, 13)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_is_adaptive_pooling(
    bins: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    x = torch.randn(2, 3, *size).to(memory_format=layout)
    torch.testing.assert_close(pool_to_bins(x, bins), F.adaptive_avg_pool2d(x, bins))


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("size", [(1, 1), (4, 5), (6, 6), (9, 13)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_conv_of_resized_needs_no_resized_map(
    bins: int, size: tuple[int, int], align_corners: bool
) -> None:
    x, kernel = torch.randn(2, 3, bins, bins), torch.randn(4, 3, 3, 3)
    resized = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(
        conv_of_resized(x, kernel, size, align_corners=align_corners),
        F.conv2d(resized, kernel, padding=1),
        atol=1e-4,
        rtol=1e-4,
    )


def test_d32_dilates_but_keeps_the_strides() -> None:
    options = BackboneOptions(output_stride=8, keep_strides=True)
    with torch.device("meta"):
        model = PSPNet(PSPNetConfig("pspnet_r50", "resnet50c", backbone_options=options)).eval()
        assert model(torch.empty(1, 3, 64, 96), upsample=False).shape == (1, 19, 2, 3)
    dilations = [block.conv2.dilation[0] for block in model.backbone.body.layer4]
    assert dilations == [2, 4, 4]


def test_exports_with_dynamic_size() -> None:
    model = pspnet_r50(backbone="test_resnet").eval()
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(
        model, (torch.randn(2, 3, 97, 129),), dynamic_shapes=(sizes,)
    ).module()
    for size in ((70, 51), (64, 64)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(exported(x), model(x))
