"""The published tables: every row is there, with the numbers that were printed, and runs."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets, camvid
from torchseg_zoo.errors import ArgumentError, DataError, UnknownCheckpointError
from torchseg_zoo.evaluation.reproduce import Row, find_row, reproduce, rows
from torchseg_zoo.weights import manifest

SCRIPT = Path(__file__).parents[2] / "examples" / "reproduce.py"

# Typed from the tables: mIoU of this file, of the earlier README, of the paper; pixel accuracies.
PRINTED = {
    "fcn32s_r101 voc sliding": (71.26, None, None),
    "dfn_r101 voc sliding": (79.40, 79.63, 79.67),
    "dfn_r101 voc msf": (81.40, 81.15, 80.6),
    "dfn_r101 cityscapes sliding": (79.09, None, 78.5),
    "dfn_r101 cityscapes msf": (80.41, None, 79.3),
    "dfn_r101 cityscapes.ohem sliding": (79.16, 79.49, 78.5),
    "dfn_r101 cityscapes.ohem msf": (80.53, 80.32, 79.3),
    "bisenet_r101 cityscapes sliding": (79.09, 79.56, None),
    "bisenet_r101 cityscapes msf": (80.39, 80.29, 80.3),
    "bisenet_r18 cityscapes sliding": (76.28, 76.33, 76.21),
    "bisenet_r18 cityscapes msf": (78.00, 78.46, 78.57),
    "bisenet_x39 cityscapes sliding": (70.32, 69.1, 70.1),
    "bisenet_x39 cityscapes msf": (72.06, 72.2, 72.0),
    "bisenet_r18_speed cityscapes whole": (74.83, 74.6, 74.8),
    "bisenet_x39_speed cityscapes whole": (68.51, 68.5, 69.0),
    "pspnet_r50 ade20k sliding": (41.65, 41.61, 41.68),
    "pspnet_r101 ade20k sliding": (42.89, None, 41.96),
    "psanet_r50 ade20k sliding": (41.67, None, 41.92),
    "psanet_r101 ade20k sliding": (43.04, None, 42.75),
}
ACCURACY = {
    "pspnet_r50 ade20k sliding": (79.74, 80.19, 80.04),
    "pspnet_r101 ade20k sliding": (80.55, None, 80.64),
    "psanet_r50 ade20k sliding": (80.09, None, 80.17),
    "psanet_r101 ade20k sliding": (80.56, None, 80.71),
}


def test_every_printed_row_is_there_with_its_numbers() -> None:
    found = {row.name: row for row in rows()}
    more = {"bisenet_x39 camvid whole"} | {
        f"bisenet_{name}_speed cityscapes whole full-size" for name in ("r18", "x39")
    }
    assert set(found) == set(PRINTED) | more
    for key, table in (("miou_percent", PRINTED), ("pixel_accuracy_percent", ACCURACY)):
        for name, (ours, earlier, paper) in table.items():
            metric = found[name].metric
            assert getattr(metric, key) == ours, name
            assert metric.earlier.get(key) == earlier, name
            assert metric.paper.get(key) == paper, name


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_a_row_says_numbers_protocol_and_data(row: Row) -> None:
    text = row.describe()
    assert find_row(f"  {row.name.upper()} ") == row
    for number in PRINTED.get(row.name, ())[:1] + ACCURACY.get(row.name, ())[:1]:
        assert f"published for this file: {PRINTED[row.name][0]:.2f} % mIoU" in text
        assert f"{number:.2f} %" in text
    if "speed" in row.name:
        assert "96×192" in text and "768×1536" in text
    assert "protocol: " in text and f"data: {row.metric.dataset} val: " in text
    assert row.at_full_size == ("nothing at full size" in text)
    assert row.metric.replay or row.metric.mode == "whole"


def test_rows_that_cannot_run_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match="did you mean 'bisenet_r18 cityscapes msf'"):
        find_row("bisenet_r18 citscapes msf")
    words = r"data/VOCdevkit/VOC2012: the data .* put JPEGImages, .* \(--data voc:PATH\)"
    with pytest.raises(DataError, match=words):
        reproduce(find_row("dfn_r101 voc msf"))
    with pytest.raises(UnknownCheckpointError, match=r"never released the file.*train it"):
        reproduce(find_row("fcn32s_r101 voc sliding"), data=f"voc:{tmp_path}")


def write_camvid(root: Path) -> Path:
    streets = DrawnStreets(2, seed=4, size=(48, 64))
    for name in ("val", "valannot"):
        (root / name).mkdir(parents=True)
    for index in range(2):
        sample = streets[index]
        assert sample.label is not None
        Image.fromarray(sample.image).save(root / "val" / f"{index}.png")
        Image.fromarray(sample.label).save(root / "valannot" / f"{index}.png")
    return root


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the script in an empty folder: its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        captured = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        return code, captured.out or captured.err

    return run


def test_the_script_measures_a_row_and_says_how_far_off_it_is(
    script: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = script("--row", "bisenet_x39 camvid whole")
    assert code == DataError.exit_code
    assert out.startswith(f"DataError: {tmp_path}/data/camvid: the data of this row") and (
        len(out.splitlines()) == 1
    )
    root = write_camvid(tmp_path / "data" / "camvid")
    code, out = script("--row", "bisenet_x39 camvid whole", "-o", "record")
    assert code == 1
    scores = tsz.evaluate(tsz.bisenet_x39(pretrained="camvid"), camvid(root), progress=False)
    (recorded,) = manifest.find("bisenet_x39", "camvid").metrics
    off = scores.miou_percent - recorded.miou_percent
    assert f"{scores.miou_percent:.2f} % mIoU" in out
    assert f"({off:+.2f} points of mIoU, " in out
    assert "differs: 2 pictures, camvid val has 101" in out
    assert out.endswith("the published score is not reached within 0.5 points\n")
    assert list((tmp_path / "record").glob("std-*/evaluate.jsonl"))


def test_another_model_and_full_size_labels(tmp_path: Path) -> None:
    """A model of one's own by a row's protocol: smaller labels, or their own size."""
    torch.manual_seed(0)
    model = tsz.bisenet_r18_speed(num_classes=19)
    streets = write_cityscapes(tmp_path / "city")
    small = reproduce(
        find_row("bisenet_r18_speed cityscapes whole"), data=f"cityscapes:{streets}", model=model,
        progress=False,
    )  # fmt: skip
    assert small.trials[0].scores.confusion.sum() == 96 * 192
    assert not small.holds
    full = reproduce(
        find_row("bisenet_r18_speed cityscapes whole full-size"), data=f"cityscapes:{streets}",
        model=model, progress=False,
    )  # fmt: skip
    assert full.trials[0].scores.confusion.sum() == 64 * 128
    assert full.holds and "points" not in full.report().splitlines()[4]
    assert full.trials[0].scores.protocol.preprocess["short_side"] == 768


def write_cityscapes(root: Path) -> Path:
    pictures, labels = root / "leftImg8bit/val/town", root / "gtFine/val/town"
    for folder in (pictures, labels):
        folder.mkdir(parents=True)
    name = "town_000000_000000"
    Image.new("RGB", (128, 64), (90, 90, 90)).save(pictures / f"{name}_leftImg8bit.png")
    Image.new("L", (128, 64), 7).save(labels / f"{name}_gtFine_labelIds.png")
    return root


def test_the_list_of_the_script_is_the_list_of_rows(
    script: Callable[..., tuple[int, str]],
) -> None:
    code, out = script("--list")
    assert code == 0
    assert [part.splitlines()[0] for part in out.split("\n\n")] == [row.name for row in rows()]
