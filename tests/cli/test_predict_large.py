"""``torchseg-zoo predict-large`` from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.inference.modes import Whole


def test_file_to_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.npy"
    np.save(picture, draw_street(1, (300, 400))[0])
    target = tmp_path / "labels.png"
    assert main(["predict-large", str(picture), "-o", str(target), "--window", "512x512"]) == 0
    told = capsys.readouterr()
    assert "MiB of memory" in told.err and str(target) in told.out
    model = tsz.bisenet_x39(pretrained="camvid")
    with Image.open(target) as labels:
        same = np.asarray(labels) == tsz.predict(model, np.load(picture), mode=Whole()).labels
    assert same.mean() > 0.9999


def test_limits_and_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a.npy"
    np.save(picture, np.zeros((100, 100, 3), np.uint8))
    command = ["predict-large", str(picture), "-o", str(tmp_path / "o.npy")]
    assert main([*command, "--memory-limit", "1"]) == ArgumentError.exit_code
    assert "more than the 1 allowed" in capsys.readouterr().err
    assert not (tmp_path / "o.npy").exists()
    for size in ("512", "0x5", "axb"):
        with pytest.raises(SystemExit):
            main([*command, "--window", size])
        assert "HEIGHTxWIDTH" in capsys.readouterr().err
