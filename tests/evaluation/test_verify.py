"""Verifying a published score, on pictures whose labels hold under one preprocessing only."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from released import TAG, declare

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import folder
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.preprocess import IMAGENET_STD
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation.verify import verify
from torchseg_zoo.inference.modes import MultiScaleFlip, Sliding
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.weights import manifest

NAME = f"bisenet_x39.{TAG}"
LABELS = generic_labels(4, "four")
ONES = (1.0, 1.0, 1.0)
SIZE = (64, 96)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    made = tsz.bisenet_x39(num_classes=4).eval()
    made.labels = LABELS
    return made


def metric(miou_percent: float = 100.0, **more: Any) -> dict[str, Any]:
    fields = {"dataset": "testset", "split": "val", "mode": "whole", "source": "a test"}
    return {**fields, "miou_percent": miou_percent, **more}


def pictures(data: Path, model: SegmentationModel, std: tuple[float, ...]) -> Path:
    """Pictures whose labels are the model's own answers with this std: the score is 100 % there."""
    rng = np.random.default_rng(0)
    (data / "val" / "images").mkdir(parents=True)
    (data / "val" / "labels").mkdir()
    before = model.preprocess
    model.preprocess = dataclasses.replace(before, std=std)
    for index in range(2):
        coarse = rng.integers(0, 256, (8, 12, 3), np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC))
        Image.fromarray(image).save(data / "val" / "images" / f"{index}.png")
        labels = tsz.predict(model, image).labels
        Image.fromarray(labels).save(data / "val" / "labels" / f"{index}.png")
    model.preprocess = before
    return data


@contextmanager
def released(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> Iterator[None]:
    entry = {"unverified": ["preprocess.std"], "metrics": [metric()], **changes}
    with declare(model, tmp_path, monkeypatch, **entry):
        yield


def command(data: Path, *more: str) -> list[str]:
    return ["evaluate", "-m", NAME, "--data", str(data), "--device", "cpu", "--verify", *more]


@pytest.mark.parametrize(
    ("std", "shown", "todo"),
    [
        (
            ONES,
            "std (1, 1, 1) holds",
            'set "std": [1.0, 1.0, 1.0] in its "preprocess", take "preprocess.std" out of its '
            '"unverified", set its "status": "scored"',
        ),
        (
            IMAGENET_STD,
            "std (0.229, 0.224, 0.225) holds",
            f'entry {NAME}: take "preprocess.std" out of its "unverified", set its "status"',
        ),
    ],
)
def test_the_std_that_the_labels_need_is_found(
    std: tuple[float, ...], shown: str, todo: str, model: SegmentationModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = pictures(tmp_path / "data", model, std)
    with released(model, tmp_path, monkeypatch):
        assert main(command(data, "--save-json", str(tmp_path / "out.json"))) == 0
    done = capsys.readouterr()
    assert f"verdict: {shown}, within the tolerance of 0.5 points\n" in done.out
    assert todo in done.out and "published 100.00 % mIoU (testset val, whole; a test)" in done.out
    line = f"{NAME}: preprocessing unverified (preprocess.std); run torchseg-zoo evaluate --verify"
    assert done.err.count(line) == 1
    record = json.loads((tmp_path / "out.json").read_text())
    scores = {tuple(t["preprocess"]["std"]): t["scores"]["miou_percent"] for t in record["trials"]}
    assert scores.pop(std) == 100 and record["verified"]
    (other,) = scores.values()
    assert other < 95


@pytest.mark.parametrize(
    ("published", "more", "words"),
    [
        (20.0, [], "neither is within the tolerance of 0.5 points; std ("),
        (100.0, ["--tolerance-points", "100"], "so this data cannot tell; std (1, 1, 1) is nearer"),
    ],
)
def test_neither_and_both(
    published: float, more: list[str], words: str, model: SegmentationModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = pictures(tmp_path / "data", model, ONES)
    with released(model, tmp_path, monkeypatch, metrics=[metric(published)]):
        assert main(command(data, *more)) == 1
    out = capsys.readouterr().out
    assert words in out and "the manifest stays as it is" in out


def test_a_known_preprocessing_is_tried_alone(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = pictures(tmp_path / "data", model, IMAGENET_STD)
    for published, code, words in ((99.8, 0, "is reached"), (90.0, 1, "is not reached")):
        changes = {"metrics": [metric(published)], "unverified": [], "status": "scored"}
        with released(model, tmp_path, monkeypatch, **changes):
            assert main(command(data)) == code
        done = capsys.readouterr()
        assert f"the published score {words}" in done.out and done.out.count("\nstd (") == 1
        assert "unverified" not in done.err + done.out and "weights_manifest" not in done.out


def test_another_protocol_changes_no_manifest(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = pictures(tmp_path / "data", model, ONES)
    crop = metric(mode="centre crop", dataset="voc", split="test", protocol="a crop of 513")
    with released(model, tmp_path, monkeypatch, metrics=[crop, metric(dataset="cityscapes")]):
        assert main(command(data)) == 0
        first = capsys.readouterr().out
        assert main(command(data, "--score", "whole")) == 0
        second = capsys.readouterr().out
    assert "differs: this is val, the score is for test" in first
    assert "differs: the published mode, centre crop, cannot be replayed" in first
    assert "protocol: a crop of 513" in first
    assert "differs: 2 pictures, cityscapes val has 500" in second
    for out in (first, second):
        assert "points, but the protocol differs" in out and "before changing" in out


@pytest.mark.parametrize(
    ("replay", "mode"),
    [
        (Sliding((48, 48), (24, 24), merge="torchseg"), "sliding"),
        (MultiScaleFlip((0.5, 1.5), flip=True), "msf"),
    ],
)
def test_the_published_protocol_is_replayed(
    replay: Sliding | MultiScaleFlip, mode: str, model: SegmentationModel, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dataset = opened(pictures(tmp_path / "data", model, IMAGENET_STD))
    stated = {"mode": replay.to_dict(), "resize": {"short_side": 96, "long_side": 160}}
    published = metric(mode=mode, replay=stated)
    with released(model, tmp_path, monkeypatch, metrics=[metric(), published], unverified=[]):
        entry = manifest.find("bisenet_x39", TAG)
        found = verify(model, entry, dataset, score=mode, progress=False)
    larger = dataclasses.replace(model.preprocess, short_side=96, long_side=160)
    before, model.preprocess = model.preprocess, larger
    expected = tsz.evaluate(model, dataset, mode=replay, progress=False)
    model.preprocess = before
    whole = tsz.evaluate(model, dataset, progress=False)
    (trial,) = found.trials
    assert np.array_equal(trial.scores.confusion, expected.confusion)
    assert not np.array_equal(expected.confusion, whole.confusion) and not found.differences
    assert trial.preprocess == before


def test_labels_made_smaller(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(pictures(tmp_path / "data", model, IMAGENET_STD))
    published = metric(replay={"label_size": [8, 12]})
    with released(model, tmp_path, monkeypatch, metrics=[published], unverified=[]):
        entry = manifest.find("bisenet_x39", TAG)
        found = verify(model, entry, dataset, progress=False)
    right = total = 0
    for index in range(2):
        sample = dataset[index]
        assert sample.label is not None
        small = np.asarray(tsz.inference.scoring.label(model, sample.image, size=(8, 12)))
        right += int((small == sample.label[::8, ::8]).sum())
        total += small.size
    accuracy = found.trials[0].scores.pixel_accuracy_percent
    assert accuracy == pytest.approx(100 * right / total) and accuracy < 100


def opened(data: Path) -> Dataset:
    return folder(data / "val" / "images", data / "val" / "labels", LABELS)


def test_what_cannot_be_verified(
    model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = pictures(tmp_path / "data", model, ONES)
    with released(model, tmp_path, monkeypatch):
        plain = ["evaluate", "--data", str(data), "--device", "cpu"]
        for arguments, words in (
            (command(data, "--score", "msf"), "has no published msf score; published: whole"),
            (command(data, "--tolerance-points", "-1"), "tolerance_points: -1.0 is no tolerance"),
            (command(data, "--tolerance-points", "nan"), "nan is no tolerance"),
            ([*plain, "-c", "x.pth", "--verify"], "--verify: a file of your own"),
            ([*plain, "-m", NAME, "--score", "msf"], "add --verify"),
        ):
            assert main(arguments) == ArgumentError.exit_code
            assert words in capsys.readouterr().err
        entry, before = manifest.find("bisenet_x39", TAG), model.preprocess
        (data / "val" / "labels" / "1.png").write_bytes(b"no picture")
        with pytest.raises(DataError):
            verify(model, entry, opened(data), progress=False)
        assert model.preprocess is before
