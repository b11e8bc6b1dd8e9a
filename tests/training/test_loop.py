"""``training.loop``: a run, its continuation, and everything that must stop it."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photo
from PIL import Image
from torch import nn

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.sample import Sample
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.training import loop
from torchseg_zoo.training.build import class_weights
from torchseg_zoo.training.config import TrainConfig, parse_settings
from torchseg_zoo.training.loop import TrainResult, train
from torchseg_zoo.training.network import build_network
from torchseg_zoo.training.recipes import RECIPES, recipe
from torchseg_zoo.training.step import update_average

TRAIN = DrawnStreets(4, seed=11, size=(48, 64))
VAL = DrawnStreets(2, seed=12, size=(48, 64))


def settings(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "model": "bisenet_x39", "out": str(out), "epochs": 4, "batch_size": 2,
            "crop": (32, 48), "early_crop": (32, 32), "ema": 0.9, "lr": 2e-3, "seed": 3,
            "label_stride": 8, "warmup_steps": 3, "device": "cpu", **changes,
        }
    )  # fmt: skip


def run(config: TrainConfig, **options: Any) -> TrainResult:
    return train(config, **{"train_set": TRAIN, "val_set": VAL, "progress": False, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    return run(settings(tmp_path_factory.mktemp("whole")))


# A run


def test_a_run_leaves_log_best_and_state(whole: TrainResult) -> None:
    with whole.log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert tuple(rows[0]) == loop.LOG_FIELDS
    scores = [float(row["miou_percent"]) for row in rows]
    assert max(scores) == pytest.approx(whole.miou_percent, abs=1e-3)
    assert scores.index(max(scores)) + 1 == whole.epoch
    assert sorted(path.name for path in whole.best.parent.iterdir()) == [
        "best.safetensors", "curve.png", "last.safetensors", "log.csv", "previous.safetensors",
        "samples",
    ]  # fmt: skip


def test_the_best_checkpoint_rebuilds_the_model_that_was_scored(whole: TrainResult) -> None:
    model = tsz.load_model(whole.best)
    assert model.labels == CAMVID and model.num_classes == 11 and not model.training
    assert evaluate(model, VAL, progress=False).miou_percent == whole.miou_percent


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    result = run(settings(tmp_path, epochs=12, eval_every=12, early_crop=None, warmup_steps=0))
    with result.log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert [bool(row["miou_percent"]) for row in rows] == [False] * 11 + [True]


# What stops a run


def test_an_occupied_folder_is_not_overwritten(whole: TrainResult) -> None:
    before = whole.last.read_bytes()
    with pytest.raises(ArgumentError, match=r"there is a run in this folder already.*--resume"):
        run(settings(whole.last.parent))
    assert whole.last.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/run: cannot create the folder"):
        run(settings(tmp_path / "file" / "run"))


class Labelled:
    """Blank samples of a chosen label set."""

    def __init__(self, labels: LabelSet, length: int = 4, value: int = 0) -> None:
        self.labels, self.length, self.value = labels, length, value

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        label = np.full((32, 32), self.value, np.uint8)
        return Sample(f"blank {index}", np.zeros((32, 32, 3), np.uint8), label)


SWAPPED = dataclasses.replace(
    CAMVID, classes=(CAMVID.classes[1], CAMVID.classes[0], *CAMVID.classes[2:])
)


@pytest.mark.parametrize(
    ("options", "changes", "match"),
    [
        ({"train_set": Labelled(CAMVID, 0)}, {}, "training set is empty"),
        ({"val_set": Labelled(CAMVID, 0)}, {}, "validation set is empty"),
        ({"val_set": Labelled(generic_labels(3))}, {}, "validation set has 3 classes, .* set 11"),
        (
            {"val_set": Labelled(SWAPPED)},
            {},
            "class 0 is 'building' in the val",
        ),
        ({}, {"num_classes": 12}, r"num_classes is 12, but the training set has 11 \(camvid\)"),
        ({}, {"batch_size": 5}, "4 training samples do not fill one batch of 5"),
        ({"val_set": Labelled(dataclasses.replace(CAMVID, ignore_index=99))}, {}, "ignores 99"),
        ({"val_set": Labelled(CAMVID, value=255)}, {"epochs": 1}, "no pixel .* has a class"),
    ],
)
def test_data_that_do_not_fit(
    tmp_path: Path, options: dict[str, Any], changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(DataError, match=match) as caught:
        run(settings(tmp_path, **changes), **options)
    assert caught.value.fix


def list_file(root: Path, values: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for index in range(2):
        Image.fromarray(photo(32, 40, index)).save(root / f"{index}.png")
        label = rng.integers(0, values, (32, 40)).astype(np.uint8)
        Image.fromarray(label).save(root / f"{index}_label.png")
    path = root / "list.txt"
    path.write_text("0.png\t0_label.png\n1.png\t1_label.png\n")
    return path


def test_a_list_file_needs_a_class_count_and_its_own_validation_list(tmp_path: Path) -> None:
    data = str(list_file(tmp_path))
    config = settings(tmp_path / "run", data=data, epochs=1, ema=0.0)
    with pytest.raises(ArgumentError, match="how many classes"):
        train(config, progress=False)
    config = dataclasses.replace(config, num_classes=3)
    with pytest.raises(ArgumentError, match="--val-data"):
        train(config, progress=False)
    result = train(dataclasses.replace(config, val_data=data), progress=False)
    assert tsz.load_model(result.best).num_classes == 3


def test_a_bad_label_in_a_list_stops_the_run_by_name(tmp_path: Path) -> None:
    data = str(list_file(tmp_path, values=9))
    config = settings(tmp_path / "run", data=data, val_data=data, num_classes=3)
    with pytest.raises(
        DataError, match=r"_label\.png: pixel \(\d+, \d+\) = \d, allowed 0–2 or 255"
    ):
        train(config, progress=False)


# Parts of the loop


def test_the_average_follows_slowly_and_copies_counters() -> None:
    averaged, model = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    model.weight.data.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    update_average(averaged, model, 0.5, step=10_000)
    assert averaged.weight.item() == 2.0  # 0.5 · 1 + 0.5 · 3
    assert averaged.num_batches_tracked.item() == 7
    update_average(averaged, model, 0.999, step=0)
    assert averaged.weight.item() == pytest.approx(0.1 * 2 + 0.9 * 3)  # the memory starts short


def test_balanced_weights_are_those_of_the_class_shares() -> None:
    class Quarter(Labelled):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            assert sample.label is not None
            sample.label[:8] = 1
            sample.label[-1] = 255
            return sample

    config = TrainConfig(class_weights="balanced")
    weight = class_weights(config, Quarter(generic_labels(2)))
    assert weight is not None
    share = np.array([23, 8]) / 31
    assert (weight.double().numpy() * share).sum() == pytest.approx(1, rel=1e-6)
    assert (weight[1] / weight[0]).item() == pytest.approx(math.sqrt(23 / 8), rel=1e-6)


def test_class_weights_by_hand_must_name_every_class() -> None:
    fixed = TrainConfig(class_weights=(1.0, 2.0))
    weight = class_weights(fixed, Labelled(generic_labels(2)))
    assert weight is not None and weight.tolist() == [1, 2]
    with pytest.raises(ArgumentError, match="2 class weights for 3 classes"):
        class_weights(fixed, Labelled(generic_labels(3)))


# Settings


def test_settings_survive_their_record() -> None:
    for build in RECIPES.values():
        config = build()
        assert TrainConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ArgumentError, match=r"unknown settings: epoch, .*did you mean epochs"):
        TrainConfig.from_dict({"epoch": 1, "x": 2})


def test_settings_are_read_as_people_type_them() -> None:
    texts = ["lr=0.01", "crop=256,128", "mix=drawn", "ema = 0", "head_modules=head,ffm", "root=a=b"]
    assert parse_settings([*texts, "cache=True", "early_crop=None", "class_weights=balanced"]) == {
        "lr": 0.01, "crop": (256, 128), "mix": "drawn", "ema": 0, "head_modules": ("head", "ffm"),
        "root": "a=b", "cache": True, "early_crop": None, "class_weights": "balanced",
    }  # fmt: skip
    assert parse_settings(["head_modules=head,"]) == {"head_modules": ("head",)}
    with pytest.raises(ArgumentError, match="'lr' is not NAME=VALUE"):
        parse_settings(["lr"])


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0}, {"epochs": 1.5}, {"batch_size": 0}, {"lr": 0.0}, {"lr": math.nan},
        {"lr": math.inf}, {"lr": "fast"}, {"crop": 256}, {"crop": (256, 0)}, {"scales": ()},
        {"scales": (0.0,)}, {"mix_share": 1.0}, {"ema": 1.0}, {"brightness": -0.1},
        {"optimizer": "lion"}, {"criterion": "hinge"}, {"class_weights": "equal"},
        {"mix": "drawn"}, {"mix_share": 0.2}, {"num_classes": 0}, {"num_classes": 300},
        {"head_modules": "head"}, {"seed": -1}, {"label_stride": 0}, {"workers": -1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        TrainConfig(**changes)
    assert next(iter(changes)) in str(caught.value)
    assert caught.value.fix


def test_recipes_are_found_and_changed() -> None:
    config = recipe("bisenet_x39.camvid", epochs=3, crop=[64, 64])
    assert (config.model, config.epochs, config.crop) == ("bisenet_x39", 3, (64, 64))
    assert recipe() == TrainConfig()
    with pytest.raises(
        ArgumentError, match=r"no recipe 'bisenet_x39\.camvd'; did you mean bisenet_x"
    ):
        recipe("bisenet_x39.camvd")
    with pytest.raises(ArgumentError, match="unknown settings: name"):
        recipe(None, name="x")


def test_a_run_starts_from_a_checkpoint_of_ones_own(tmp_path: Path, whole: TrainResult) -> None:
    config = settings(tmp_path / "run", epochs=1, lr=1e-9, ema=0.0, checkpoint=str(whole.best))
    result = run(config)
    before, after = tsz.load_model(whole.best), tsz.load_model(result.best)
    for name, weight in before.named_parameters():
        torch.testing.assert_close(after.get_parameter(name), weight, rtol=0, atol=1e-6)
    other = build_network(config, 5)
    assert other.num_classes == 5
    assert torch.equal(
        other.backbone.state_dict()["body.conv1.conv.weight"],
        before.backbone.state_dict()["body.conv1.conv.weight"],
    )
    with pytest.raises(ArgumentError, match="holds a bisenet_x39, and the run is of bisenet_r18"):
        build_network(dataclasses.replace(config, model="bisenet_r18"), 5)
    with pytest.raises(ArgumentError, match="checkpoint and backbone exclude each other"):
        dataclasses.replace(config, backbone="resnet18")
    with pytest.raises(ArgumentError, match=r"checkpoint and the tag of bisenet_x39\.camvid"):
        dataclasses.replace(config, model="bisenet_x39.camvid")
