"""``torchseg-zoo evaluate``: modes, files per picture, snapshots, records and bad input."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import stat
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import DrawnStreets, camvid, list_file
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import ArgumentError, DataError, ResumeError
from torchseg_zoo.evaluation import SkippedPicture, replay, write_card
from torchseg_zoo.inference.modes import MultiScaleFlip, Sliding, Whole
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.snapshots import find_snapshots

SIZE = (48, 64)
COUNT = 4


@pytest.fixture(scope="module")
def streets() -> DrawnStreets:
    return DrawnStreets(COUNT, seed=5, size=SIZE)


@pytest.fixture
def data(tmp_path: Path, streets: DrawnStreets, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CamVid's folders with four drawn pictures; the command runs beside them."""
    monkeypatch.chdir(tmp_path)
    for name in ("val", "valannot"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for index in range(COUNT):
        sample = streets[index]
        assert sample.label is not None
        Image.fromarray(sample.image).save(tmp_path / "data" / "val" / f"{index}.png")
        Image.fromarray(sample.label).save(tmp_path / "data" / "valannot" / f"{index}.png")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid")


def call(*more: object) -> int:
    return main(["evaluate", "--data", "data", "-d", "cpu", *map(str, more)])


def refused(capsys: pytest.CaptureFixture[str], *more: object) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    try:
        assert call(*more) not in (0, 1)
    except SystemExit as end:  # argparse
        assert end.code == 2
    return capsys.readouterr().err.splitlines()[-1]


WINDOW = ("--window", "32x48", "--stride", "24x32")


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ((), Whole()),
        (("--mode", "whole", "--merge", "torchseg"), Whole(merge="torchseg")),
        (WINDOW, Sliding((32, 48), (24, 32))),
        (("--mode", "sliding", "--window", "30x48"), Sliding((30, 48), (20, 32))),
        (("--scales", "0.5,1", "--flip", "--mode", "whole"), MultiScaleFlip((0.5, 1.0), True)),
        (("--scales", "0.75"), MultiScaleFlip((0.75,), False)),
        (
            (*WINDOW, "--flip", "--merge-windows", "logit-mean"),
            MultiScaleFlip((1.0,), True, Sliding((32, 48), (24, 32), "logit-mean")),
        ),
        (
            (*WINDOW, "--scales", "1.25", "--merge", "torchseg"),
            MultiScaleFlip((1.25,), False, Sliding((32, 48), (24, 32), "torchseg"), "torchseg"),
        ),
    ],
    ids=str,
)
def test_options_name_every_mode(
    data: Path, model: SegmentationModel, options: tuple[str, ...], mode: Any
) -> None:
    assert call(*options, "--save-json", "scores.json", "--label-size", "24x32") == 0
    record = json.loads(Path("scores.json").read_text())
    assert record["protocol"]["mode"] == json.loads(json.dumps(mode.to_dict()))
    expected = tsz.evaluate(model, camvid(data), mode=mode, label_size=(24, 32), progress=False)
    assert record["confusion"] == expected.confusion.tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--window", "32x32", "--stride", "48x16"), ("ArgumentError", "48×16", "32×32")),
        (("--scales", "0,1"), ("ArgumentError", "scales", "above 0")),
        (("--scales", "-1"), ("ArgumentError", "scales", "above 0")),
        (("--scales", "big"), ("'big' are no scales",)),
        (("--mode", "whole", "--window", "32x32"), ("ArgumentError", "--window", "sliding")),
        (("--mode", "sliding"), ("ArgumentError", "--window", "512x1024")),
        (("--merge-windows", "logit-mean"), ("ArgumentError", "--merge-windows", "--merge")),
        (("--flip", "--merge", "torchseg", "--merge-windows", "logit-mean"), ("same merge",)),
        (("-d", "0-7"), ("ArgumentError", "cuda:0", "cannot be used here")),
        (("-d", "7-0"), ("no range of devices",)),
        (("-d", "cpu,cpu", "--processes", "3"), ("ArgumentError", "--processes", "3 processes")),
        (("--processes", "0"), ("ArgumentError", "--processes")),
        (("--resume",), ("ArgumentError", "--resume", "-o DIR")),
        (("-e", "last"), ("ArgumentError", "--epochs", "-c DIR")),
        (("--verify", "--flip"), ("ArgumentError", "--verify", "written down")),
        (("-p", "data/valannot"), ("ArgumentError", "valannot/0.png", "would replace")),
        (("-s", "data/val"), ("ArgumentError", "val/0.png", "would replace")),
        (("-p", "x", "-s", "x"), ("ArgumentError", "x", "two folders")),
    ],
    ids=str,
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the words are those of a machine without")
def test_what_cannot_be_scored_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in data.rglob("*.png")}
    line = refused(capsys, *options)
    for word in words:
        assert word in line
    assert {path: path.read_bytes() for path in data.rglob("*.png")} == before


def test_pictures_smaller_than_the_window_go_whole_and_it_is_said_once(
    data: Path, model: SegmentationModel
) -> None:
    whole = tsz.evaluate(model, camvid(data), progress=False)
    with pytest.warns(UserWarning, match=r"1024×1024 is larger than .*\d\.png \(48×64\)") as said:
        found = tsz.evaluate(
            model, camvid(data), mode=Sliding((1024, 1024), (854, 854)), progress=False
        )
    assert len(said) == 1
    np.testing.assert_array_equal(found.confusion, whole.confusion)


def test_files_for_every_picture(
    data: Path,
    model: SegmentationModel,
    streets: DrawnStreets,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert call("-p", "labels", "-s", "-v", "--save-json", "scores.json") == 0
    out = capsys.readouterr().out.splitlines()
    record = json.loads(Path("scores.json").read_text())
    lines = [line for line in out if "so far" in line]
    assert sorted(line.split()[1] for line in lines) == [f"data/val/{i}.png" for i in range(COUNT)]
    assert [line.split("/")[0] for line in lines] == ["1", "2", "3", "4"]
    assert float(lines[-1].split()[-1]) == pytest.approx(record["miou_percent"], abs=0.006)
    assert out[-2:] == ["labels", "shown"]
    for index in range(COUNT):
        sample = streets[index]
        labels = tsz.predict(model, sample.image).labels
        stored = Image.open(f"labels/{index}.png")
        assert stored.mode == "P"
        assert (np.asarray(stored) != labels).mean() < 0.01  # another number of threads
        shown = np.asarray(Image.open(f"shown/{index}.png"))
        assert shown.shape == (SIZE[0], 3 * SIZE[1], 3)
        np.testing.assert_array_equal(shown[:, : SIZE[1]], sample.image)
        palette = CAMVID.palette_array()
        np.testing.assert_array_equal(shown[:, SIZE[1] : 2 * SIZE[1]], palette[sample.label])
        np.testing.assert_array_equal(shown[:, 2 * SIZE[1] :], palette[np.asarray(stored)])


def test_a_display_gets_the_folder_shown(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = Path("viewer").absolute()
    viewer.write_text(f'#!/bin/sh\necho "$1" > {viewer}.saw\n')
    viewer.chmod(viewer.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("DISPLAY", ":7")
    monkeypatch.setenv("BROWSER", f"{viewer} %s")
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # so that it reads the variables anew
    assert call("-s", "here") == 0
    assert Path(f"{viewer}.saw").read_text().strip() == Path("here").absolute().as_uri()


def test_fast_scores_say_so_and_replay(data: Path, model: SegmentationModel) -> None:
    plain, fast = (
        tsz.evaluate(model, camvid(data), fast=fast, progress=False) for fast in (False, True)
    )
    assert fast.miou_percent == pytest.approx(plain.miou_percent, abs=0.1)
    differences = plain.protocol.differences(fast.protocol)
    assert [one.field for one in differences if one.decisive] == ["model.fused"]
    write_card(fast, "card.json")
    assert replay("card.json", model=model, dataset=camvid(data), progress=False).holds


# Snapshots


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a training run leaves it, with snapshots of some epochs."""
    folder = tmp_path_factory.mktemp("training") / "run"
    source = DrawnStreets(4, seed=3, size=(64, 64))
    config = TrainConfig(epochs=1, crop=(64, 64), ema=0.5, batch_size=4, out=str(folder))
    tsz.train(config, train_set=source, val_set=source, progress=False)
    for number in (2, 10, 9):
        torch.manual_seed(number)
        other = tsz.bisenet_x39(num_classes=11)
        other.labels = CAMVID
        tsz.save_model(other, folder / f"epoch-{number}.safetensors")
    return folder


@pytest.mark.parametrize(
    ("which", "names"),
    [
        ("last", ["last"]),
        ("best", ["best"]),
        ("9", ["epoch-9"]),
        ("2-9", ["epoch-2", "epoch-9"]),
        ("3-", ["epoch-9", "epoch-10"]),
        ("epoch-2.safetensors", ["epoch-2"]),
    ],
)
def test_snapshots_by_their_words(
    data: Path, run: Path, capsys: pytest.CaptureFixture[str], which: str, names: list[str]
) -> None:
    assert call("-c", run, "-e", which, "--save-json", "scores.json", "-p", "labels") == 0
    record = json.loads(Path("scores.json").read_text())
    out = capsys.readouterr().out
    if len(names) == 1:
        assert record["protocol"]["origin"]["checkpoint"].endswith(f"/{names[0]}.safetensors")
        assert "bicyclist" in out and Path("labels/0.png").is_file()
        return
    assert list(record) == names
    lines = [line for line in out.splitlines() if "mean IoU" in line]
    assert [line.split()[0] for line in lines] == names
    for name, line in zip(names, lines, strict=True):
        assert float(line.split()[3]) == pytest.approx(record[name]["miou_percent"], abs=0.006)
        assert Path(f"labels/{name}/0.png").is_file()


def test_the_last_state_is_the_average_that_was_evaluated(run: Path) -> None:
    last, best = (find_snapshots(run, word)[0].open() for word in ("last", "best"))
    for name, tensor in best.state_dict().items():
        assert torch.equal(last.state_dict()[name], tensor), name
    assert last.labels == best.labels


def test_snapshots_that_are_not_there(
    data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "-c", run, "-e", "3-8")
    assert "no snapshot '3-8'" in line and "best, last, epoch-2, epoch-9, epoch-10" in line
    assert "no such checkpoint" in refused(capsys, "-c", run, "-e", "epoch-7.pth")
    assert "no such folder" in refused(capsys, "-c", run / "none", "-e", "last")


# Records


def lines_of(record: Path) -> list[str]:
    return record.read_text().splitlines(keepends=True)


def test_a_record_is_believed_line_by_line(
    data: Path, model: SegmentationModel, tmp_path: Path
) -> None:
    """What is cut, damaged or of a changed file is measured again; the rest is not."""
    folder = tmp_path / "out"
    options: dict[str, Any] = {"reliability": True, "boundary_share": 0.02, "progress": False}
    whole = tsz.evaluate(model, camvid(data), record=folder, **options)
    record = folder / "evaluate.jsonl"
    good = lines_of(record)
    assert len(good) == 1 + COUNT
    for index, damage in enumerate(
        [
            lambda line: line[:-20],
            lambda line: line.replace('"pairs": [[', '"pairs": [[0, '),
            lambda line: line.replace('"pixels": ', '"pixels": 9'),
            lambda line: "\x00" * 30 + "\n",
            lambda line: "[" * 100_000 + "\n",
            lambda line: line.replace('"reliability": [[', '"reliability": [[[1], '),
        ]
    ):
        place = 1 + index % COUNT
        record.write_text("".join([*good[:place], damage(good[place]), *good[place + 1 :]]))
        again = tsz.evaluate(model, camvid(data), record=folder, resume=True, **options)
        assert again.to_dict() == whole.to_dict()
        assert sorted(lines_of(record)[1:]) == sorted(good[1:])
    # A label map is another one since.
    label = data / "valannot" / "2.png"
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(label)
    changed = tsz.evaluate(model, camvid(data), record=folder, resume=True, **options)
    expected = tsz.evaluate(model, camvid(data), **options)
    assert changed.to_dict() == expected.to_dict() != whole.to_dict()


def test_files_that_are_gone_are_written_again(data: Path) -> None:
    assert call("-o", "out", "-p", "labels") == 0
    kept = {path.name: path.stat().st_mtime_ns for path in Path("labels").iterdir()}
    Path("labels/1.png").unlink()
    assert call("-o", "out", "-p", "labels", "--resume") == 0
    now = {path.name: path.stat().st_mtime_ns for path in Path("labels").iterdir()}
    assert now.keys() == kept.keys()
    assert [name for name in sorted(kept) if now[name] != kept[name]] == ["1.png"]


def test_the_record_of_another_run_is_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("-o", "out") == 0
    before = Path("out/evaluate.jsonl").read_bytes()
    line = refused(capsys, "-o", "out", "--resume", "--window", "32x32", "--label-size", "24x32")
    assert "ResumeError" in line and "out/evaluate.jsonl" in line
    for name in ("mode.mode", "mode.window", "label_size"):
        assert name in line
    assert Path("out/evaluate.jsonl").read_bytes() == before
    shutil.copytree("data", "other")
    assert main(["evaluate", "--data", "other", "-o", "out", "--resume"]) == ResumeError.exit_code
    Path("out/evaluate.jsonl").write_text('{"format": "shopping list"}\n')
    assert "is no record of an evaluation" in refused(capsys, "-o", "out", "--resume")


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_fills_is_named_and_what_was_counted_stays(
    data: Path, model: SegmentationModel, tmp_path: Path
) -> None:
    whole = tsz.evaluate(model, camvid(data), record=tmp_path / "whole", progress=False)
    sizes = [len(line) for line in lines_of(tmp_path / "whole" / "evaluate.jsonl")]
    folder = tmp_path / "out"
    with (
        files_at_most(sum(sizes) - 40),
        pytest.raises(DataError, match=r"evaluate.jsonl: the record .* free space"),
    ):
        tsz.evaluate(model, camvid(data), record=folder, progress=False)
    again = tsz.evaluate(model, camvid(data), record=folder, resume=True, progress=False)
    assert again.to_dict() == whole.to_dict()
    with (
        files_at_most(100),
        pytest.raises(DataError, match=r"labels/\d.png: cannot be written"),
    ):
        tsz.evaluate(model, camvid(data), save_labels=tmp_path / "labels", progress=False)
    assert list((tmp_path / "labels").iterdir()) == []


# Bad samples


def test_bad_samples_stop_or_are_skipped_and_listed(
    data: Path, model: SegmentationModel, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "val" / "1.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(data / "valannot" / "2.png")
    assert "data/val/1.png" in refused(capsys)
    assert call("--on-bad-sample", "skip", "-o", "out") == 3
    out = capsys.readouterr().out
    assert "without 2 of 4 pictures, which could not be read:" in out
    assert "valannot/2.png: labels are 5×5" in out
    record = json.loads(Path("out/card.json").read_text())
    assert [one["name"] for one in record["skipped"]] == ["data/val/1.png", "data/valannot/2.png"]
    assert record["protocol"]["data"]["count"] == 2
    assert record["protocol"]["data"]["skipped"] == 2
    assert "Without pictures that could not be read" in Path("out/report.html").read_text()
    again = replay("out/card.json", progress=False)
    assert again.holds
    assert isinstance(again.evaluation.skipped[0], SkippedPicture)
    # Mended, they are taken up again by a resumed run.
    shutil.copy(data / "val" / "0.png", data / "val" / "1.png")
    shutil.copy(data / "valannot" / "0.png", data / "valannot" / "2.png")
    assert call("--on-bad-sample", "skip", "-o", "out", "--resume") == 0
    assert "skipped" not in json.loads(Path("out/card.json").read_text())
    for file in (data / "val").iterdir():
        file.write_bytes(b"")
    line = refused(capsys, "--on-bad-sample", "skip")
    assert "no pixel of the 4 label maps has a class; 4 could not be read" in line


def test_labels_out_of_range_name_file_pixel_value_and_what_is_allowed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tsz.bisenet_x39(num_classes=3)
    label = np.zeros((32, 40), np.uint8)
    label[4, 6] = 7
    Image.fromarray(label).save(tmp_path / "label.png")
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    (tmp_path / "list.txt").write_text("photo.png\tlabel.png\n")
    data = list_file(tmp_path / "list.txt", model.labels)
    with pytest.raises(DataError, match=r"label.png: pixel \(6, 4\) = 7, allowed 0–2 or 255"):
        tsz.evaluate(model, data, progress=False)


def test_other_classes_are_refused_with_both_lists(
    model: SegmentationModel, streets: DrawnStreets
) -> None:
    class Renamed(DrawnStreets):
        pass

    def named(*names: str) -> Renamed:
        found = Renamed(1, seed=5, size=SIZE)
        found.labels = LabelSet("mine", names, CAMVID.palette[: len(names)])
        return found

    words = r"11 .*camvid.*data: cat, dog; model: sky, building"
    with pytest.raises(DataError, match=words):
        tsz.evaluate(model, named("cat", "dog"), progress=False)
    swapped = (*CAMVID.classes[:2], CAMVID.classes[3], CAMVID.classes[2], *CAMVID.classes[4:])
    words = r"class 2 is 'road' in the data set \(mine\) and 'pole' in the model \(camvid\)"
    with pytest.raises(DataError, match=words):
        tsz.evaluate(model, named(*swapped), progress=False)
    spelled = tuple(name.upper().replace(" ", "_") for name in CAMVID.classes)
    numbered = tuple(f"class {index}" for index in range(11))
    for names in (spelled, numbered):
        assert len(tsz.evaluate(model, named(*names), progress=False).pictures) == 1


def test_arguments_that_cannot_be(model: SegmentationModel, streets: DrawnStreets) -> None:
    with pytest.raises(ArgumentError, match="no way 'retry'"):
        tsz.evaluate(model, streets, on_bad_sample="retry")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="resume: there is no record"):
        tsz.evaluate(model, streets, resume=True)
