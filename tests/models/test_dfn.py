"""What DFN promises beside parity."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchseg_zoo.errors import ArgumentError, InputShapeError
from torchseg_zoo.models.checkpoint import load_model, save_model
from torchseg_zoo.models.dfn import DFN, DFNConfig, dfn_r101


def tiny(backbone: str = "test_resnet", **fields: int) -> DFN:
    config = DFNConfig("dfn_r101", backbone, smooth_channels=16, head_channels=12, **fields)
    return DFN(config)


def test_border_network_runs_only_when_asked_for() -> None:
    model = tiny().eval()
    calls = []
    model.aux_heads["border"].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 3, 64, 96)
    model(x)
    assert not calls
    output = model(x, with_aux=True, upsample=False)
    assert calls
    assert output.logits.shape == (1, 19, 16, 24)
    assert {name: tuple(value.shape[1:]) for name, value in output.aux.items()} == {
        "stride32": (19, 2, 3),
        "stride16": (19, 4, 6),
        "stride8": (19, 8, 12),
        "border4": (1, 16, 24),
        "border8": (1, 16, 24),
        "border16": (1, 16, 24),
        "border32": (1, 16, 24),
    }


def test_sides_must_be_multiples_of_32() -> None:
    with pytest.raises(InputShapeError, match=r"100×1500.*divisible by 32.*128×1504"):
        tiny()(torch.randn(1, 3, 100, 1500))


def test_head_keeps_its_width_when_classes_change(tmp_path: Path) -> None:
    model = tiny().eval()
    model.reset_classifier(5)
    x = torch.randn(1, 3, 32, 64)
    output = model(x, with_aux=True)
    assert {value.shape[1] for name, value in output.aux.items() if "stride" in name} == {5}
    assert {value.shape[1] for name, value in output.aux.items() if "border" in name} == {1}
    save_model(model, tmp_path / "dfn.safetensors")
    torch.testing.assert_close(load_model(tmp_path / "dfn.safetensors")(x), output.logits)


def test_factory_makes_heads_nine_times_as_wide_as_the_classes() -> None:
    with torch.device("meta"):
        assert dfn_r101(num_classes=4, backbone="test_resnet").config.head_channels == 36
        assert dfn_r101(backbone="test_resnet").config.head_channels == 171


def test_backbone_of_other_strides_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"DFN needs strides \(4, 8, 16, 32\)"):
        DFN(DFNConfig("dfn_r101", "vit_tiny_patch16_224"))


@pytest.mark.parametrize("backbone", ["convnext_atto", "mobilenetv3_small_100"])
def test_exports_with_dynamic_size(backbone: str) -> None:
    model = tiny(backbone).eval()
    height, width = (32 * torch.export.Dim(name, min=2, max=64) for name in ("h", "w"))
    exported = torch.export.export(
        model, (torch.randn(1, 3, 96, 64),), dynamic_shapes=({2: height, 3: width},)
    ).module()
    x = torch.randn(1, 3, 64, 160)
    torch.testing.assert_close(exported(x), model(x))


def test_fused_model_computes_the_same() -> None:
    model = tiny().eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model(x)
        torch.testing.assert_close(model.fuse()(x), expected, rtol=1e-4, atol=1e-4)
    assert not model.aux_heads
