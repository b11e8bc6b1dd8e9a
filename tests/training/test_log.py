"""``training.log``: what a run leaves to look at, and when it ends early."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.errors import ArgumentError, DataError, MissingExtraError
from torchseg_zoo.inference.render import overlay
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.curve import draw_curve
from torchseg_zoo.training.log import RunLog
from torchseg_zoo.training.loop import train

TRAIN = DrawnStreets(2, seed=11, size=(48, 64))
VAL = DrawnStreets(6, seed=12, size=(48, 64))


def settings(out: Path, **changes: Any) -> TrainConfig:
    return TrainConfig(
        **{
            "model": "bisenet_x39", "out": str(out), "epochs": 2, "batch_size": 2, "crop": (32, 32),
            "label_stride": 8, "device": "cpu", **changes,
        }
    )  # fmt: skip


def rows_of(count: int, every: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch, "loss": f"{2 / epoch:.5f}", "lr": "1e-3", "seconds": "1.5",
            **({"miou_percent": f"{10 * epoch:.3f}"} if epoch % every == 0 else {}),
        }
        for epoch in range(1, count + 1)
    ]  # fmt: skip


def test_a_run_leaves_samples_and_curve_and_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = settings(tmp_path, epochs=3, eval_every=2, tensorboard=True)
    result = train(config, train_set=TRAIN, val_set=VAL, progress=False)
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "epoch_0002.png", "epoch_0003.png",
    ]  # fmt: skip
    with Image.open(tmp_path / "curve.png") as curve:
        assert curve.size == (900, 480)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    with result.log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("loss", "lr", "miou_percent", "pixel_accuracy_percent", "seconds"):
        want = {int(row["epoch"]): float(row[name]) for row in rows if row[name]}
        logged = {event.step: event.value for event in events.Scalars(name)}
        assert logged == pytest.approx(want, rel=1e-5) and len(want) == (2 if "_p" in name else 3)


def test_samples_show_picture_labels_and_prediction(tmp_path: Path) -> None:
    model = tsz.bisenet_x39(num_classes=11)
    model.labels = CAMVID
    log = RunLog(tmp_path, settings(tmp_path), VAL, shows=False)
    log.show_samples(model, 7)
    with Image.open(tmp_path / "samples/epoch_0007.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (4 * 240, 3 * 320, 3)  # four of six, each 48×64 brought to 320 wide
    for place, index in enumerate((0, 1, 3, 4)):
        sample = VAL[index]
        assert sample.label is not None
        predicted = tsz.predict(model, sample.image).labels
        want = [
            sample.image,
            np.asarray(overlay(sample.image, sample.label, CAMVID, legend=False)),
            np.asarray(overlay(sample.image, predicted, CAMVID, legend=False)),
        ]
        row = pixels[place * 240 : (place + 1) * 240]
        for column, picture in enumerate(want):  # five times as large, every pixel a block
            block = row[2::5, column * 320 + 2 : (column + 1) * 320 : 5]
            np.testing.assert_array_equal(block, picture)


def test_a_line_per_epoch_tells_score_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, settings(tmp_path, epochs=4, patience=1), VAL, shows=True)
    log.start(0)
    log.write(rows_of(3)[:1])
    log.write(rows_of(3))
    log.finish(rows_of(3))
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0].startswith("epoch 1/4  loss 2.00000  mIoU 10.000 %  1.5 s, about ")
    assert lines[1].startswith("epoch 3/4  loss 0.66667  mIoU 30.000 %  1.5 s, about ")
    assert lines[2] == "ended early: no better score in 1 epochs"
    with (tmp_path / "log.csv").open(newline="") as file:
        assert [row["miou_percent"] for row in csv.DictReader(file)] == [
            "10.000", "20.000", "30.000",
        ]  # fmt: skip


@pytest.mark.parametrize(("count", "every"), [(1, 1), (1, 2), (2, 1), (300, 7)])
def test_a_curve_has_its_lines_where_the_numbers_are(count: int, every: int) -> None:
    pixels = np.asarray(draw_curve(rows_of(count, every), "a run")).astype(int)
    red = (np.abs(pixels - (192, 57, 43)).sum(2) < 30)[40:421, 70:831]
    blue = (np.abs(pixels - (31, 97, 141)).sum(2) < 30)[40:421, 70:831]
    assert red.any()
    assert blue.any() == (count >= every)
    if count == 300:
        assert red[:, :3].any(1).argmax() < red[:, -3:].any(1).argmax()  # the loss falls


def test_without_tensorboard_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"torchseg-zoo\[tensorboard\]"):
        train(settings(tmp_path, tensorboard=True), train_set=TRAIN, val_set=VAL, progress=False)


def test_a_run_ends_when_the_score_gets_no_better(tmp_path: Path) -> None:
    config = settings(tmp_path, epochs=9, patience=2, lr=1e-12, optimizer="sgd")
    val_set = DrawnStreets(1, seed=12, size=(32, 32))
    result = train(config, train_set=TRAIN, val_set=val_set, progress=False)
    with result.log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    scores = [float(row["miou_percent"]) for row in rows]
    best = max(range(len(scores)), key=lambda index: scores[index])
    assert len(rows) == min(9, best + 1 + 2) < 9
    assert result.epoch == best + 1
    again = train(config, train_set=TRAIN, val_set=val_set, resume=True, progress=False)
    assert again == result


# The class list, and the look before the first step


def own_data(root: Path, classes: int = 3) -> Path:
    for split, seed in (("train", 1), ("val", 2)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        scenes = DrawnStreets(2, seed=seed, size=(32, 40))
        for index in range(2):
            sample = scenes[index]
            assert sample.label is not None
            Image.fromarray(sample.image).save(root / split / "images" / f"{index}.png")
            label = sample.label % np.uint8(classes)
            Image.fromarray(label).save(root / split / "labels" / f"{index}.png")
    return root


def test_a_class_list_decides_labels_and_classifier(tmp_path: Path) -> None:
    root = own_data(tmp_path / "own")
    (root / "classes.txt").write_text("wrong\n")  # beside the data, and overruled
    (tmp_path / "mine.txt").write_text("sky\t0000ff\nroad\ncar\n")
    config = settings(
        tmp_path / "run", model="bisenet_x39.camvid", data=str(root), epochs=1,
        classes=str(tmp_path / "mine.txt"),
    )  # fmt: skip
    model = tsz.load_model(train(config, progress=False).best)
    assert model.labels.classes == ("sky", "road", "car") and model.num_classes == 3
    assert model.labels.palette[0] == (0, 0, 255)
    assert (tmp_path / "run/samples/epoch_0001.png").is_file()


def test_a_class_list_that_disagrees_with_the_labels_is_refused_with_the_values(
    tmp_path: Path,
) -> None:
    root = own_data(tmp_path / "own", classes=6)
    (tmp_path / "mine.txt").write_text("sky\nroad\ncar\n")
    config = settings(
        tmp_path / "run", model="bisenet_x39.camvid", data=str(root),
        classes=str(tmp_path / "mine.txt"),
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        train(config, progress=False)
    assert "pixel (" in caught.value.what and "allowed 0–2 or 255" in caught.value.what
    assert "label values that stand for no class: " in str(caught.value.why)
    for value in (3, 4, 5):
        assert f"{value} (" in str(caught.value.why)
    assert f"`torchseg-zoo check-data --data {root} --classes {tmp_path}/mine.txt` tells all" in (
        str(caught.value.fix)
    )
    assert not (tmp_path / "run/last.safetensors").exists()


def test_the_look_can_be_left_out(tmp_path: Path) -> None:
    """Then it is the step that meets the bad file which ends the run."""
    root = own_data(tmp_path / "own", classes=6)
    config = settings(tmp_path / "run", data=str(root), num_classes=3)
    with pytest.raises(DataError) as caught:
        train(config, check=False, progress=False)
    assert "stray values" in str(caught.value.why)


def test_data_with_classes_of_their_own_take_no_other_list(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("sky\nroad\ncar\n")
    config = settings(tmp_path / "run", data="drawn", classes=str(tmp_path / "mine.txt"))
    with pytest.raises(ArgumentError, match=r"11 classes of its own.*names 3.*leave the classes"):
        train(config, progress=False)
