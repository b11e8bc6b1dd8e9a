"""Sizes and states that a model cannot take: named, with what works, and nothing is changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import FOREIGN, save
from foreign_shapes import mmseg
from golden.reading import state_of
from torch import Tensor

import torchseg_zoo as tsz
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, InputShapeError, ZooError
from torchseg_zoo.models.base import InputRule, ModelConfig, SegmentationModel
from torchseg_zoo.registry import create_model, list_models, model_factory
from torchseg_zoo.types import SegOutput

TINY = "test_resnet"
FAMILIES = sorted(
    {type(create_model(name, backbone=TINY)).__name__: name for name in list_models()}.values()
)
every_family = pytest.mark.parametrize("name", FAMILIES)


def on_meta(name: str, **options: Any) -> SegmentationModel:
    with torch.device("meta"):
        return model_factory(name)(**options)


def refusal(model: SegmentationModel, x: Tensor) -> str:
    with pytest.raises(InputShapeError) as caught:
        model(x)
    assert caught.value.fix
    return str(caught.value)


def numbers(text: str, pattern: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in re.findall(pattern, text)]


# Sizes


@pytest.mark.parametrize("size", [(33, 64), (64, 31), (1, 1), (95, 97)])
def test_sides_that_are_no_multiple_name_the_next_ones(size: tuple[int, int]) -> None:
    model = on_meta("dfn_r101", backbone=TINY).eval()
    text = refusal(model, torch.empty(1, 3, *size, device="meta"))
    assert f"image is {size[0]}×{size[1]}" in text and "sides divisible by 32" in text
    ((height, width),) = numbers(text, r"pad to (\d+)×(\d+)")
    assert height % 32 == width % 32 == 0 and 0 <= height - size[0] < 32 > width - size[1] >= 0
    assert model(torch.empty(1, 3, height, width, device="meta")).shape[-2:] == (height, width)


def test_a_fixed_grid_names_its_size() -> None:
    model = on_meta("psanet_r50", backbone=TINY).eval()
    text = refusal(model, torch.empty(1, 3, 512, 512, device="meta"))
    assert "image is 512×512 but psanet_r50 works at 480×480 only" in text
    assert model(torch.empty(1, 3, 480, 480, device="meta")).shape == (1, 19, 480, 480)
    any_size = on_meta("psanet_r50", backbone=TINY, mask_size=(15, 15)).eval()
    assert any_size(torch.empty(1, 3, 51, 70, device="meta")).shape == (1, 19, 51, 70)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [*((name, "test_convnext") for name in FAMILIES), ("fcn32s_r101", "pvt_v2_b0")],
)
def test_less_than_one_feature_position(name: str, backbone: str) -> None:
    """The size that the message names works, and one pixel less does not."""
    model = on_meta(name, backbone=backbone).eval()
    if model.input_rule != InputRule():
        return  # any size that the rule allows has positions; the tests above are about those
    text = refusal(model, torch.empty(1, 3, 2, 3, device="meta"))
    assert f"image is 2×3 but {name} on {backbone} needs a feature position" in text
    ((height, width),) = numbers(text, r"pad to (\d+)×(\d+)")
    assert height == width and f"sides must measure at least {height})" in text
    assert model(torch.empty(1, 3, height, width, device="meta")).shape[-2:] == (height, width)
    assert "needs a feature position" in refusal(
        model, torch.empty(1, 3, height - 1, width - 1, device="meta")
    )


def test_backbones_whose_branches_round_differently_name_a_size_that_works() -> None:
    model = on_meta("fcn_r50", backbone="dla46_c").eval()
    text = refusal(model, torch.empty(1, 3, 49, 71, device="meta"))
    ((height, width),) = numbers(text, r"pad to (\d+)×(\d+)")
    assert "needs sides divisible by" in text and 49 <= height < 81 and 71 <= width < 103
    assert model(torch.empty(1, 3, height, width, device="meta")).shape[-2:] == (height, width)


@every_family
def test_no_picture_at_all_is_refused(name: str) -> None:
    model = create_model(name, backbone=TINY, num_classes=3).eval()
    text = refusal(model, torch.zeros(1, 3, 0, 64))
    assert "0×64" in text and re.search(r"pad to \d+×|works at", text)


@every_family
def test_one_position_is_too_little_to_train_on(name: str) -> None:
    model = create_model(name, backbone=TINY, num_classes=3).train()
    if model.input_rule.fixed:
        return
    x = torch.randn(1, 3, *model.input_rule.nearest(1, 1))
    text = refusal(model, x)
    if model.pooled_norm:
        assert "a batch of one cannot train" in text and "at least 2" in text
        assert model(x.expand(2, -1, -1, -1)).isfinite().all()
    elif model.config.model != "ocnet_asp_r101":
        assert "needs more than one feature position to train on" in text
        ((height, width),) = numbers(text, r"pad to (\d+)×(\d+)")
        assert model(torch.randn(1, 3, height, width)).isfinite().all()


def test_other_failures_pass_through() -> None:
    model = create_model("fcn_r50", backbone=TINY, num_classes=3).eval()

    def fail(x: Tensor) -> None:
        raise RuntimeError("out of memory")

    model.backbone.forward = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        model(torch.zeros(1, 3, 32, 32))


def test_a_family_without_a_classifier_is_told() -> None:
    class Headless(SegmentationModel):
        config_class = ModelConfig

        def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
            return SegOutput(x, {})

    model = Headless(ModelConfig("headless", "none", num_classes=3))
    with pytest.raises(ArgumentError, match=r"Headless has no head\.classifier.*override"):
        model.reset_classifier(4)
    assert model.num_classes == 3


# States


@pytest.fixture(scope="module")
def target() -> SegmentationModel:
    return tsz.bisenet_r18().eval()


def refused(target: SegmentationModel, state: Any) -> CheckpointFormatError:
    """The refusal of a state; nothing of the model may be changed by it."""
    before = {name: value.clone() for name, value in target.state_dict().items()}
    config, labels = target.config, target.labels
    with pytest.raises(CheckpointFormatError) as caught:
        target.load_state_dict(state)
    after = target.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (target.config, target.labels) == (config, labels)
    for part in re.split(r"; ", str(caught.value.why)):
        assert part.count(", ") < 5 or "more" in part or "misshaped" in part
    return caught.value


@pytest.mark.parametrize("name", list_models()[::3])
def test_another_models_state_is_named(name: str, target: SegmentationModel) -> None:
    model = on_meta(name, num_classes=7)
    state = {key: torch.empty(()).expand(value.shape) for key, value in model.state_dict().items()}
    error = refused(target, state)
    told = re.match(r"it is for (\w+), 7 classes; ", str(error.why))
    assert told is not None, error
    # Variants of one model may differ in nothing that a state dict shows.
    same = on_meta(told[1], num_classes=7).state_dict()
    assert {key: value.shape for key, value in same.items()} == {
        key: value.shape for key, value in state.items()
    }


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_state_is_named(name: str, target: SegmentationModel) -> None:
    state = state_of(name)
    layout = FOREIGN[name].layout
    for given in (state, {"state_dict": state}, {f"module.{key}": v for key, v in state.items()}):
        error = refused(target, given)
        told = rf"it is for \w+, \d+ classes, in the layout of {layout}; "
        assert re.match(told, str(error.why)), error
        assert "load_model()" in str(error.fix)


def test_the_example_of_an_mmseg_pspnet(target: SegmentationModel) -> None:
    state = {
        key: torch.empty(()).expand(shape)
        for key, shape in mmseg("pspnet_r101", 150, "ade20k").items()
    }
    why = str(refused(target, state).why)
    assert why.startswith("it is for pspnet_r101, 150 classes, in the layout of mmseg; 218 missing")


def test_one_tensor_too_few_too_many_or_of_another_shape(target: SegmentationModel) -> None:
    whole = {name: value.clone() for name, value in target.state_dict().items()}
    place = "head.classifier.weight"
    cases = {
        f"1 missing: {place}": {name: whole[name] for name in whole if name != place},
        "1 unexpected: extra": {**whole, "extra": torch.zeros(1)},
        f"1 misshaped: {place} is (3, 2), not (19, 64, 1, 1)": {**whole, place: torch.zeros(3, 2)},
    }
    for text, state in cases.items():
        assert text in str(refused(target, state).why)
    for state in ({}, {"model": 3}, {**whole, place: "text"}):
        refused(target, state)
    target.load_state_dict(whole)
    target.load_state_dict({name: value.double() for name, value in whole.items()})
    assert target.load_state_dict({}, strict=False).missing_keys


def test_a_foreign_file_with_one_fault_says_what_it_is(tmp_path: Path) -> None:
    name = "mmseg/bisenetv1_r18"
    state = save(name, tmp_path / "whole.pth")
    state["decode_head.conv_seg.weight"] = torch.zeros(7, 2)
    torch.save(state, tmp_path / "faulty.pth")
    with pytest.raises(CheckpointFormatError) as caught:
        tsz.load_model(tmp_path / "faulty.pth")
    told = "it is for bisenet_r18, 7 classes, in the layout of mmseg; "
    assert str(caught.value.why).startswith(told), caught.value
    assert "head.classifier.weight is (7, 2), not (7, 256, 1, 1)" in str(caught.value.why)


def assert_damage_is_named(name: str, keys: list[str]) -> None:
    state = state_of(name)
    for key in keys:
        without = {other: state[other] for other in state if other != key}
        for damaged in (without, {**state, key: torch.zeros(2)}, {**state, key: torch.tensor(1)}):
            with pytest.raises(ZooError) as caught:
                tsz.model_from_state_dict(damaged)
            assert isinstance(caught.value, CheckpointFormatError), caught.value


@pytest.mark.parametrize("name", FOREIGN)
def test_damaged_foreign_states_raise_nothing_else(name: str) -> None:
    """Without a tensor that the configuration is read off, or with it misshaped."""
    keys = [key for key in state_of(name) if key.endswith("weight")]
    assert_damage_is_named(name, [keys[0], keys[-1]])


@pytest.mark.soak
@pytest.mark.parametrize("name", FOREIGN)
def test_every_damaged_foreign_state_raises_nothing_else(name: str) -> None:
    keys = [key for key in state_of(name) if key.endswith("weight")]
    assert_damage_is_named(name, keys)


@pytest.mark.soak
@pytest.mark.parametrize("name", list_models())
def test_every_models_state_is_named(name: str, target: SegmentationModel) -> None:
    test_another_models_state_is_named(name, target)


def test_a_saved_file_that_lost_a_tensor_says_what_it_is(tmp_path: Path) -> None:
    from torchseg_zoo.models.checkpoint import describe_model
    from torchseg_zoo.weights.save import write_tensors

    model = tsz.bisenet_x39(num_classes=5)
    state = model.state_dict()
    del state["head.classifier.weight"]
    path = tmp_path / "m.safetensors"
    write_tensors(path, state, describe_model(model))
    with pytest.raises(CheckpointFormatError) as caught:
        tsz.load_model(path)
    assert caught.value.where == str(path)
    assert caught.value.why == "it is for bisenet_x39, 5 classes; 1 missing: head.classifier.weight"


@every_family
def test_another_familys_folder_is_refused(name: str, tmp_path: Path) -> None:
    model = create_model(name, backbone=TINY, num_classes=3)
    model.save_pretrained(tmp_path)
    other = tsz.SegmentationModel.from_pretrained(tmp_path)
    assert type(other) is type(model)
    wrong = type(on_meta("fcn_r18" if "bisenet" in name else "bisenet_r18"))
    if wrong is type(model):
        wrong = type(on_meta("pspnet_r18"))
    with pytest.raises(CheckpointFormatError, match=f"is a {type(model).__name__}, not a "):
        wrong.from_pretrained(tmp_path)
