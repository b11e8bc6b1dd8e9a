"""The command line: what it prints, what it writes, and how it ends when something is wrong."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Call, Done
from pictures import photo
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo import errors
from torchseg_zoo.errors import ZooError

VERBS = ("list", "prepare", "predict", "evaluate", "calibrate", "train")


def assert_one_line(done: Done, error: type[ZooError], *words: str) -> None:
    assert done.code == error.exit_code
    assert done.out == ""
    lines = [line for line in done.err.replace("\r", "\n").splitlines() if "torchseg-zoo:" in line]
    assert len(lines) == 1, done.err
    assert f"torchseg-zoo: {error.__name__}: " in lines[0]
    for word in words:
        assert word in lines[0]


# Exit codes


def every_error() -> list[type[ZooError]]:
    def below(kind: type[ZooError]) -> list[type[ZooError]]:
        return [kind, *(child for one in kind.__subclasses__() for child in below(one))]

    return [kind for kind in below(ZooError) if kind.__module__ == errors.__name__]


def test_every_error_has_an_exit_code_of_its_own() -> None:
    kinds = every_error()
    public = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert {kind.__name__ for kind in kinds} == public
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 3, 130} & set(codes)
    # A shell's own codes begin at 126; a run that SIGTERM ended says so as any program does.
    assert [code for code in codes if code >= 126] == [errors.StoppedError.exit_code] == [143]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_ends_in_one_line_and_its_code(
    call: Call, kind: type[ZooError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("it\nbroke", where="there", why="so", fix="do this")

    monkeypatch.setattr("torchseg_zoo.cli.list.list_models", fail)
    done = call("list")
    assert done.code == kind.exit_code
    assert done.err == f"torchseg-zoo: {kind.__name__}: there: it broke (so); do this\n"


def test_an_interruption_ends_with_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torchseg_zoo.cli.list.list_models", interrupt)
    assert call("list") == Done(130, "", "torchseg-zoo: interrupted\n")


# Usage


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(call: Call, verb: str) -> None:
    done = call(verb, "--help")
    assert done.code == 0 and f"usage: torchseg-zoo {verb}" in done.out
    assert verb in call("--help").out


@pytest.mark.parametrize(
    "arguments",
    [(), ("foo",), ("predict",), ("evaluate",), ("train", "--epochs", "x"), ("list", "-z")],
)
def test_wrong_usage_ends_with_2(call: Call, arguments: tuple[str, ...]) -> None:
    done = call(*arguments)
    assert done.code == 2 and "usage:" in done.err


def test_version(call: Call) -> None:
    assert call("--version").out == f"torchseg-zoo {tsz.__version__}\n"


def test_list_prints_names(call: Call) -> None:
    assert call("list", "bisenet_x39*").out == "bisenet_x39\nbisenet_x39_speed\n"
    assert call("list").out.splitlines() == tsz.list_models()
    names = [line.split(" ")[0] for line in call("list", "--pretrained").out.splitlines()]
    assert names[1 : names.index("")] == tsz.list_models(pretrained=True)
    assert call("list", "nothing*") == Done(0, "", "")


# Predict


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(photo(20, 30)).save(folder / "a.png")
    Image.fromarray(photo(31, 17)).save(folder / "b.jpg")
    return folder


def test_one_picture_says_where_its_overlay_went(
    call: Call, pictures: Path, checkpoint: Path
) -> None:
    done = call("predict", pictures / "a.png", "-c", checkpoint)
    assert done == Done(0, f"{pictures}/a.png -> a_overlay.png\n", "")
    with Image.open("a_overlay.png") as overlay:
        assert overlay.width >= 30 and overlay.height > 20


def test_confidence_of_another_kind(call: Call, pictures: Path, checkpoint: Path) -> None:
    model = tsz.load_model(checkpoint)
    call(
        "predict",
        pictures / "a.png",
        "-c",
        checkpoint,
        "--confidence",
        "--confidence-kind",
        "margin",
    )
    wanted = tsz.predict(model, pictures / "a.png", confidence="margin").confidence
    with Image.open("a_confidence.png") as found:
        assert np.abs(np.asarray(found) / 255 - wanted).max() < 0.01
    assert wanted.std() > 0


def test_a_folder_with_one_bad_picture(call: Call, pictures: Path, checkpoint: Path) -> None:
    (pictures / "bad.png").write_bytes(b"<html>404</html>")
    done = call("predict", pictures, "-c", checkpoint, "-o", "out", "--labels", "--confidence")
    assert done.code == 3
    assert len(done.out.splitlines()) == 2
    assert f"DataError: {pictures}/bad.png: not a picture" in done.err and "web page" in done.err
    assert done.err.endswith("1 of 3 pictures failed\n")
    kinds = ("confidence", "labels", "overlay")
    assert sorted(os.listdir("out")) == [  # noqa: PTH208
        *(f"{name}_{kind}.png" for name in "ab" for kind in kinds), "predict.jsonl",
    ]  # fmt: skip


def test_a_single_bad_picture_ends_with_its_own_code(
    call: Call, pictures: Path, checkpoint: Path
) -> None:
    (pictures / "bad.png").write_bytes(b"")
    done = call("predict", pictures / "bad.png", "-c", checkpoint)
    assert_one_line(done, errors.DataError, "bad.png: the file is empty")
    done = call("predict", "missing.png", "-c", checkpoint)
    assert_one_line(done, errors.DataError, "missing.png: no such file")


def test_json_lines(call: Call, pictures: Path, checkpoint: Path) -> None:
    (pictures / "bad.png").write_bytes(b"")
    done = call("predict", pictures, "-c", checkpoint, "--json", "-o", "out")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 3
    assert [record["image"] for record in records] == [f"{pictures}/a.png", f"{pictures}/b.jpg"]
    assert [(record["height"], record["width"]) for record in records] == [(20, 30), (31, 17)]
    for record in records:
        assert all(Path(file).is_file() for file in record["files"])
        assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-5)
        assert 0 < record["mean_confidence"] <= 1


def test_a_glob_in_quotes_and_files_of_the_same_stem(
    call: Call, pictures: Path, checkpoint: Path
) -> None:
    Image.fromarray(photo(9, 9)).save(pictures / "a.jpg")
    assert call("predict", pictures / "*.jpg", "-c", checkpoint, "-o", "jpg").code == 0
    written = ["a_overlay.png", "b_overlay.png", "predict.jsonl"]
    assert sorted(os.listdir("jpg")) == written  # noqa: PTH208
    call("predict", pictures, "-c", checkpoint, "-o", "all")
    assert sorted(os.listdir("all")) == [  # noqa: PTH208
        "a.jpg_overlay.png", "a.png_overlay.png", "b_overlay.png", "predict.jsonl",
    ]  # fmt: skip


def test_a_name_that_is_not_unicode(call: Call, pictures: Path, checkpoint: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (pictures / "a.png").rename(pictures / name)
    done = call("predict", pictures / name, "-c", checkpoint, "-o", "out")
    assert done.code == 0 and "\\udcff.png -> out/\\udcff_overlay.png" in done.out


def test_a_warning_is_one_line(call: Call, pictures: Path, checkpoint: Path) -> None:
    frames = [Image.fromarray(photo(9, 9, seed)) for seed in range(2)]
    frames[0].save(pictures / "a.gif", save_all=True, append_images=frames[1:])
    script = (
        "import sys; from torchseg_zoo.cli import main;"
        f"sys.exit(main(['predict', {str(pictures / 'a.gif')!r}, '-c', {str(checkpoint)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == (
        f"torchseg-zoo: warning: {pictures}/a.gif: has several frames or pages; "
        "only the first is used\n"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("-m", "bisenet_x93.camvid"), errors.UnknownModelError, ("bisenet_x93", "bisenet_x39")),
        (("-m", "bisenet_x39.nothing"), errors.UnknownCheckpointError, ("nothing",)),
        (("-m", "bisenet_x39."), errors.UnknownCheckpointError, ("bisenet_x39",)),
        (("-m", "bisenet_x39_speed"), errors.UnknownCheckpointError, ("random weights",)),
        (("-c", "missing.safetensors"), errors.CheckpointFormatError, ("no such file",)),
        (("-c", "pictures/a.png"), errors.CheckpointFormatError, ("a.png", "safetensors")),
        (("-c", "pictures"), errors.CheckpointFormatError, ("is a folder",)),
        (("--device", "cuda:99"), errors.ArgumentError, ("cuda:99", "cpu")),
        (("--device", "abacus"), errors.ArgumentError, ("abacus",)),
    ],
)
def test_models_that_cannot_be_had(
    call: Call,
    pictures: Path,
    arguments: tuple[str, ...],
    error: type[ZooError],
    words: tuple[str, ...],
) -> None:
    assert_one_line(call("predict", pictures / "a.png", *arguments), error, *words)


def test_outputs_that_cannot_be_had(call: Call, pictures: Path, checkpoint: Path) -> None:
    picture = pictures / "a.png"
    Path("file").write_text("")
    for out in ("file/out", "file/out.png", "file", "/proc/none"):
        done = call("predict", picture, "-c", checkpoint, "-o", out)
        assert_one_line(done, errors.DataError, out.removesuffix("/out.png"), "cannot")
    done = call("predict", picture, "-c", checkpoint, "-o", picture)
    assert_one_line(done, errors.ArgumentError, "would replace this picture")
    done = call("predict", pictures, "-c", checkpoint, "-o", "all.png")
    assert_one_line(done, errors.ArgumentError, "all.png: one file name for 2 pictures")
    empty = Path("empty")
    empty.mkdir()
    assert_one_line(call("predict", empty, "-c", checkpoint), errors.DataError, "no pictures")
    done = call("predict", "*.bmp", "-c", checkpoint)
    assert_one_line(done, errors.DataError, "*.bmp: nothing matches")


# Evaluate and train


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for index in range(2):
        Image.fromarray(photo(32, 40, index)).save(folder / f"{index}.png")
        label = rng.integers(0, 3, (32, 40)).astype(np.uint8)
        Image.fromarray(label).save(folder / f"{index}_label.png")
        lines.append(f"{index}.png\t{index}_label.png\n")
    (folder / "val.txt").write_text("".join(lines))
    return folder


def test_evaluate_prints_a_table_and_writes_json(call: Call, data: Path, checkpoint: Path) -> None:
    done = call("evaluate", "-c", checkpoint, "--data", data, "--save-json", "scores.json")
    assert done.code == 0
    rows = [line.rsplit(maxsplit=2) for line in done.out.splitlines()]
    assert [row[0] for row in rows[1:4]] == ["class 0", "class 1", "class 2"]
    record = json.loads(Path("scores.json").read_text())
    miou = float(done.out.splitlines()[-2].split()[-1])
    assert record["miou_percent"] == pytest.approx(miou, abs=0.006)
    assert np.mean(record["iou_percent"]) == pytest.approx(miou, abs=0.006)
    by_root = call("evaluate", "-c", checkpoint, "--data", data / "val.txt", "--root", data)
    assert by_root.out == done.out


def test_evaluate_writes_a_report_that_replays(call: Call, data: Path, checkpoint: Path) -> None:
    done = call("evaluate", "-c", checkpoint, "--data", data.name, "-o", "out")
    assert done.code == 0
    assert done.out.endswith("out/report.html\nout/card.json\n")
    assert "boundary IoU" in done.out and "calibration err." in done.out
    again = call("evaluate", "--replay", "out/card.json", "--save-json", "again.json")
    assert again.code == 0 and again.out.startswith("the score holds: mean IoU ")
    card = json.loads(Path("out/card.json").read_text())
    assert json.loads(Path("again.json").read_text())["miou_percent"] == card["miou_percent"]
    assert card["protocol"]["origin"]["data"] == str(data)
    # The data have moved, and the pictures are the same.
    data.rename(data.with_name("moved"))
    gone = call("evaluate", "--replay", "out/card.json")
    assert_one_line(gone, errors.DataError, f"{data}: no such file or folder")
    moved = call("evaluate", "--replay", "out/card.json", "--data", data.with_name("moved"))
    assert moved.code == 0
    assert f"note: origin.data was {data}, is {data.with_name('moved')}\n" in moved.out
    # Another model.
    torch.manual_seed(1)
    tsz.save_model(tsz.bisenet_x39(num_classes=3), "other.safetensors")
    data.with_name("moved").rename(data)
    other = call("evaluate", "--replay", "out/card.json", "-c", "other.safetensors")
    assert other.code == 1 and "differs: model.weights_sha256 was " in other.out
    assert "the score does not hold" in other.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--replay", "none.json"), errors.DataError, ("none.json: no such file",)),
        (("--replay", "data/val.txt"), errors.DataError, ("val.txt: is no card",)),
        (("--replay", "x", "-o", "y"), errors.ArgumentError, ("--replay", "-c FILE")),
        (("--data", "drawn", "--tolerance", "1"), errors.ArgumentError, ("--tolerance",)),
    ],
)
def test_replays_that_cannot_be(
    call: Call,
    data: Path,
    arguments: tuple[str, ...],
    error: type[ZooError],
    words: tuple[str, ...],
) -> None:
    assert_one_line(call("evaluate", *arguments), error, *words)


def test_calibrate_writes_the_model_with_its_temperature(call: Call, data: Path) -> None:
    torch.manual_seed(0)
    model = tsz.bisenet_x39(num_classes=3)
    with torch.no_grad():  # so that a mapping from pictures to labels exists and is too sure
        for classifier in model.classifiers().values():
            classifier.weight.mul_(5)
    tsz.save_model(model, "model.safetensors")
    for index in range(2):
        labels = tsz.predict(model, data / f"{index}.png").labels.copy()
        labels[::3] = (labels[::3] + 1) % 3  # two thirds are right, whatever the confidence
        Image.fromarray(labels).save(data / f"{index}_label.png")
    done = call("calibrate", "-c", "model.safetensors", "--data", data, "-o", "new.safetensors")
    assert done.code == 0 and done.out.endswith("new.safetensors\n")
    name, before, after = done.out.splitlines()[0].split()
    found = tsz.load_model("new.safetensors").temperature
    assert (name, before) == ("temperature", "1.0000") and float(after) == round(found, 4)
    errors_ = [float(word) for word in done.out.splitlines()[2].split()[-2:]]
    assert errors_[1] < errors_[0]
    assert tsz.load_model("model.safetensors").temperature == 1


def test_evaluate_refuses_data_that_do_not_fit(call: Call, data: Path, checkpoint: Path) -> None:
    done = call("evaluate", "-c", checkpoint, "--data", "drawn")
    assert_one_line(done, errors.DataError, "11 classes (camvid)", "3 (custom)")
    done = call("evaluate", "-c", checkpoint, "--data", "drawn", "--split", "mine")
    assert_one_line(done, errors.ArgumentError, "no split 'mine'")
    done = call("evaluate", "-c", checkpoint, "--data", data, "--split", "test")
    assert_one_line(done, errors.DataError, "found no split 'test'")
    (data / "val.txt").write_text("0.png\n")
    done = call("evaluate", "-c", checkpoint, "--data", data)
    assert_one_line(done, errors.DataError, "0.png: this sample has no labels")


def test_train_then_evaluate_then_resume(call: Call, data: Path) -> None:
    (data / "train.txt").write_text((data / "val.txt").read_text())
    options = (
        "train", "--data", data, "--out", "run", "--epochs", 2, "--batch-size", 2,
        "--device", "cpu", "--set", "crop=32,32", "--set", "num_classes=3",
    )  # fmt: skip
    done = call(*options)
    assert done.code == 0
    assert "best run/best.safetensors (mIoU " in done.out and "log  run/log.csv" in done.out
    with Path("run/log.csv").open(newline="") as file:
        best = max(float(row["miou_percent"]) for row in csv.DictReader(file))
    scored = call("evaluate", "-c", "run/best.safetensors", "--data", data)
    assert float(scored.out.splitlines()[-2].split()[-1]) == pytest.approx(best, abs=0.006)
    assert_one_line(call(*options), errors.ArgumentError, "run: there is a run", "--resume")
    assert call(*options, "--resume").out == done.out
    done = call(*options, "--resume", "--lr", "0.5")
    assert_one_line(done, errors.ResumeError, "lr was 0.001, is 0.5")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--data", "nowhere"), errors.DataError, ("nowhere: no such file or folder",)),
        (("--recipe", "bisenet_x39.camvd"), errors.ArgumentError, ("bisenet_x39.camvid?",)),
        (("--set", "epoch=3"), errors.ArgumentError, ("did you mean epochs?",)),
        (("--set", "epochs"), errors.ArgumentError, ("NAME=VALUE",)),
        (("--set", "name=x"), errors.ArgumentError, ("unknown settings: name",)),
        (("--set", "device=abacus"), errors.ArgumentError, ("abacus",)),
        (("--device", "abacus"), errors.ArgumentError, ("abacus",)),
        (("--model", "bisenet_x93"), errors.UnknownModelError, ("bisenet_x39",)),
        (("--model", "bisenet_x39.none"), errors.UnknownCheckpointError, ("none",)),
        (("--set", "head_modules=hed,"), errors.ArgumentError, ("no module hed",)),
        (("--out", "data/val.txt"), errors.DataError, ("cannot create the folder",)),
        (("--data", "data/val.txt"), errors.ArgumentError, ("how many classes",)),
    ],
)
def test_train_refuses_what_cannot_work(
    call: Call,
    data: Path,
    arguments: tuple[str, ...],
    error: type[ZooError],
    words: tuple[str, ...],
) -> None:
    assert_one_line(call("train", *arguments), error, *words)


def test_a_reader_that_goes_away_is_no_failure() -> None:
    script = f"{sys.executable} -m torchseg_zoo list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
