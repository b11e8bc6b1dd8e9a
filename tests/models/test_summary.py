"""``summary`` and ``torchseg-zoo info``: figures are counted, and counted right."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import torchseg_zoo as tsz
from torchseg_zoo.backbones import Backbone
from torchseg_zoo.cli import main
from torchseg_zoo.errors import InputShapeError, UnknownCheckpointError, UnknownModelError
from torchseg_zoo.models.base import ModelConfig, SegmentationModel
from torchseg_zoo.types import SegOutput
from torchseg_zoo.weights import manifest


class HandCountedNet(SegmentationModel):
    """Small enough to be counted by hand."""

    config_class = ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.backbone = Backbone(_OneMap(), (8,), (4,))
        self.classifier = nn.Conv2d(8, config.num_classes, 1)
        self.aux_heads = nn.ModuleDict({"extra": nn.Conv2d(8, config.num_classes, 3, padding=1)})

    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        (features,) = self.backbone(x)
        aux = {"extra": self.aux_heads["extra"](features)} if with_aux else {}
        return SegOutput(self.classifier(features), aux)

    def classifiers(self) -> dict[str, nn.Conv2d]:
        return {"classifier": self.classifier}


class _OneMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.depthwise(self.patches(x))]


def test_a_net_counted_by_hand() -> None:
    model = HandCountedNet(ModelConfig("hand_counted", "none", num_classes=5))
    counted = tsz.summary(model, size=(32, 64))
    cells = 8 * 16
    by_hand = cells * 8 * (3 * 4 * 4) + cells * 8 * (3 * 3) + cells * 5 * 8
    assert counted.gmacs == by_hand / 1e9
    patches, depthwise, classifier, extra = 8 * 48, 8 * 9 + 8, 8 * 5 + 5, 8 * 9 * 5 + 5
    assert counted.inference_parameters == patches + depthwise + classifier
    assert counted.parameters == counted.inference_parameters + extra
    assert (counted.size, counted.head_stride, counted.num_classes) == ((32, 64), 4, 5)
    assert (counted.channels, counted.strides) == ((8,), (4,))
    assert (counted.model, counted.family) == ("hand_counted", "HandCountedNet")
    assert counted.aux_heads == ("extra",)


@pytest.mark.parametrize("name", ["fcn_r18", "bisenet_r18", "deeplabv3_r18", "denseaspp_d121"])
def test_convolutions_counted_one_by_one(name: str) -> None:
    """These families' work is convolutions alone, which hooks can count by their shapes."""
    with torch.device("meta"):
        model = tsz.create_model(name).eval()
    macs = 0

    def count(conv: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal macs
        assert isinstance(conv, nn.Conv2d)
        macs += out.numel() * conv.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.empty(1, 3, 96, 160, device="meta"))
    by_hand = macs  # the hooks go on counting
    counted = tsz.summary(model, size=(96, 160))
    assert counted.gmacs == pytest.approx(by_hand / 1e9, rel=0.005)
    assert counted.parameters == sum(one.numel() for one in model.parameters())


def test_a_fused_model_is_counted_as_it_was_built() -> None:
    model = tsz.bisenet_x39(num_classes=4)
    before = tsz.summary(model, size=(64, 64))
    assert tsz.summary(model.fuse(), size=(64, 64)) == before and model.fused


def test_sizes_that_do_not_work_are_refused() -> None:
    with torch.device("meta"):
        model = tsz.psanet_r50()
    assert tsz.summary(model).size == (480, 480)
    with pytest.raises(InputShapeError, match="480×480 only"):
        tsz.summary(model, size=(512, 512))


# info


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["info", *arguments]) == 0
    return capsys.readouterr().out


def test_info_says_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    name = "pspnet_r50.ade20k"
    text = printed(capsys, name, "--size", "256x512")
    entry = manifest.find("pspnet_r50", "ade20k")
    with torch.device("meta"):
        cls = type(tsz.pspnet_r50())
        model = cls(cls.config_class.from_dict(entry.config))
    counted = tsz.summary(model, size=(256, 512))
    for part in (
        f"{name} (PSPNet)",
        f"{counted.backbone}, maps of {counted.channels} channels at strides {counted.strides}",
        f"classes:     {entry.labels.num_classes}",
        f"{counted.parameters:,} ({counted.inference_parameters:,} without auxiliary heads)",
        f"{counted.gmacs:.2f} GMACs at 256×512",
        "at stride 8; auxiliary heads: stage3",
        "input sizes: any",
        entry.preprocess.describe(),
        f"{entry.name}  [{entry.status}: ",
        entry.origin,
        f"{entry.metrics[0].miou_percent:.2f} % mIoU, ade20k val",
        f"in the paper: {entry.metrics[0].paper['miou_percent']:.2f} % mIoU",
        "licence of the repository: Apache-2.0",
        "Pyramid Scene Parsing Network, CVPR 2017, https://arxiv.org/abs/1612.01105",
        "@inproceedings{zhao2017pspnet,",
    ):
        assert part in text, part
    for licence in entry.licenses.values():
        assert licence in text


def test_info_of_a_model_lists_its_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "bisenet_x39")
    for entry in manifest.list_checkpoints("bisenet_x39"):
        assert f"  {entry.name}  [" in text
    assert "multiples of 32" in printed(capsys, "dfn_r101")
    assert "480×480 only" in printed(capsys, "psanet_r50")
    assert "checkpoints: none released" in printed(capsys, "ocnet_asp_r101")


def test_info_refuses_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Case:
        arguments: tuple[str, ...]
        code: int
        words: str

    for case in (
        Case(("pspnet_r5",), UnknownModelError.exit_code, "did you mean pspnet_r50"),
        Case(("pspnet_r50.ade",), UnknownCheckpointError.exit_code, "'ade20k'"),
        Case(("dfn_r101", "--size", "100x100"), InputShapeError.exit_code, "pad to 128×128"),
    ):
        assert main(["info", *case.arguments]) == case.code
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1
        assert case.words in captured.err
    for size in ("0x64", "big"):
        with pytest.raises(SystemExit) as wrong_usage:
            main(["info", "dfn_r101", "--size", size])
        assert wrong_usage.value.code == 2
        assert f"'{size}' is no size" in capsys.readouterr().err


def test_info_neither_makes_nor_fetches_weights() -> None:
    script = (
        "import resource, sys, torchseg_zoo.cli\n"
        "sys.addaudithook(lambda event, _: event.startswith('socket.') and sys.exit(event))\n"
        "import torch, timm\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "code = torchseg_zoo.cli.main(['info', 'dfn_r101.cityscapes'])\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 300_000, grown  # the weights alone would be 350 MB\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
