"""``training.recipes``: the numbers of the published runs, and what a run would do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import torchseg_zoo as tsz
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.plan import make_plan, saved_bytes
from torchseg_zoo.training.recipes import RECIPES, check_data_given, describe_recipe, recipe
from torchseg_zoo.training.samples import EpochBatches, epoch_order
from torchseg_zoo.training.scoring import evaluation_mode
from torchseg_zoo.training.toml import read_settings, write_settings

A = (0.75, 1, 1.25, 1.5, 1.75, 2)
B = (0.5, 0.75, 1, 1.25, 1.5, 1.75)
C = (0.5, 0.75, 1, 1.5, 1.75, 2)
# TorchSeg's configuration files, a line for each run: classes, crop, label stride, scales, batch,
# epochs, steps per epoch, rate, head's factor, decay, criterion, auxiliary weight, seed, parameters
# of the network in training.
TORCHSEG = """
bisenet_r18.cityscapes       19 1024 1024 1 A 16  80 1000 1e-2 10 5e-4 ohem 1   12345 13494777
bisenet_r18_speed.cityscapes 19  768 1536 8 A 16  80 1000 1e-2 10 5e-4 ohem 1   12345 13194489
bisenet_r101.cityscapes      19 1024 1024 1 A 16  80 1000 1e-2 10 5e-4 ohem 1   12345 48239417
bisenet_x39.cityscapes       19 1024 1024 1 A 16 140 1000 1e-2 10 5e-4 ohem 1   12345  1842289
bisenet_x39_speed.cityscapes 19  768 1536 8 B 16 140 1000 1e-2 10 5e-4 ohem 1   12345  1842289
dfn_r101.voc                 21  512  512 1 C 32 120  330 8e-4 10 1e-5 ce   1   12345 90724344
dfn_r101.cityscapes          19  800  800 1 C 16  80 1000 7e-4 10 1e-4 ce   1   12345 90217888
dfn_r101.cityscapes.ohem     19  800  800 1 C 16  80 1000 7e-4 10 1e-4 ohem 1   12345 90217888
fcn32s_r101.voc              21  512  512 1 C 32  60  330 1e-2  1 1e-4 ce   0.5   304 54438122
pspnet_r50.ade20k           150  480  480 1 C 16 120 1263 1e-2 10 1e-4 ce   0.4   304 56375532
pspnet_r101.ade20k          150  480  480 1 C 16 120 1263 1e-2 10 1e-4 ce   0.4   304 75367660
psanet_r50.ade20k           150  480  480 1 C 16 120 1263 1e-2 10 1e-4 ce   0.4   304 60590316
psanet_r101.ade20k          150  480  480 1 C 16 120 1263 1e-2 10 1e-4 ce   0.4   304 79582444
"""
ROWS = [line.split() for line in TORCHSEG.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_torchsegs_numbers(row: list[str]) -> None:
    name, *numbers = row
    classes, height, width, stride, scales, batch, epochs, steps, *rest = numbers
    lr, factor, decay, criterion, aux, seed, parameters = rest
    config, plan = recipe(name), make_plan(recipe(name), processes=4)
    assert config.crop == (int(height), int(width))
    assert config.label_stride == int(stride)
    assert config.scales == {"A": A, "B": B, "C": C}[scales]
    assert not config.continuous_scale and config.mirror and config.brightness == 0
    assert (config.batch_size, config.epochs) == (int(batch), int(epochs))
    assert plan.steps_per_epoch == config.steps_per_epoch == int(steps)
    assert (config.lr, config.head_lr_multiplier) == (float(lr), float(factor))
    assert (config.weight_decay, config.momentum, config.poly_power) == (float(decay), 0.9, 0.9)
    assert (config.optimizer, config.warmup_steps, config.clip_norm) == ("sgd", 0, 0)
    assert (config.criterion, config.aux_weight) == (criterion, float(aux))
    assert config.border_weight == (0.1 if name.startswith("dfn") else 0)
    assert config.pretrained_backbone == ("x39" not in name)
    assert config.seed == int(seed) and config.sync_bn and config.ohem_scope == "process"
    assert plan.num_classes == int(classes)
    assert plan.parameters == int(parameters)
    text = plan.describe()
    total = int(epochs) * int(steps)
    assert f"{epochs} epochs × {steps} = {total} steps of {batch} samples" in text
    assert f"of {height}×{width} on 4 processes" in text
    assert "batch norm over all processes" in text
    kept = {"1024": 262_144, "768": 4608, "800": 100_000}[height] if criterion == "ohem" else 0
    assert (f"at least {kept} pixels of each process" in text) == bool(kept)
    base = float(lr) * (4 if name.startswith("fcn") else 1)
    for group in plan.groups:
        fast = group["name"] != "backbone"
        if "x39" in name:
            fast = group["name"] in ("head", "aux_heads", "ffm")
        assert group["lr"] == pytest.approx(base * (float(factor) if fast else 1))
        assert group["weight_decay"] in (0, float(decay))
    assert sum(group["elements"] for group in plan.groups) == plan.parameters


@pytest.mark.parametrize(
    ("name", "window", "stride"),
    [
        ("bisenet_r18.cityscapes", 1024, 854), ("bisenet_x39.cityscapes", 1024, 854),
        ("dfn_r101.voc", 512, 342), ("dfn_r101.cityscapes", 800, 534),
        ("fcn32s_r101.voc", 512, 342), ("psanet_r50.ade20k", 480, 320),
    ],
)  # fmt: skip
def test_torchsegs_evaluation(name: str, window: int, stride: int) -> None:
    mode = evaluation_mode(recipe(name))
    assert mode is not None
    assert mode.to_dict() == {
        "mode": "sliding", "window": [window] * 2, "stride": [stride] * 2, "merge": "torchseg",
    }  # fmt: skip
    speed = recipe("bisenet_r18_speed.cityscapes")
    assert evaluation_mode(speed) is None
    assert (speed.eval_size, speed.eval_label_size) == ((768, 1536), (96, 192))


@pytest.mark.parametrize(
    ("name", "steps", "batch", "side", "lr", "decay"),
    [
        ("deeplabv3_r101.voc", 30_000, 16, 513, 7e-3, 1e-4),
        ("deeplabv3plus_r101.voc", 50 * 661, 16, 513, 7e-3, 5e-4),
        ("denseaspp_d161.cityscapes", 80 * 371, 8, 512, 3e-4, 1e-5),
        ("encnet_r50.ade20k", 120 * 1263, 16, 480, 1e-2, 1e-4),
        ("encnet_r101.ade20k", 120 * 1263, 16, 576, 1e-2, 1e-4),
        ("ocnet_base_r101.cityscapes", 40_000, 8, 769, 1e-2, 5e-4),
        ("ocnet_pyramid_r101.cityscapes", 40_000, 8, 769, 1e-2, 5e-4),
        ("ocnet_asp_r101.cityscapes.ohem", 40_000, 8, 769, 1e-2, 5e-4),
    ],
)
def test_the_papers_numbers(
    name: str, steps: int, batch: int, side: int, lr: float, decay: float
) -> None:
    config = recipe(name)
    assert config.steps_per_epoch is not None
    assert config.epochs * config.steps_per_epoch == steps
    assert (config.batch_size, config.crop) == (batch, (side, side))
    assert (config.lr, config.weight_decay, config.poly_power) == (lr, decay, 0.9)
    assert min(config.scales) == 0.5 and max(config.scales) == (2.1 if "ocnet" in name else 2.0)
    assert config.pretrained_backbone


def test_every_recipe_says_whether_it_was_run_and_none_claims_what_it_was_not() -> None:
    for name in RECIPES:
        first, *rest = describe_recipe(name).splitlines()
        assert rest, name
        expected = "configured as published; not trained here"
        if name.startswith("bisenet_x39.camvid"):
            expected = "trained here"
        assert first == f"{name}: {expected}"
        model = RECIPES[name]().model
        assert name.startswith(f"{model}.") and model in tsz.list_models()


def test_a_path_takes_the_recipes_data_set() -> None:
    name = "bisenet_r18.cityscapes"
    config = recipe(name, data="/city", val_data="voc:/other", lr=0.005)
    assert (config.data, config.val_data, config.lr) == ("cityscapes:/city", "voc:/other", 0.005)
    assert recipe(name, data="drawn").data == "drawn"
    assert recipe(name, data="folder:/mine").data == "folder:/mine"
    assert recipe(None, data="/mine").data == "/mine"
    check_data_given(config)
    with pytest.raises(ArgumentError, match="needs to know where that is; give its folder: data="):
        check_data_given(recipe(name))


# Length of an epoch


def test_an_epoch_of_a_given_length_repeats_the_data_evenly() -> None:
    order = epoch_order(10, 0, 0.0, seed=3, epoch=1, length=34)
    assert [key[1] for key in order] == list(range(34))
    counts = torch.bincount(torch.tensor([key[3] for key in order]), minlength=10)
    assert counts.min() == 3 and counts.max() == 4
    assert order == epoch_order(10, 0, 0.0, seed=3, epoch=1, length=34)
    assert order != epoch_order(10, 0, 0.0, seed=3, epoch=2, length=34)
    mixed = epoch_order(10, 4, 0.25, seed=3, epoch=1, length=40)
    assert len(mixed) == 40 and sum(key[2] for key in mixed) == 10
    short = epoch_order(10, 0, 0.0, seed=3, epoch=1, length=4)
    assert len({key[3] for key in short}) == len(short) == 4


def test_batches_make_the_asked_for_steps() -> None:
    config = TrainConfig(batch_size=4, steps_per_epoch=7)
    batches = EpochBatches(10, 0, config)
    assert len(batches) == len(list(batches)) == 7
    assert all(len(batch) == 4 for batch in batches)


# Memory


def test_what_a_plan_says_is_kept_is_what_a_step_keeps() -> None:
    kept: dict[int, tuple[torch.Tensor, int]] = {}
    model = tsz.bisenet_x39(num_classes=5).train()
    own = {value.untyped_storage().data_ptr() for value in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(torch.zeros(3, 3, 64, 96), with_aux=True, upsample=False)
    real = sum(size for _, size in kept.values())
    del output
    with torch.device("meta"):
        planned = tsz.bisenet_x39(num_classes=5)
    assert saved_bytes(planned, 3, (64, 96)) == pytest.approx(real, rel=0.02)
    assert saved_bytes(planned, 1, (64, 96)) == pytest.approx(real / 3, rel=0.02)


# Files of settings


@pytest.mark.parametrize("name", RECIPES)
def test_settings_survive_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.toml"
    config = dataclasses.replace(recipe(name), root='a "b" \\c\tü\x7f', val_data="x")
    write_settings(path, config.to_dict(), comment=describe_recipe(name))
    assert path.read_text().startswith(f"# {name}: ")
    assert recipe(None, **read_settings(path)) == config


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"epoch = 3", ArgumentError, "unknown settings: epoch; did you mean epochs"),
        (b"epochs = \nlr = 1", ArgumentError, r"run\.toml: is not a TOML file .*line 1"),
        (b"\xff\xfe", ArgumentError, r"run\.toml: is not a TOML file"),
        (b"[model]\nname = 'x'", ArgumentError, r"run\.toml: has a table \[model\]"),
        (b"epochs = 2024-01-01", ArgumentError, "epochs is datetime.date"),
        (b"lr = nan", ArgumentError, "lr is nan"),
        (None, DataError, r"run\.toml: no such file"),
    ],
)
def test_files_of_settings_that_cannot_be_used(
    tmp_path: Path, content: bytes | None, error: type, match: str
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=match) as caught:
        recipe(None, **read_settings(path))
    assert caught.value.fix


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"output_stride": 12}, "8, 16 or 32"),
        ({"border_weight": 0.1, "label_stride": 8}, "labels at full size"),
        ({"pretrained_backbone": True, "backbone_weights": "x"}, "exclude each other"),
        ({"mirror": "no"}, "must be True or False"),
        ({"steps_per_epoch": 0}, "at least 1"),
        ({"ohem_threshold": 2}, r"in \[0, 1\]"),
        ({"label_smoothing": 1.0}, r"in \[0, 1\)"),
        ({"eval_stride_rate": 0}, "above 0"),
        ({"init_fan": "both"}, "'fan_in' or 'fan_out'"),
        ({"batch_size": True}, "at least 1"),
    ],
    ids=str,
)
def test_new_settings_are_checked(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        TrainConfig(**changes)
