"""What every registered model must do; a new family is picked up through ``list_models()``."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import torchseg_zoo as tsz
from torchseg_zoo.errors import ArgumentError, InputShapeError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.summary import summary
from torchseg_zoo.registry import create_model, list_models
from torchseg_zoo.types import SegOutput

CLASSES = 5
TINY = "test_resnet"  # timm's smallest ResNet: 0.4 M parameters, strides 4 to 32
# Backbones of other kinds: name → whether timm can give it output stride 8.
BACKBONES = {
    "mobilenetv3_small_050": True,
    "test_efficientnet": True,
    "test_convnext": True,
    "densenet121": True,
    "pvt_v2_b0": False,
}
# One factory of each class; the others differ in figures only.
FAMILIES = sorted(
    {type(create_model(name, backbone=TINY)).__name__: name for name in list_models()}.values()
)

every_model = pytest.mark.parametrize("name", list_models())
every_family = pytest.mark.parametrize("name", FAMILIES)


def build(name: str, *, backbone: str = TINY, in_channels: int = 3) -> SegmentationModel:
    torch.manual_seed(0)
    return create_model(name, num_classes=CLASSES, backbone=backbone, in_channels=in_channels)


def picture(
    model: SegmentationModel, count: int = 1, size: tuple[int, int] = (65, 99)
) -> torch.Tensor:
    height, width = model.input_rule.nearest(*size)
    return torch.randn(count, model.config.in_channels, height, width)


@every_model
def test_forward(name: str) -> None:
    model = build(name).eval()
    x = picture(model)
    with torch.inference_mode():
        logits = model(x)
        output = model(x, with_aux=True)
        low = model(x, upsample=False)
    assert logits.shape == (1, CLASSES, *x.shape[-2:])
    assert logits.isfinite().all() and logits.std() > 0
    assert isinstance(output, SegOutput)
    torch.testing.assert_close(output.logits, logits)
    assert set(output.aux) == set(summary(model, size=tuple(x.shape[-2:])).aux_heads)
    assert low.shape[1] == CLASSES and low.shape[-1] < x.shape[-1]


@every_model
def test_every_parameter_learns(name: str) -> None:
    model = build(name).train()
    output = model(picture(model, count=2), with_aux=True)
    sum(value.square().mean() for value in (output.logits, *output.aux.values())).backward()
    # TorchSeg's DFN carries one block that it never uses; released files have it.
    without = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None and not key.startswith("aux_heads.border.post.0.")
    ]
    assert without == []


@every_model
def test_reset_classifier(name: str) -> None:
    model = build(name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.reset_classifier(CLASSES + 2)
    x = picture(model)
    with torch.inference_mode():
        output = model(x, with_aux=True)
    assert output.logits.shape[1] == model.num_classes == model.labels.num_classes == CLASSES + 2
    paths = tuple(f"{path}." for path in model.classifiers())
    for key, value in model.state_dict().items():
        if not key.startswith(paths):
            assert torch.equal(value, before[key]), key


@every_model
def test_save_and_load(name: str, tmp_path: Path) -> None:
    model = build(name).eval()
    tsz.save_model(model, tmp_path / "model.safetensors")
    again = tsz.load_model(tmp_path / "model.safetensors")
    assert again.config == model.config and type(again) is type(model)
    x = picture(model)
    with torch.inference_mode():
        assert torch.equal(again(x), model(x))


@every_family
@pytest.mark.parametrize("in_channels", [1, 4])
def test_input_channels(name: str, in_channels: int) -> None:
    fresh = build(name, in_channels=in_channels).eval()
    adapted = build(name).eval()
    adapted.adapt_input(in_channels)
    for model in (fresh, adapted):
        x = picture(model)
        assert x.shape[1] == in_channels
        with torch.inference_mode():
            assert model(x).shape[1] == CLASSES


@every_family
def test_fused_output_is_equal(name: str) -> None:
    model = build(name).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    x = picture(model)
    with torch.inference_mode():
        before = model(x)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        after = model.fuse()(x)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert left < norms / 4
    assert float((after - before).abs().max()) <= 1e-4 * float(before.std())
    with pytest.raises(ArgumentError, match="fused"):
        model.train()


@every_family
@pytest.mark.parametrize("backbone", BACKBONES)
def test_other_backbones(name: str, backbone: str) -> None:
    try:
        model = build(name, backbone=backbone).eval()
    except ArgumentError as error:
        # A refusal is right only where timm cannot dilate, and it must say what to choose instead.
        assert not BACKBONES[backbone], error
        assert error.fix
        return
    x = picture(model, size=(64, 96))
    with torch.inference_mode():
        logits = model(x)
    assert logits.shape == (1, CLASSES, *x.shape[-2:])
    assert logits.isfinite().all()


@every_family
def test_exports_with_dynamic_size(name: str) -> None:
    model = build(name).eval()
    fixed = model.input_rule.fixed
    x = picture(model, size=(64, 96))
    dynamic = None if fixed else {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (x,), dynamic_shapes=(dynamic,) if dynamic else None)
    other = picture(model, size=(64, 96) if fixed else (97, 161))
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(other), model(other), atol=1e-5, rtol=1e-4)


def assert_exports_with_named_size(name: str) -> None:
    model = build(name).eval()
    if model.input_rule.fixed:
        return
    height, width = (torch.export.Dim(side, min=2, max=64) for side in ("h", "w"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model, (torch.randn(1, 3, 64, 96),), dynamic_shapes=({2: 32 * height, 3: 32 * width},)
        )
    for size in ((64, 64), (96, 160)):
        x = torch.randn(1, 3, *size)
        with torch.inference_mode():
            torch.testing.assert_close(program.module()(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["encnet_r50", "fcn_r50", "pspnet_r50"])
def test_exports_with_a_named_size(name: str) -> None:
    assert_exports_with_named_size(name)


@pytest.mark.soak
@every_family
def test_every_family_exports_with_a_named_size(name: str) -> None:
    assert_exports_with_named_size(name)


def test_compiles_in_one_graph() -> None:
    model = build("fcn_r50").eval()
    x = picture(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(x), model(x))


@every_family
def test_a_batch_of_one_cannot_train_pooled_norms(name: str) -> None:
    model = build(name).train()
    x = picture(model)
    if model.pooled_norm:
        with pytest.raises(InputShapeError, match="batch of one"):
            model(x)
    else:
        assert model(x).isfinite().all()


@every_family
def test_wrong_inputs_are_named(name: str) -> None:
    model = build(name).eval()
    height, width = model.input_rule.nearest(64, 64)
    with pytest.raises(InputShapeError, match="needs N×3×H×W"):
        model(torch.zeros(1, 4, height, width))
    with pytest.raises(InputShapeError, match="normalised floats"):
        model(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    if model.input_rule.multiple > 1 or model.input_rule.fixed:
        with pytest.raises(InputShapeError, match=rf"{height + 1}×{width}"):
            model(torch.zeros(1, 3, height + 1, width))
