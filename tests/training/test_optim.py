"""``training.optim``: the poly schedule of every recipe, and which parameter is in which group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden.reading import record_of
from torch import nn

import torchseg_zoo as tsz
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.optim import learning_rate, make_optimizer, parameter_groups

GOLDEN = record_of("torchseg/losses_metrics")


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(num_classes=4)


@pytest.mark.parametrize("case", GOLDEN["poly"], ids=lambda case: case["name"])
def test_the_schedule_is_the_originals(case: dict[str, Any]) -> None:
    for step, rate in case["lr"].items():
        ours = learning_rate(case["base_lr"], int(step), case["total"], power=case["power"])
        assert ours == pytest.approx(rate, rel=1e-12, abs=0)


def test_warm_up_rises_in_equal_steps_to_the_schedule() -> None:
    rates = [learning_rate(1.0, step, 100, power=0.0, warmup_steps=4) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    late = learning_rate(0.1, 50, 100, power=2.0, warmup_steps=4)
    assert late == pytest.approx(0.1 * 0.25)


def test_every_parameter_is_in_one_group_and_only_weights_decay(model: SegmentationModel) -> None:
    groups = parameter_groups(model, lr=0.1, weight_decay=0.5, head_lr_multiplier=10)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_kernel = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            assert (id(parameter) in decayed) == is_kernel
    for group in groups:
        assert group["weight_decay"] in (0.0, 0.5)
        assert group["lr"] == group["base_lr"] == (0.1 if group["name"] == "backbone" else 1.0)


def test_the_modules_with_the_higher_rate_can_be_named(model: SegmentationModel) -> None:
    groups = parameter_groups(
        model, lr=0.1, weight_decay=0, head_lr_multiplier=10, head_modules=("head",)
    )
    fast = {group["name"] for group in groups if group["lr"] == 1.0}
    assert fast == {"head"}
    with pytest.raises(ArgumentError, match="no module hed; BiSeNet has backbone, spatial_path"):
        parameter_groups(model, lr=0.1, weight_decay=0, head_modules=("head", "hed"))


def test_frozen_parameters_are_left_out() -> None:
    model = tsz.bisenet_x39(num_classes=4)
    model.backbone.requires_grad_(False)
    names = {group["name"] for group in parameter_groups(model, lr=0.1, weight_decay=0)}
    assert "backbone" not in names and "ffm" in names


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_one_asked_for(
    model: SegmentationModel, name: Any, kind: type
) -> None:
    config = TrainConfig(optimizer=name, lr=0.02, weight_decay=0.3, head_lr_multiplier=3)
    optimizer = make_optimizer(model, config)
    assert type(optimizer) is kind
    rates = {group["name"]: group["base_lr"] for group in optimizer.param_groups}
    assert rates["backbone"] == 0.02 and rates["head"] == pytest.approx(0.06)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}
    if name == "sgd":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}
