"""``training.network``: options reach the model, and no run starts from noise in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import torchseg_zoo as tsz
from torchseg_zoo.backbones.xception39 import Xception39
from torchseg_zoo.cli import main
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, DownloadError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.network import build_network, load_backbone


def test_options_reach_the_model() -> None:
    config = TrainConfig(
        model="deeplabv3_r50", backbone="resnet26", output_stride=16, multi_grid=(1, 2)
    )
    with torch.device("meta"):
        model = build_network(config, 5)
        fresh = tsz.encnet_r50(lateral=True)
        encnet = build_network(TrainConfig(model="encnet_r50", lateral=True), None)
    assert model.num_classes == 5 and model.config.backbone == "resnet26"
    options = model.config.backbone_options
    assert (options.output_stride, options.last_stage) == (16, (2, 4))
    assert encnet.config == fresh.config
    with pytest.raises(ArgumentError, match=r"bisenet_x39 does not take all of .*lateral=True"):
        build_network(TrainConfig(lateral=True), 5)


def test_fresh_heads_follow_the_asked_for_fan() -> None:
    def spread(fan: str) -> float:
        torch.manual_seed(0)
        config = TrainConfig(model="fcn32s_r101", backbone="resnet18", init_fan=fan)  # type: ignore[arg-type]
        model = build_network(config, 21)
        return model.get_parameter("head.classifier.weight").std().item()

    # 512 channels in, 21 classes out of a 1×1.
    assert spread("fan_in") == pytest.approx((2 / 512) ** 0.5, rel=0.05)
    assert spread("fan_out") == pytest.approx((2 / 21) ** 0.5, rel=0.05)


def test_imagenet_weights_that_cannot_be_had_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    out = tmp_path / "run"
    recipe = ["--recipe", "bisenet_r18.cityscapes", "--data", "drawn", "--workers", "0"]
    code = main(["train", *recipe, "--set", "val_data=drawn", "--out", str(out)])
    assert code == DownloadError.exit_code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("torchseg-zoo: DownloadError: ")
    assert "ImageNet weights of resnet18.gluon_in1k could not be loaded" in line
    assert "start from noise with pretrained_backbone=False (--from-scratch)" in line
    assert not list(out.glob("*.safetensors"))


def test_xception39_says_that_it_has_no_published_weights() -> None:
    with pytest.raises(DownloadError, match=r"no published ImageNet weights.*--from-scratch"):
        build_network(TrainConfig(model="bisenet_x39", pretrained_backbone=True), 5)


@pytest.mark.parametrize("suffix", ["safetensors", "pth.tar"])
def test_weights_of_ones_own_fill_the_backbone(tmp_path: Path, suffix: str) -> None:
    classifier = Xception39(num_classes=10)
    path = tmp_path / f"xception39.{suffix}"
    if suffix == "safetensors":
        save_file(classifier.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": classifier.state_dict()}, path)
    model = build_network(TrainConfig(backbone_weights=str(path)), 5)
    for name, value in model.backbone.body.state_dict().items():
        assert torch.equal(value, classifier.state_dict()[name]), name


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path: Path) -> None:
    model = tsz.bisenet_x39(num_classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    for tensors, match in (
        ({"layer.weight": torch.zeros(3)}, "holds no weights of xception39"),
        ({"conv1.conv.weight": torch.zeros(8, 3, 3, 3)}, "missing"),
        ({**model.backbone.body.state_dict(), "stem.weight": torch.zeros(1)}, "unexpected"),
    ):
        save_file(tensors, path)
        with pytest.raises(CheckpointFormatError, match=match):
            load_backbone(model, str(path))
    with pytest.raises(CheckpointFormatError, match=r"nowhere\.safetensors"):
        load_backbone(model, str(tmp_path / "nowhere.safetensors"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
