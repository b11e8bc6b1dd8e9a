"""Inference modes as records: to JSON and back, defaults, and those that cannot work."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from fake_networks import Fake, strided
from pictures import photo

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.inference.modes import (
    Mode,
    MultiScaleFlip,
    Sliding,
    Whole,
    default_mode,
    mode_from_dict,
)
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.models.base import InputRule


@pytest.mark.parametrize(
    "mode",
    [
        Whole(),
        Whole((32, 64), "torchseg"),
        Sliding((769, 769), (513, 513), "logit-mean"),
        MultiScaleFlip(),
        MultiScaleFlip((0.5, 1), False, Sliding.at_rate((5, 7)), "probability-mean"),
        MultiScaleFlip((0.5, 1), True, Sliding((4, 4), (2, 2), "logit-mean")),
    ],
)
def test_modes_go_to_json_and_back(mode: Mode) -> None:
    assert mode_from_dict(json.loads(json.dumps(mode.to_dict()))) == mode
    assert len({mode, mode_from_dict(mode.to_dict())}) == 1


def test_stride_rates_are_rounded_up() -> None:
    assert Sliding.at_rate((713, 48), 2 / 3).stride == (math.ceil(713 * 2 / 3), 32)


def test_fixed_models_slide_unless_told_otherwise() -> None:
    assert default_mode(InputRule(fixed=(48, 96))) == Sliding((48, 96), (32, 64))
    assert default_mode(InputRule(multiple=32)) == default_mode(InputRule()) == Whole()


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sliding((4, 4), (4, 5)), "stride 4×5 is larger than the window 4×4"),
        (lambda: Sliding((0, 4), (1, 1)), r"window: \(0, 4\) is no size"),
        (lambda: Sliding((4, 4), (0, 1)), "stride: "),
        (lambda: Sliding((4, 4, 4), (1, 1)), "window: "),
        (lambda: Sliding((4.0, 4), (1, 1)), "window: "),
        (lambda: Sliding(4, (1, 1)), "window: 4 is no size"),
        (lambda: Sliding((True, 4), (1, 1)), "window: "),
        (lambda: Sliding("44", (1, 1)), "window: "),
        (
            lambda: Sliding((4, 4), (2, 2), "mean"),
            "no merge rule 'mean'; known are torchseg, logit",
        ),
        (lambda: Sliding.at_rate((4, 4), 0), "rate: 0 is no stride rate"),
        (lambda: Sliding.at_rate((4, 4), 1.5), "rate: "),
        (lambda: Whole((3, -1)), "pad_to: "),
        (lambda: Whole(merge="sum"), "merge: "),
        (lambda: MultiScaleFlip(()), r"scales: \(\) are no scales"),
        (lambda: MultiScaleFlip((1, 0)), "scales: "),
        (lambda: MultiScaleFlip((-0.5,)), "scales: "),
        (lambda: MultiScaleFlip((math.nan,)), "scales: "),
        (lambda: MultiScaleFlip((math.inf,)), "scales: "),
        (lambda: MultiScaleFlip(1.0), "scales: "),
        (lambda: MultiScaleFlip(("1",)), "scales: "),
        (lambda: MultiScaleFlip((1,), 1), "flip: "),
        (lambda: MultiScaleFlip(inner=MultiScaleFlip()), "inner: "),
        (lambda: MultiScaleFlip(inner=Whole(), merge="torchseg"), "merge: views are merged by"),
        (lambda: MultiScaleFlip(inner=Whole(), merge="logit-mean"), "give both the same"),
        (lambda: mode_from_dict({"mode": "partial"}), "no mode 'partial'; known are whole"),
        (lambda: mode_from_dict({}), "no mode None"),
        (lambda: mode_from_dict({"mode": "whole", "window": [1, 1]}), "Whole has no field window"),
        (lambda: mode_from_dict({"mode": "sliding"}), "Sliding lacks stride and window"),
    ],
)
def test_modes_that_cannot_work(make: Callable[[], Mode], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "mode", "message"),
    [
        (InputRule(multiple=32), Sliding((64, 50), (9, 9)), "window is 64×50 .* divisible by 32"),
        (InputRule(multiple=32), Whole((64, 50)), "pad_to is 64×50 .* give 64×64"),
        (InputRule(fixed=(64, 64)), Sliding((32, 32), (9, 9)), "takes 64×64 only; give 64×64"),
        (
            InputRule(multiple=32),
            MultiScaleFlip(inner=Sliding((50, 64), (9, 9))),
            "window is 50×64",
        ),
        (InputRule(), "whole", "'whole' is no inference mode"),
    ],
)
def test_modes_that_do_not_suit_the_model(rule: InputRule, mode: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        label(Fake(strided, rule=rule), photo(), mode)
