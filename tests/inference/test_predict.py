"""``inference.predict`` and ``inference.batch``: any picture in, labels of its size out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import photo
from PIL import Image, ImageOps

import torchseg_zoo as tsz
from torchseg_zoo.data.image import read_image
from torchseg_zoo.data.label_map import read_label
from torchseg_zoo.data.transforms import resize_image
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, DataError, InputShapeError
from torchseg_zoo.inference.batch import predict_files
from torchseg_zoo.inference.jobs import find_pictures
from torchseg_zoo.inference.modes import Mode, MultiScaleFlip, Sliding, Whole
from torchseg_zoo.inference.prediction import Prediction
from torchseg_zoo.inference.scoring import scores
from torchseg_zoo.models.base import InputRule, SegmentationModel


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return tsz.bisenet_x39(num_classes=5)


def write(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(20, 30) if pixels is None else pixels).save(path)
    return path


# One picture


def test_every_form_of_a_picture_gives_the_same_labels(
    tmp_path: Path, model: SegmentationModel
) -> None:
    pixels = photo(37, 53)
    path = write(tmp_path / "a.png", pixels)
    want = tsz.predict(model, path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [
        str(path), pixels, Image.fromarray(pixels), pixels / 255,
        tensor, tensor[None].float() / 255,
        pixels.astype(np.uint16) << 8, np.dstack([pixels, np.full((37, 53), 255, np.uint8)]),
    ]  # fmt: skip
    for form in forms:
        got = tsz.predict(model, form)
        np.testing.assert_array_equal(got.labels, want.labels)
        np.testing.assert_array_equal(got.image, pixels)
    assert len(np.unique(want.labels)) > 1


def test_labels_are_the_argmax_of_the_models_logits(model: SegmentationModel) -> None:
    pixels = photo(45, 70)
    result = tsz.predict(model, pixels)
    with torch.inference_mode():
        logits = model(model.preprocess.tensor(pixels))
    ties = logits.topk(2, 1).values.diff(dim=1).abs()[0, 0] < 1e-4
    wrong = torch.from_numpy(result.labels) != logits.argmax(1)[0]
    assert not (wrong & ~ties).any() and ties.float().mean() < 0.01
    np.testing.assert_allclose(result.confidence, logits.softmax(1).amax(1)[0].numpy(), atol=1e-4)


MODES = {
    "whole": Whole(),
    "one window a pixel": Sliding((32, 32), (32, 32)),
    "sliding": Sliding((32, 32), (20, 20)),
    "logits": Sliding((32, 32), (20, 20), "logit-mean"),
    "flip": MultiScaleFlip((0.75, 1.25)),
    "torchseg": MultiScaleFlip((1.0, 1.5), True, None, "torchseg"),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_temperature_and_kind_of_confidence_in_every_mode(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    pixels = photo(64, 96)
    summed = scores(model, pixels, mode)
    probabilities = (
        summed.softmax(0) if mode.merge == "logit-mean" else summed / summed.sum(0)
    ).double()
    plain = tsz.predict(model, pixels, mode=mode)
    np.testing.assert_allclose(plain.confidence, probabilities.amax(0).numpy(), atol=1e-4)
    monkeypatch.setattr(model, "temperature", 2.0)
    cooled = probabilities.sqrt() / probabilities.sqrt().sum(0)  # p^(1/T), normalised
    first, second = cooled.topk(2, 0).values
    entropy = -(cooled * cooled.log()).sum(0)
    want = {"probability": first, "margin": first - second, "entropy": 1 - entropy / np.log(5)}
    for kind, expected in want.items():
        result = tsz.predict(model, pixels, mode=mode, confidence=kind)
        assert result.confidence_kind == kind
        np.testing.assert_allclose(result.confidence, expected.numpy(), atol=2e-4)
        np.testing.assert_array_equal(result.labels, plain.labels)


def test_a_confidence_that_does_not_exist(model: SegmentationModel) -> None:
    with pytest.raises(ArgumentError, match="no confidence 'sure'; known are probability, margin"):
        tsz.predict(model, photo(), confidence="sure")  # type: ignore[arg-type]


def test_the_temperature_travels_with_the_model(tmp_path: Path) -> None:
    model = tsz.bisenet_x39(num_classes=2)
    tsz.save_model(model, tmp_path / "plain.safetensors")
    assert b"temperature" not in (tmp_path / "plain.safetensors").read_bytes()
    model.temperature = 1.75
    tsz.save_model(model, tmp_path / "fitted.safetensors")
    model.save_pretrained(tmp_path / "folder")
    assert tsz.load_model(tmp_path / "fitted.safetensors").temperature == 1.75
    assert tsz.from_pretrained(tmp_path / "folder").temperature == 1.75
    assert tsz.load_model(tmp_path / "plain.safetensors").temperature == 1
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        model.temperature = bad
        tsz.save_model(model, tmp_path / "bad.safetensors")
        with pytest.raises(CheckpointFormatError, match="temperature is"):
            tsz.load_model(tmp_path / "bad.safetensors")
    model.reset_classifier(3)
    assert model.temperature == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (37, 53), (2, 3), (64, 96)])
def test_labels_have_the_pictures_size(model: SegmentationModel, size: tuple[int, int]) -> None:
    result = tsz.predict(model, photo(*size))
    assert result.labels.shape == size and result.labels.dtype == np.uint8
    assert result.labels.max() < 5
    assert result.confidence.shape == size and result.confidence.dtype == np.float32
    assert result.confidence.min() >= 1 / 5 - 1e-6 and result.confidence.max() <= 1
    assert sum(result.shares.values()) == pytest.approx(1)
    picture = np.asarray(result.overlay(legend=False))
    assert picture.shape == (*size, 3)
    with_legend = result.overlay()
    assert with_legend.height > size[0]
    np.testing.assert_array_equal(np.asarray(with_legend)[: size[0], : size[1]], picture)


def test_a_long_line_of_pixels(model: SegmentationModel) -> None:
    assert tsz.predict(model, photo(1, 4096)).labels.shape == (1, 4096)


def test_the_model_is_left_evaluating_and_no_gradient_is_kept(model: SegmentationModel) -> None:
    model.train()
    statistics = model.spatial_path.conv_7x7.norm.running_mean.clone()
    tsz.predict(model, photo())
    assert not model.training
    assert torch.equal(model.spatial_path.conv_7x7.norm.running_mean, statistics)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_preprocess_that_fits_pictures_into_a_side(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = dataclasses.replace(model.preprocess, short_side=64, long_side=100)
    monkeypatch.setattr(model, "preprocess", fitted)
    seen = []
    handle = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    for size in ((128, 160), (40, 20), (32, 200)):
        assert tsz.predict(model, np.full((*size, 3), 90, np.uint8)).labels.shape == size
    handle.remove()
    assert [tuple(shape[2:]) for shape in seen] == [(64, 80), (100, 50), (16, 100)]


def test_a_preprocess_that_resizes(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = photo(37, 53)
    smaller = dataclasses.replace(model.preprocess, resize=(64, 48))
    monkeypatch.setattr(model, "preprocess", smaller)
    result = tsz.predict(model, pixels)
    assert result.labels.shape == (37, 53)
    np.testing.assert_array_equal(result.image, pixels)
    with torch.inference_mode():
        x = smaller.tensor(resize_image(pixels, (64, 48)))
        logits = model(x, upsample=False)
        want = torch.nn.functional.interpolate(
            logits, (37, 53), mode="bilinear", align_corners=True
        )
    assert (result.labels != want.argmax(1)[0].numpy()).mean() < 0.005


def test_a_model_that_wants_multiples_gets_a_padded_picture(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model), "input_rule", InputRule(multiple=32))
    seen = []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    pixels = photo(37, 53)
    result = tsz.predict(model, pixels)
    hook.remove()
    assert seen[0].shape == (1, 3, 64, 64)
    torch.testing.assert_close(seen[0][:, :, :37, :53], model.preprocess.tensor(pixels))
    assert seen[0][:, :, 37:].abs().max() < 0.01
    assert result.labels.shape == result.confidence.shape == (37, 53)


def test_pictures_of_every_kind_end_to_end(tmp_path: Path, model: SegmentationModel) -> None:
    pixels = photo(24, 36)
    grey = pixels[:, :, 0]
    turned = Image.Exif()
    turned[274] = 6
    plain = Image.fromarray(pixels)
    plain.save(tmp_path / "exif.jpg", exif=turned, quality=95)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    plain.quantize(16).save(tmp_path / "palette.png")
    plain.convert("CMYK").save(tmp_path / "cmyk.jpg")
    with Image.open(tmp_path / "exif.jpg") as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    result = tsz.predict(model, tmp_path / "exif.jpg")
    assert result.labels.shape == (36, 24)
    np.testing.assert_array_equal(result.labels, tsz.predict(model, upright).labels)
    same = [tsz.predict(model, tmp_path / name).labels for name in ("16.png", "grey.png")]
    np.testing.assert_array_equal(*same)
    for name in ("palette.png", "cmyk.jpg"):
        assert tsz.predict(model, tmp_path / name).labels.shape == (24, 36)


def test_what_is_written_can_be_read_again(tmp_path: Path, model: SegmentationModel) -> None:
    result = tsz.predict(model, photo(37, 53))
    assert result.save(tmp_path / "o.png") == tmp_path / "o.png"
    np.testing.assert_array_equal(read_image(tmp_path / "o.png"), np.asarray(result.overlay()))
    labels = result.save_labels(str(tmp_path / "l.png"))
    np.testing.assert_array_equal(read_label(labels), result.labels)
    np.testing.assert_array_equal(
        read_image(labels), result.label_set.palette_array()[result.labels]
    )
    grey = read_image(result.save_confidence(tmp_path / "c.png"))[:, :, 0]
    assert np.abs(grey / 255 - result.confidence).max() <= 0.5 / 255 + 1e-6
    summary = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (summary["height"], summary["width"]) == (37, 53)
    assert list(summary["shares"].values()) == sorted(summary["shares"].values(), reverse=True)


def test_confidence_is_computed_once_and_only_when_asked_for() -> None:
    calls = []

    def compute() -> np.ndarray:
        calls.append(1)
        return np.ones((2, 2), np.float32)

    labels = tsz.LabelSet("x", ("a", "b"), ((0, 0, 0), (9, 9, 9)))
    result = Prediction(
        np.array([[0, 0], [0, 1]], np.uint8), np.zeros((2, 2, 3), np.uint8), labels, compute
    )
    assert result.shares == {"a": 0.75, "b": 0.25} and result.classes == ("a", "b")
    assert not calls
    assert result.confidence is result.confidence
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((0, 4, 3), np.uint8), DataError),
        (np.full((4, 4, 3), 7.0), ArgumentError),
        (3, ArgumentError),
        ("nowhere.png", DataError),
        (torch.zeros(2, 3, 8, 8), ArgumentError),
    ],
)
def test_what_is_no_picture(model: SegmentationModel, image: Any, error: type) -> None:
    with pytest.raises(error):
        tsz.predict(model, image)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_of_other_channels_says_that_it_takes_no_pictures(channels: int) -> None:
    model = tsz.bisenet_x39(num_classes=2, in_channels=channels)
    with pytest.raises(InputShapeError, match=f"takes {channels} channels, and a picture has 3"):
        tsz.predict(model, photo(32, 32))


# Finding pictures


def test_inputs_are_files_folders_and_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.jpg", "sub/c.png", "sub/deep/d.png", "[x].png"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)

    def found(*inputs: str) -> list[str]:
        return [str(path) for path in find_pictures(inputs)]

    assert found("b.jpg", "a.png", "b.jpg") == ["b.jpg", "a.png"]
    assert found(".") == ["[x].png", "a.png", "b.jpg"]
    assert found("*.png") == ["[x].png", "a.png"]
    assert found("[x].png") == ["[x].png"]  # a file of that name is no pattern
    assert found("**/*.png") == ["[x].png", "a.png", "sub/c.png", "sub/deep/d.png"]
    assert found("sub/*") == ["sub/c.png"]  # not the folder sub/deep
    assert found("missing.png") == ["missing.png"]  # named by the reader, with the others
    for pattern in ("*.bmp", "su?"):
        with pytest.raises(DataError, match="nothing matches"):
            find_pictures([pattern])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in this folder"):
        find_pictures(["empty"])


# Many pictures


def test_a_bad_picture_does_not_stop_the_others_or_change_them(
    tmp_path: Path, model: SegmentationModel
) -> None:
    good = [write(tmp_path / f"{name}.png", photo(20, 30, seed)) for seed, name in enumerate("abc")]
    (tmp_path / "bad.png").write_bytes(good[0].read_bytes()[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    pictures = [good[0], tmp_path / "bad.png", good[1], tmp_path / "empty.png", good[2]]
    report = predict_files(
        model, pictures, tmp_path / "out", labels=True, confidence=True, progress=False
    )
    assert [result.source for result in report.done] == good
    assert [error.where for error in report.failed] == [str(p) for p in pictures if p not in good]
    for path, result in zip(good, report.done, strict=True):
        assert [file.name for file in result.files] == [
            f"{path.stem}_{kind}.png" for kind in ("overlay", "labels", "confidence")
        ]
        np.testing.assert_array_equal(read_label(result.files[1]), tsz.predict(model, path).labels)
    assert len(list((tmp_path / "out").glob("*.png"))) == 9


def test_results_of_the_same_name_do_not_overwrite_each_other(
    tmp_path: Path, model: SegmentationModel
) -> None:
    names = ("x/a.png", "y/a.png", "x/a.jpg", "y/a.png.png", "x/b.png")
    pictures = [write(tmp_path / name) for name in names]
    report = predict_files(model, pictures, tmp_path / "out", progress=False)
    files = [result.files[0].name for result in report.done]
    assert len(set(files)) == len(files) == 5
    assert files[-1] == "b_overlay.png" and files[2] == "a.jpg_overlay.png"
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == set(files)


def test_a_result_never_replaces_a_picture(tmp_path: Path, model: SegmentationModel) -> None:
    picture = write(tmp_path / "a.png")
    second = write(tmp_path / "a_overlay.png")
    before = picture.read_bytes(), second.read_bytes()
    for pictures, out in (([picture], picture), ([picture, second], tmp_path)):
        with pytest.raises(ArgumentError, match="would replace this picture"):
            predict_files(model, pictures, out, progress=False)
    assert (picture.read_bytes(), second.read_bytes()) == before


def test_one_picture_may_be_written_to_a_named_file(
    tmp_path: Path, model: SegmentationModel
) -> None:
    picture = write(tmp_path / "a.png")
    report = predict_files(
        model, [picture], tmp_path / "new" / "o.PNG", labels=True, progress=False
    )
    assert [file.name for file in report.done[0].files] == ["o.PNG", "a_labels.png"]
    with pytest.raises(ArgumentError, match="one file name for 2 pictures"):
        predict_files(model, [picture, picture], tmp_path / "o.png", progress=False)


def test_a_folder_that_cannot_be_written_is_named_before_any_work(
    tmp_path: Path, model: SegmentationModel
) -> None:
    picture = write(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png/out: cannot create the folder"):
        predict_files(model, [picture], picture / "out", progress=False)


def test_a_result_that_cannot_be_written_is_that_pictures_failure(
    tmp_path: Path, model: SegmentationModel
) -> None:
    pictures = [write(tmp_path / "a.png"), write(tmp_path / "b.png")]
    (tmp_path / "out" / "a_overlay.png").mkdir(parents=True)
    report = predict_files(model, pictures, tmp_path / "out", progress=False)
    assert [result.source.name for result in report.done] == ["b.png"]
    assert "a_overlay.png" in str(report.failed[0])
