"""From pictures of one's own to a deployed model: the page and the script are run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import DrawnStreets

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
CLASSES = ("sky", "road", "thing")


def write_pictures(folder: Path, count: int) -> None:
    """``images/*.jpg`` and ``labels/*.png`` of drawn streets, with three classes."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    table = np.array([0, 2, 2, 1, 1, 2, 2, 2, 2, 2, 2], np.uint8)
    scenes = DrawnStreets(count, seed=9, size=(64, 96))
    for index in range(count):
        scene = scenes[index]
        assert scene.label is not None
        Image.fromarray(scene.image).save(folder / "images" / f"{index + 1:04}.jpg", quality=95)
        Image.fromarray(table[scene.label]).save(folder / "labels" / f"{index + 1:04}.png")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("torchseg-zoo ")]


def test_every_command_of_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "mydata", 10)
    (tmp_path / "mydata" / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    monkeypatch.chdir(tmp_path)
    leaves = {
        "prepare": ["mydata/train.txt", "mydata/val.txt"],
        "check-data": ["check/report.txt", "check/report.json"],
        "train": [
            "runs/mine/best.safetensors", "runs/mine/samples/epoch_0001.png",
            "runs/mine/curve.png", "runs/mine/log.csv", "runs/mine/last.safetensors",
        ],
        "evaluate": ["report/report.html"],
        "predict": ["predictions"],
        "export": ["mine.onnx"],
    }  # fmt: skip
    assert [shlex.split(command)[1] for command in commands()] == list(leaves)
    for command in commands():
        # The page's numbers are for real pictures; here a single epoch must do.
        shorter = command.replace("--epochs 60", "--epochs 1").replace("360x480", "64x96")
        shorter = shorter.replace("--batch-size 8", "--batch-size 4 --set crop=64,64")
        arguments = shlex.split(shorter)[1:]
        assert main(arguments) == 0, (command, capsys.readouterr())
        for path in leaves[arguments[0]]:
            assert Path(path).exists(), (command, path)
    assert len((tmp_path / "mydata/val.txt").read_text().splitlines()) == 2
    assert len(list(Path("predictions").glob("*.png"))) == 10
    assert tsz.load_model("runs/mine/best.safetensors").labels.classes == CLASSES

    (python,) = blocks("python")
    capsys.readouterr()
    exec(compile(python, "finetune.md", "exec"), {})
    assert "'road'" in capsys.readouterr().out and Path("overlay.png").is_file()


def test_the_script_trains_on_a_folder_and_stops_at_bad_labels(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_pictures(tmp_path / "own" / split, 2)
    # Not the same pictures twice.
    for path in (tmp_path / "own/val/images").iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    for path in (tmp_path / "own/val/labels").iterdir():
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES) + "\n")
    arguments = [
        sys.executable, "-W", "ignore", ROOT / "examples/finetune.py", "own",
        "--classes", "names.txt", "--epochs", "2", "--batch-size", "2", "--crop", "64",
    ]  # fmt: skip

    def script() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            arguments, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    done = script()
    assert done.returncode == 0, done.stderr
    assert "nothing found" in done.stdout and "best after epoch" in done.stdout
    for name in CLASSES:
        assert re.search(rf"^{name} +\d+\.\d %$", done.stdout, re.M), done.stdout
    assert (tmp_path / "finetuned.png").is_file() and (tmp_path / "runs/mine/curve.png").is_file()

    path = tmp_path / "own/train/labels/0001.png"
    label = np.asarray(Image.open(path)).copy()
    label[0, :9] = 3
    Image.fromarray(label).save(path)
    refused = script()
    assert refused.returncode == 1 and "mend the errors first" in refused.stderr
    assert "label values that stand for no class: 3 (" in refused.stdout
    assert (tmp_path / "runs/mine-check/classes.json").is_file()
