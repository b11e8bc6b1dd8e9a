"""Released data sets on the command line: trained on, scored, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trees import cityscapes_tree

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.label_sets import CITYSCAPES
from torchseg_zoo.data.prepare import prepare
from torchseg_zoo.errors import ArgumentError, DataError


def test_a_model_is_trained_on_the_tree_and_scored_on_tree_and_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = cityscapes_tree(tmp_path / "data"), tmp_path / "run"
    train = [
        "train",
        "--epochs",
        "1",
        "--batch-size",
        "2",
        "--device",
        "cpu",
        "--set",
        "crop=32,32",
    ]
    assert main([*train, "--data", f"cityscapes:{root}", "--out", str(run)]) == 0
    assert tsz.load_model(run / "best.safetensors").labels.classes == CITYSCAPES.classes
    prepare("cityscapes", root)
    scores = []
    for data in (f"cityscapes:{root}", str(root), str(root / "val.txt")):
        file = tmp_path / "scores.json"
        arguments = ["evaluate", "-c", str(run / "best.safetensors"), "--data", data]
        assert main([*arguments, "--save-json", str(file)]) == 0
        scores.append(json.loads(file.read_text())["confusion"])
    assert scores[0] == scores[1] == scores[2] and sum(map(sum, scores[0])) > 0
    capsys.readouterr()

    # One list cannot be both splits, whatever stands before its path.
    code = main([*train, "--data", f"cityscapes:{root}/train.txt", "--out", str(tmp_path / "b")])
    assert code == ArgumentError.exit_code
    assert "a list file is one split" in capsys.readouterr().err


def test_another_folder_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    root, checkpoint = cityscapes_tree(tmp_path / "data"), tmp_path / "model.safetensors"
    tsz.save_model(tsz.bisenet_x39(num_classes=19), checkpoint)
    for data, words in {
        f"cityscapes:{tmp_path}": f"one level too high for Cityscapes; give {root}",
        f"ade20k:{root}": "not the folder of ADE20K: there is no images/validation",
        f"cityscapes_coarse:{root}": "there is no gtCoarse",
    }.items():
        code = main(["evaluate", "-c", str(checkpoint), "--data", data])
        err = capsys.readouterr().err
        assert code == DataError.exit_code and words in err
        assert err.startswith("torchseg-zoo: DataError: ") and err.count("\n") == 1
