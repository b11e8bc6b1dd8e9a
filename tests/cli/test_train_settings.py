"""``torchseg-zoo train``: recipes, dry runs and files of settings, without any training."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from torchseg_zoo.cli import main
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.training.recipes import RECIPES


def test_a_dry_run_prints_the_whole_run_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = ["--recipe", "bisenet_r18.cityscapes", "--data", "/nowhere"]
    assert main(["train", *recipe, "--set", "lr=0.005", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# bisenet_r18.cityscapes: configured as published; not trained here\n")
    settings, _, plan = out.partition("\n\n")
    read = tomllib.loads(settings)
    assert (read["lr"], read["data"], read["crop"]) == (0.005, "cityscapes:/nowhere", [1024, 1024])
    for part in (
        "80 epochs × 1000 = 80000 steps of 16 samples of 1024×1024",
        "13.49 M parameters",
        "resnet18.gluon_in1k, ImageNet weights",
        "at least 1048576 pixels of each process",
        "windows of 1024×1024, stride rate 0.8333",
        "GiB activations",
        "backbone              0.005      0.0005        20   11166912",
    ):
        assert part in plan
    assert not list(tmp_path.iterdir())
    assert main(["train", *recipe, "-d", "cpu,cpu,cpu,cpu", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "on 4 processes" in plan and "at least 262144 pixels of each process" in plan


def test_settings_are_written_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    options = ["--recipe", "dfn_r101.voc", "--set", "device=cpu", "--set", "head_modules=head,"]
    assert main(["train", *options, "--save-config", str(first)]) == 0
    assert "not trained here" in first.read_text()
    assert main(["train", "--config", str(first), "--seed", "7", "--save-config", str(second)]) == 0
    before, after = (tomllib.loads(path.read_text()) for path in (first, second))
    assert after == before | {"seed": 7}
    assert after["device"] == "cpu" and after["head_modules"] == ["head"]
    capsys.readouterr()
    first.write_text("epoch = 3\n")
    assert main(["train", "--config", str(first), "--dry-run"]) == ArgumentError.exit_code
    assert "unknown settings: epoch; did you mean epochs?" in capsys.readouterr().err
    options = ["--recipe", "dfn_r101.voc", "--save-config", str(tmp_path / "no" / "file.toml")]
    assert main(["train", *options]) == DataError.exit_code


def test_recipes_are_listed_and_misspelt_ones_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(RECIPES)
    assert main(["train", "--recipe", "bisenet_r18.cityscape", "--dry-run"]) == 4
    assert "did you mean bisenet_r18.cityscapes?" in capsys.readouterr().err
    assert main(["train", "--recipe", "bisenet_r18.cityscapes"]) == 4
    assert "give its folder: data= (--data DIR)" in capsys.readouterr().err


def test_from_scratch_drops_the_imagenet_weights(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--recipe", "pspnet_r50.ade20k", "--from-scratch", "--dry-run"]
    assert main(["train", *options]) == 0
    out = capsys.readouterr().out
    assert "pretrained_backbone = false" in out and "from scratch" in out
