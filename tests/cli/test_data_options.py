"""``--data``, ``--classes``, ``-m`` and ``-c``: the same words do the same for every verb."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Call, assert_failed
from pictures import photo
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, DataError
from torchseg_zoo.training.recipes import recipe

RAW = (7, 8, 11)  # what the label files hold for classes 0, 1 and 2


@pytest.fixture
def data(tmp_path: Path, checkpoint: Path) -> Path:
    """Two pictures in each split whose label values are not class indices; nothing says so.

    The model is right about most of their pixels.
    """
    folder, model = tmp_path / "data", tsz.load_model(checkpoint)
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        for index in range(2):
            picture = photo(32, 40, index)
            Image.fromarray(picture).save(folder / split / "images" / f"{index}.png")
            rng = np.random.default_rng(index)
            right = rng.random((32, 40)) < 0.8
            label = np.where(
                right, tsz.predict(model, picture).labels, rng.integers(0, 3, (32, 40))
            )
            Image.fromarray(np.array(RAW, np.uint8)[label]).save(
                folder / split / "labels" / f"{index}.png"
            )
    return folder


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    labels = dataclasses.replace(
        generic_labels(3), raw_ids={raw: index for index, raw in enumerate(RAW)}
    )
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(labels.to_dict()))
    return path


def test_evaluate_takes_a_classes_file_and_replays_with_it(
    call: Call, data: Path, classes: Path, checkpoint: Path
) -> None:
    without = call("evaluate", "-c", checkpoint, "--data", data)
    assert without.code == DataError.exit_code and "labels/0.png" in without.err
    done = call("evaluate", "-c", checkpoint, "--data", data, "--classes", classes, "-o", "out")
    assert done.code == 0
    # The same files with the mapping beside them have the same score.
    beside = data / "classes.json"
    beside.write_bytes(classes.read_bytes())
    again = call("evaluate", "-c", checkpoint, "--data", data)
    assert again.out.splitlines()[:5] == done.out.splitlines()[:5]
    beside.unlink()
    assert call("evaluate", "--replay", "out/card.json").code == 0
    moved = classes.rename(classes.with_name("moved.json"))
    gone = call("evaluate", "--replay", "out/card.json")
    assert gone.code == DataError.exit_code and f"{classes}: no such file" in gone.err
    assert call("evaluate", "--replay", "out/card.json", "--classes", moved).code == 0


def test_calibrate_takes_a_classes_file(
    call: Call, data: Path, classes: Path, checkpoint: Path
) -> None:
    done = call("calibrate", "-c", checkpoint, "--data", data, "--classes", classes)
    assert done.code == 0 and "temperature" in done.out


def test_train_and_check_data_take_a_number_or_a_file(
    call: Call, data: Path, classes: Path
) -> None:
    for number in ("3", "300"):
        checked = call("check-data", "--data", data, "--classes", number, "--workers", "1")
        trained = call(
            "train", "--data", data, "--classes", number, "--batch-size", "2", "--dry-run"
        )
        if number == "3":
            assert "7" in checked.out and checked.code == DataError.exit_code
            assert trained.code == 0 and "num_classes = 3\n" in trained.out
        else:
            assert {checked.code, trained.code} == {ArgumentError.exit_code}
    checked = call("check-data", "--data", data, "--classes", classes, "--workers", "1")
    assert checked.code in (0, 1), checked.out
    words = ("train", "--data", data, "--classes", classes, "--dry-run")
    trained = call(*words, "--batch-size", "2")
    assert trained.code == 0 and f'classes = "{classes}"\n' in trained.out
    assert "bisenet_x39, 3 classes" in trained.out and "40 epochs × 1 = 40 steps" in trained.out
    few = call(*words, "--batch-size", "3")
    assert few.code == DataError.exit_code and "do not fill one batch of 3" in few.err


def test_what_is_missing_is_said_in_the_same_words(call: Call, data: Path) -> None:
    told = {
        call(*words, "--data", data).err.partition(": files do")[2]
        for words in (("check-data",), ("train", "--no-check", "--out", "run"))
    }
    assert len(told) == 1 and "(--classes K|FILE)" in told.pop()


def test_train_starts_from_a_file_of_ones_own(call: Call, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = tmp_path / "other.safetensors"
    tsz.save_model(tsz.bisenet_r18(num_classes=3), other)
    words = (
        "train",
        "-c",
        other,
        "--data",
        data,
        "--classes",
        "3",
        "--batch-size",
        "2",
        "--dry-run",
    )
    done = call(*words)
    assert done.code == 0, done.err
    assert 'model = "bisenet_r18"\n' in done.out and f'checkpoint = "{other}"\n' in done.out
    assert call(*words, "-m", "bisenet_r18").out == done.out
    run = ("--no-check", "--out", "run")
    wrong = call(*words[:-1], *run, "-m", "bisenet_x39")
    assert wrong.code == ArgumentError.exit_code
    assert "holds a bisenet_r18, and the run is of bisenet_x39" in wrong.err
    tagged = call(*words, "-m", "bisenet_x39.camvid")
    assert tagged.code == ArgumentError.exit_code and "exclude each other" in tagged.err


def test_a_recipe_takes_its_network_from_the_file() -> None:
    plain = recipe("deeplabv3_r101.voc")
    assert plain.pretrained_backbone and plain.checkpoint is None
    started = recipe("deeplabv3_r101.voc", checkpoint="mine.safetensors")
    assert not started.pretrained_backbone and started.output_stride is None
    assert started.lr == plain.lr and started.crop == plain.crop
    with pytest.raises(ArgumentError, match="checkpoint and backbone exclude each other"):
        recipe("deeplabv3_r101.voc", checkpoint="mine.safetensors", backbone="resnet18")


def test_a_file_of_no_known_project_is_named(call: Call, data: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    done = call("predict", data / "val" / "images" / "0.png", "-c", "other.pth")
    assert_failed(done, CheckpointFormatError, "other.pth: no known layout has these names (a)")


def test_a_result_that_cannot_be_written_is_refused_before_the_work(
    call: Call, data: Path, checkpoint: Path
) -> None:
    (data / "file").write_text("")
    bad = data / "file" / "result"
    for words in (
        ("evaluate", "-c", checkpoint, "--data", "drawn", "--save-json", bad),
        ("calibrate", "-c", checkpoint, "--data", "drawn", "-o", bad),
        ("check-data", "--data", "drawn", "--save-json", bad),
        ("benchmark", checkpoint, "--save-json", bad),
    ):
        done = call(*words)
        assert_failed(done, DataError, f"{bad}: cannot be written", "part of the path is a file")
        assert "evaluate:" not in done.err, "pictures were scored before"
