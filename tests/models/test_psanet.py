"""What PSANet promises beside parity."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from torchseg_zoo.backbones import BackboneOptions
from torchseg_zoo.errors import ArgumentError, InputShapeError
from torchseg_zoo.inference.modes import Whole
from torchseg_zoo.inference.predict import predict
from torchseg_zoo.models.checkpoint import load_model, save_model
from torchseg_zoo.models.psanet import (
    HalfByParity,
    HalfRoundingUp,
    MaskToWeights,
    PSANet,
    PSANetConfig,
    psanet_r50,
)

MASK = {"attention": "mask", "mask_size": (5, 7), "halving": "parity", "padded": True}


def tiny(backbone: str = "test_resnet", **fields: Any) -> PSANet:
    options = BackboneOptions(output_stride=8)
    config = PSANetConfig(
        "psanet_r50", backbone, num_classes=4, backbone_options=options, aux_channels=8, **fields
    )
    return PSANet(config).eval()


@pytest.mark.parametrize("mask_size", [(1, 1), (3, 4), (7, 9), (12, 5)])
def test_masks_become_weights_by_their_definition(mask_size: tuple[int, int]) -> None:
    height, width = 4, 5
    masks = torch.randn(2, mask_size[0] * mask_size[1], height, width)
    weights = MaskToWeights(mask_size)(masks).view(2, height, width, height, width)
    for y, x, seen_y, seen_x in itertools.product(range(4), range(5), range(4), range(5)):
        p = seen_y - y + (mask_size[0] - 1) // 2
        q = seen_x - x + (mask_size[1] - 1) // 2
        inside = 0 <= p < mask_size[0] and 0 <= q < mask_size[1]
        expected = masks[:, p * mask_size[1] + q, y, x] if inside else torch.zeros(2)
        assert torch.equal(weights[:, seen_y, seen_x, y, x], expected)


@pytest.mark.parametrize("size", [*itertools.product((4, 5, 12, 13), repeat=2)])
def test_half_by_parity_is_mmsegs_rule(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    both_odd = size[0] % 2 == 1 and size[1] % 2 == 1
    half = tuple((side - 1) // 2 + 1 if both_odd else side // 2 for side in size)
    expected = F.interpolate(x, half, mode="bilinear", align_corners=both_odd)
    shrunk = HalfByParity().shrink(x)
    torch.testing.assert_close(shrunk, expected)
    expected = F.interpolate(shrunk, size, mode="bilinear", align_corners=both_odd)
    torch.testing.assert_close(HalfByParity().restore(shrunk, size), expected)


def test_both_halvings_agree_on_odd_maps_and_take_a_single_cell() -> None:
    x = torch.randn(1, 2, 9, 5)
    torch.testing.assert_close(HalfByParity().shrink(x), HalfRoundingUp().shrink(x))
    for scale, size in itertools.product((HalfByParity(), HalfRoundingUp()), ((1, 1), (1, 4))):
        shrunk = scale.shrink(torch.ones(1, 1, *size))
        assert torch.equal(scale.restore(shrunk, size), torch.ones(1, 1, *size))


@pytest.mark.parametrize(
    ("fields", "fixed"),
    [
        ({}, (480, 480)),
        ({"attention": "compact", "mask_size": (15, 15), "halving": "up"}, (225, 225)),
        ({"attention": "compact", "mask_size": (6, 8), "halving": "parity"}, (96, 128)),
    ],
)
def test_compact_forms_take_one_size(fields: dict[str, Any], fixed: tuple[int, int]) -> None:
    model = tiny(**fields)
    assert model.input_rule.fixed == fixed
    assert PSANet.input_rule.fixed is None
    height, width = fixed
    with torch.inference_mode():
        assert model(torch.randn(1, 3, *fixed), upsample=False).isfinite().all()
    with pytest.raises(InputShapeError, match=rf"works at {height}×{width} only"):
        model(torch.randn(1, 3, height + 1, width))


def test_predict_pads_to_the_fixed_size_and_slides_over_more() -> None:
    model = tiny(attention="compact", mask_size=(8, 8))
    for size in ((40, 64), (40, 65), (150, 70)):
        assert predict(model, np.zeros((*size, 3), np.uint8)).labels.shape == size
    with pytest.raises(InputShapeError, match="picture is 40×65 but the model works at 64×64 only"):
        predict(model, np.zeros((40, 65, 3), np.uint8), mode=Whole())


@pytest.mark.parametrize("direction", ["both", "collect", "distribute"])
@pytest.mark.parametrize("halving", ["none", "up", "parity"])
def test_mask_form_takes_any_size(direction: str, halving: str) -> None:
    model = tiny(attention="mask", mask_size=(5, 7), direction=direction, halving=halving)
    with torch.inference_mode():
        for size in ((8, 8), (33, 50), (64, 97)):
            output = model(torch.randn(1, 3, *size), with_aux=True)
            assert output.logits.shape == (1, 4, *size)
            assert output.aux["stage3"].shape == (1, 4, *size)


def test_collect_and_distribute_differ_by_the_transpose_alone(tmp_path: Path) -> None:
    x = torch.randn(1, 3, 64, 64)
    fields = {"attention": "compact", "mask_size": (8, 8)}
    collect, distribute = (tiny(direction=one, **fields) for one in ("collect", "distribute"))
    distribute.load_state_dict(collect.state_dict())
    assert not torch.equal(collect(x), distribute(x))
    distribute.head.branches[0].transposed = False
    torch.testing.assert_close(collect(x), distribute(x))
    save_model(collect, tmp_path / "collect.safetensors")
    loaded = load_model(tmp_path / "collect.safetensors")
    assert loaded.input_rule == collect.input_rule
    torch.testing.assert_close(loaded(x), collect(x))


def test_factory_builds_torchsegs_form_or_a_mask() -> None:
    with torch.device("meta"):
        assert psanet_r50(backbone="test_resnet").input_rule.fixed == (480, 480)
        assert psanet_r50(backbone="test_resnet", output_stride=16).input_rule.fixed == (960, 960)
        model = psanet_r50(backbone="test_resnet", mask_size=(9, 9))
    assert model.input_rule.fixed is None
    assert (model.config.attention, model.config.halving) == ("mask", "up")


@pytest.mark.parametrize(
    "fields",
    [{"direction": "gather"}, {"attention": "full"}, {"halving": ""}, {"mask_size": (0, 3)}],
)
def test_wrong_options_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(fields))):
        tiny(**fields)


@pytest.mark.parametrize("fields", [{}, MASK])
def test_fused_model_computes_the_same(fields: dict[str, Any]) -> None:
    model = tiny(**fields)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    x = torch.randn(1, 3, *model.input_rule.nearest(40, 56))
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(model.fuse()(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("halving", ["none", "up", "parity"])
def test_exports_with_dynamic_size(halving: str) -> None:
    model = tiny(**{**MASK, "halving": halving, "padded": halving == "parity"})
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(
        model, (torch.randn(2, 3, 96, 72),), dynamic_shapes=(sizes,)
    ).module()
    for size in ((64, 160), (97, 129), (97, 160), (104, 136)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(exported(x), model(x))
