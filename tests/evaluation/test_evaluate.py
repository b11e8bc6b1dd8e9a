"""``evaluation``: scores, their protocol and card, calibration, and the page, on real pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets, list_file
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.sample import Sample
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation import (
    Origin,
    Protocol,
    read_card,
    replay,
    write_card,
    write_report,
)
from torchseg_zoo.evaluation.protocol import list_digest
from torchseg_zoo.evaluation.result import Evaluation
from torchseg_zoo.inference.modes import MultiScaleFlip, Sliding, Whole
from torchseg_zoo.models.base import SegmentationModel

SIZE = (96, 128)


@pytest.fixture(scope="module")
def streets() -> DrawnStreets:
    return DrawnStreets(4, seed=7, size=SIZE)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid")


@pytest.fixture(scope="module")
def evaluation(model: SegmentationModel, streets: DrawnStreets) -> Evaluation:
    return tsz.evaluate(model, streets, boundary_share=0.02, reliability=True, progress=False)


class Changed:
    """A data set with one sample replaced."""

    def __init__(self, base: DrawnStreets, index: int, sample: Sample) -> None:
        self.labels, self._base, self._index, self._sample = base.labels, base, index, sample

    def __len__(self) -> int:
        return len(self._base)

    def __getitem__(self, index: int, /) -> Sample:
        return self._sample if index == self._index else self._base[index]


# Scores


def test_scores_agree_with_the_predictions(
    model: SegmentationModel, streets: DrawnStreets, evaluation: Evaluation
) -> None:
    confusion = np.zeros((11, 11), np.int64)
    confidences, rights = [], []
    for picture, score in zip(map(streets.__getitem__, range(4)), evaluation.pictures, strict=True):
        result = tsz.predict(model, picture.image)
        assert picture.label is not None and score.name == picture.name
        own = np.zeros((11, 11), np.int64)
        np.add.at(own, (picture.label, result.labels), 1)
        confusion += own
        union = own.sum(0) + own.sum(1) - own.diagonal()
        miou = 100 * (own.diagonal()[union > 0] / union[union > 0]).mean()
        assert score.miou_percent == pytest.approx(miou)
        assert score.pixel_accuracy_percent == pytest.approx(100 * own.trace() / own.sum())
        confidences.append(result.confidence)
        rights.append(result.labels == picture.label)
    np.testing.assert_array_equal(evaluation.confusion, confusion)
    assert evaluation.pixel_accuracy_percent == pytest.approx(100 * np.mean(rights))
    assert evaluation.picture_miou_percent == pytest.approx(
        np.mean([score.miou_percent for score in evaluation.pictures])
    )
    assert evaluation.reliability is not None
    assert sum(evaluation.reliability.counts) == 4 * SIZE[0] * SIZE[1]
    total = np.nansum(np.multiply(evaluation.reliability.counts, evaluation.reliability.confidence))
    assert total == pytest.approx(float(np.sum(confidences)), rel=1e-5)


def test_the_worst_come_first_and_unlabelled_pictures_not_at_all(
    model: SegmentationModel, streets: DrawnStreets
) -> None:
    sample = streets[2]
    blank = dataclasses.replace(sample, label=np.full(SIZE, 255, np.uint8))
    found = tsz.evaluate(model, Changed(streets, 2, blank), progress=False)
    assert math.isnan(found.pictures[2].miou_percent)
    worst = found.worst(10)
    assert [score.index for score in worst] == sorted(
        (0, 1, 3), key=lambda index: found.pictures[index].miou_percent
    )
    assert found.worst(1) == worst[:1]
    assert found.picture_miou_percent == pytest.approx(
        np.mean([score.miou_percent for score in worst])
    )


def test_labels_may_be_scored_at_another_size(
    model: SegmentationModel, streets: DrawnStreets
) -> None:
    found = tsz.evaluate(model, streets, label_size=(24, 32), progress=False)
    assert found.confusion.sum() == 4 * 24 * 32
    assert found.protocol.label_size == [24, 32]


def test_training_goes_on_where_it_was(streets: DrawnStreets) -> None:
    model = tsz.bisenet_x39(pretrained="camvid").train()
    tsz.evaluate(model, streets, progress=False)
    assert model.training


# Protocol


def test_the_protocol_tells_what_was_measured(
    model: SegmentationModel, evaluation: Evaluation, tmp_path: Path
) -> None:
    protocol = evaluation.protocol
    assert protocol.mode == Whole().to_dict() and protocol.ignore_index == 255
    assert protocol.data["count"] == 4 and protocol.data["labelled_pixels"] == 4 * 96 * 128
    assert protocol.preprocess == model.preprocess.to_dict()
    assert protocol.software["torch"] == torch.__version__
    again = Protocol.from_dict(json.loads(json.dumps(protocol.to_dict())))
    assert again.to_dict() == protocol.to_dict() and not protocol.differences(again)
    # The digest is of the tensors: neither the file nor the temperature changes it.
    copy = tsz.bisenet_x39(pretrained="camvid")
    copy.temperature = 2.0
    tsz.save_model(copy, tmp_path / "copy.safetensors")
    loaded = tsz.load_model(tmp_path / "copy.safetensors")
    streets = DrawnStreets(1, seed=7, size=SIZE)
    digests = [
        tsz.evaluate(one, streets, progress=False).protocol.model["weights_sha256"]
        for one in (copy, loaded)
    ]
    assert digests == [protocol.model["weights_sha256"]] * 2
    with torch.no_grad():
        next(loaded.parameters()).view(-1)[0] += 1e-6
    moved = tsz.evaluate(loaded, streets, progress=False).protocol
    assert moved.model["weights_sha256"] != digests[0]
    fused = tsz.evaluate(loaded.fuse(), streets, progress=False).protocol
    assert fused.model["weights_sha256"] == ""


def test_differences_are_named_and_decisive_ones_come_first(evaluation: Evaluation) -> None:
    other = dataclasses.replace(
        evaluation.protocol,
        mode=Sliding((64, 64), (32, 32)).to_dict(),
        origin=Origin(data="drawn"),
        software={**evaluation.protocol.software, "torch": "1.0"},
        ignore_index=0,
    )
    found = evaluation.protocol.differences(other)
    decisive = [one.field for one in found if one.decisive]
    assert decisive == ["mode.mode", "ignore_index", "mode.window", "mode.stride"]
    rest = [one for one in found if not one.decisive]
    assert [one.field for one in rest] == ["origin.data", "software.torch"]
    assert list(found) == [*(one for one in found if one.decisive), *rest]
    assert str(rest[0]) == "origin.data was not given, is drawn"


def test_the_list_digest_follows_order_names_and_sizes_but_not_the_folder() -> None:
    samples = [("/data/a/x.png", (4, 5)), ("/data/b/y.png", (4, 5))]
    digest = list_digest(samples)
    assert digest == list_digest([("/moved/to/a/x.png", (4, 5)), ("/moved/to/b/y.png", (4, 5))])
    for other in (
        samples[::-1],
        samples[:1],
        [samples[0], ("/data/b/z.png", (4, 5))],
        [samples[0], ("/data/c/y.png", (4, 5))],
        [samples[0], ("/data/b/y.png", (5, 4))],
    ):
        assert list_digest(other) != digest
    assert list_digest([("street-1", (4, 5))]) == list_digest([("street-1", (4, 5))])


# Cards and replays


def test_a_card_keeps_scores_and_protocol(evaluation: Evaluation, tmp_path: Path) -> None:
    write_card(evaluation, tmp_path / "card.json")
    card = read_card(tmp_path / "card.json")
    assert card.scores["miou_percent"] == round(evaluation.miou_percent, 4)
    assert card.scores["iou_percent[3]"] == round(evaluation.iou_percent[3], 4)
    assert card.boundary_share == 0.02
    assert card.protocol.to_dict() == evaluation.protocol.to_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.pop("format"), "its format is not"),
        (lambda record: record.pop("miou_percent"), "KeyError"),
        (lambda record: record.update(miou_percent="66"), "'66' is no score"),
        (lambda record: record.update(iou_percent=None), "TypeError"),
        (lambda record: record.pop("protocol"), "KeyError"),
        (lambda record: record["protocol"].pop("mode"), "lacks mode"),
        (lambda record: record["protocol"].update(extra=1), "unknown are extra"),
        (lambda record: record["protocol"].update(mode=3), "mode of the protocol"),
        (lambda record: record["protocol"]["origin"].update(disk=1), "origin of the protocol"),
        (lambda record: record.update(boundary={}), "KeyError"),
    ],
)
def test_what_is_no_card(evaluation: Evaluation, tmp_path: Path, change: Any, words: str) -> None:
    path = tmp_path / "card.json"
    record = evaluation.to_dict()
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"card.json: .*{words}"):
        read_card(path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"[]", b"{}", b"<html>"])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"card.json: is no card of a score"):
        read_card(path)


def test_a_replay_in_every_mode_holds(
    model: SegmentationModel, streets: DrawnStreets, tmp_path: Path
) -> None:
    modes = (Sliding((96, 96), (96, 64)), MultiScaleFlip((0.75,), True, None, "torchseg"))
    for mode in modes:
        found = tsz.evaluate(model, streets, mode=mode, label_size=(48, 64), progress=False)
        write_card(found, tmp_path / "card.json")
        again = replay(tmp_path / "card.json", model=model, dataset=streets, progress=False)
        assert again.holds and not again.differences and not again.moved
        np.testing.assert_array_equal(again.evaluation.confusion, found.confusion)
        assert again.describe().startswith("the score holds: mean IoU")


def test_a_replay_names_what_changed(
    model: SegmentationModel, streets: DrawnStreets, evaluation: Evaluation, tmp_path: Path
) -> None:
    card = tmp_path / "card.json"
    write_card(evaluation, card)
    # The same pictures with a label map rotted: only the scores can tell.
    sample = streets[1]
    assert sample.label is not None
    rotten = Changed(streets, 1, dataclasses.replace(sample, label=sample.label[::-1].copy()))
    again = replay(card, model=model, dataset=rotten, progress=False)
    assert not again.holds and not again.differences
    assert "miou_percent" in again.moved and "does not hold" in again.describe()
    # Another file in the list: the digest tells, however close the scores are.
    renamed = Changed(streets, 1, dataclasses.replace(sample, name="another"))
    again = replay(card, model=model, dataset=renamed, progress=False)
    assert not again.moved and not again.holds
    assert [one.field for one in again.differences] == ["data.files_sha256"]
    assert "differs: data.files_sha256 was " in again.describe()
    # Other versions are named, and do not decide.
    record = json.loads(card.read_text())
    record["protocol"]["software"]["torch"] = "2.10.0"
    record["miou_percent"] += 0.005
    card.write_text(json.dumps(record))
    again = replay(card, model=model, dataset=streets, progress=False)
    assert again.holds
    assert f"note: software.torch was 2.10.0, is {torch.__version__}" in again.describe()
    strict = replay(card, model=model, dataset=streets, tolerance_points=0.001, progress=False)
    assert list(strict.moved) == ["miou_percent"]


def test_a_replay_needs_model_and_data(
    model: SegmentationModel, evaluation: Evaluation, tmp_path: Path
) -> None:
    card = tmp_path / "card.json"
    write_card(evaluation, card)
    with pytest.raises(ArgumentError, match="does not say which model"):
        replay(card, progress=False)
    with pytest.raises(ArgumentError, match="does not say which data"):
        replay(card, model=model, progress=False)
    record = json.loads(card.read_text())
    for field, value in (("mode", {"mode": "upside down"}), ("label_size", [0, 3])):
        broken = {**record, "protocol": {**record["protocol"], field: value}}
        card.write_text(json.dumps(broken))
        with pytest.raises(ArgumentError, match="cannot be carried out"):
            replay(card, model=model, progress=False)


# Calibration


def test_calibrating_finds_the_temperature_that_was_hidden(streets: DrawnStreets) -> None:
    model = tsz.bisenet_x39(pretrained="camvid")
    plain = tsz.calibrate(model, streets, pixels=8000, progress=False)
    assert model.temperature == plain.temperature
    labels = tsz.predict(model, streets[0].image).labels
    with torch.no_grad():  # all logits times three: three times too sure
        for classifier in model.classifiers().values():
            classifier.weight.mul_(3)
            if classifier.bias is not None:
                classifier.bias.mul_(3)
    found = tsz.calibrate(model, streets, pixels=8000, progress=False)
    assert found.temperature == pytest.approx(3 * plain.temperature, rel=1e-3)
    assert found.loss_after == pytest.approx(plain.loss_after, rel=1e-4)
    assert found.loss_after < found.loss_before
    assert found.after.error_percent < found.before.error_percent / 2
    again = tsz.calibrate(model, streets, pixels=8000, progress=False)
    assert again.to_dict() == found.to_dict()
    assert found.pixels == sum(found.after.counts) == 8000
    np.testing.assert_array_equal(tsz.predict(model, streets[0].image).labels, labels)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    "mode",
    [Whole(), Sliding((64, 64), (64, 64)), Sliding((64, 64), (40, 40)), MultiScaleFlip((0.5, 1.0))],
    ids=["whole", "tiles", "sliding", "msf"],
)
def test_the_fitted_temperature_minimises_the_loss_of_the_confidences(
    model: SegmentationModel, mode: Any
) -> None:
    streets = DrawnStreets(2, seed=9, size=(96, 120))
    found = tsz.calibrate(model, streets, mode=mode, pixels=10**6, progress=False)
    try:
        assert found.pixels == 2 * 96 * 120  # all there are

        def confidence(temperature: float) -> float:
            model.temperature = temperature
            results = [tsz.predict(model, streets[index].image, mode=mode) for index in range(2)]
            return float(np.mean([result.confidence for result in results]))

        for temperature, table in ((1.0, found.before), (found.temperature, found.after)):
            mean = np.nansum(np.multiply(table.counts, table.confidence)) / found.pixels
            assert confidence(temperature) == pytest.approx(mean, abs=1e-4)
    finally:
        model.temperature = 1.0
    assert found.loss_after <= found.loss_before


def test_splits_that_cannot_calibrate(model: SegmentationModel, streets: DrawnStreets) -> None:
    class Perfect:
        """Labels are the model's own: the surer, the better, without end."""

        labels = CAMVID

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int, /) -> Sample:
            image = streets[index].image
            return Sample("own", image, tsz.predict(model, image).labels)

    with pytest.raises(DataError, match="no temperature between"):
        tsz.calibrate(model, Perfect(), progress=False)
    blank = Sample("blank", streets[0].image, np.full(SIZE, 255, np.uint8))
    with pytest.raises(DataError, match="no pixel of the 1 label maps has a class"):
        tsz.calibrate(model, Changed(DrawnStreets(1, seed=7, size=SIZE), 0, blank), progress=False)
    with pytest.raises(ArgumentError, match="0 is below 1"):
        tsz.calibrate(model, streets, pixels=0)
    assert model.temperature == 1


# The page


class Page(HTMLParser):
    """Tags, attributes and text of a page; every tag that opens must close."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def picture_of(uri: str | None) -> Image.Image:
    assert uri is not None
    found = re.fullmatch(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)", uri)
    assert found, uri[:60]
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_the_page_shows_classes_confusion_calibration_and_pictures(
    model: SegmentationModel, streets: DrawnStreets, evaluation: Evaluation, tmp_path: Path
) -> None:
    report = write_report(evaluation, model, streets, tmp_path / "new" / "folder", worst=3)
    assert sorted(path.name for path in report.page.parent.iterdir()) == [
        "card.json", "report.html",
    ]  # fmt: skip
    assert read_card(report.card).scores["miou_percent"] == round(evaluation.miou_percent, 4)
    text = report.page.read_text()
    page = Page(text)
    shown = " ".join(page.words)
    for name in (*CAMVID.classes, "Calibration", "Confusion", "mean boundary IoU"):
        assert name in shown
    assert f"{evaluation.miou_percent:.2f} %" in shown
    for score in evaluation.worst(3):
        assert f"{score.name}: mean IoU {score.miou_percent:.2f} %" in shown
    assert evaluation.worst(4)[3].name not in shown
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == ["photo", "truth", "prediction"] * 3
    worst = streets[evaluation.worst(1)[0].index]
    truth = np.asarray(picture_of(images[1]["src"]))
    np.testing.assert_array_equal(truth, CAMVID.palette_array()[worst.label])
    predicted = np.asarray(picture_of(images[2]["src"]))
    labels = tsz.predict(model, worst.image).labels
    np.testing.assert_array_equal(predicted, CAMVID.palette_array()[labels])
    assert picture_of(images[0]["src"]).size == (SIZE[1], SIZE[0])
    # Nothing on the page asks the network for anything, in light or dark.
    assert not any(tag in ("script", "link", "iframe", "a") for tag, _ in page.tags)
    assert "url(" not in text and "@import" not in text and "http:" not in text
    assert "https:" not in text and "prefers-color-scheme: dark" in text


def test_names_cannot_become_part_of_the_page(tmp_path: Path) -> None:
    model = tsz.bisenet_x39(pretrained="camvid")
    attack = "<script>alert(1)</script>\"'&"
    base = DrawnStreets(1, seed=7, size=SIZE)
    labels = dataclasses.replace(CAMVID, name=attack, classes=(attack, *CAMVID.classes[1:]))
    sample = base[0]

    class Hostile(Changed):
        pass

    hostile = Hostile(base, 0, dataclasses.replace(sample, name=f"{attack}\udcff.png"))
    hostile.labels = model.labels = labels
    origin = Origin(model=attack, data=f"{attack}\udcff", split=attack)
    found = tsz.evaluate(model, hostile, origin=origin, progress=False)
    report = write_report(found, model, hostile, tmp_path)
    page = Page(report.page.read_text(encoding="utf-8"))
    assert not any(tag == "script" for tag, _ in page.tags)
    shown = " ".join(page.words)
    assert shown.count(attack) >= 4 and f"{attack}\\udcff.png" in shown
    assert read_card(report.card).protocol.origin == origin


def test_many_classes_and_big_pictures_stay_readable(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tsz.bisenet_x39(num_classes=60)
    path = tmp_path / "big.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 900, 3), dtype=np.uint8)).save(path)
    Image.fromarray(rng.integers(0, 60, (40, 900), dtype=np.uint8)).save(tmp_path / "label.png")
    (tmp_path / "list.txt").write_text("big.png\tlabel.png\n")
    data = list_file(tmp_path / "list.txt", model.labels)
    found = tsz.evaluate(model, data, progress=False)
    page = Page(write_report(found, model, data, tmp_path / "out").page.read_text())
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [picture_of(image["src"]).size for image in images] == [(320, 14)] * 3
    assert ("table", {"class": "matrix"}) not in page.tags
    assert "The largest confusions." in page.words


def test_a_report_that_cannot_be_written_leaves_nothing(
    model: SegmentationModel, streets: DrawnStreets, evaluation: Evaluation, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot create the folder"):
        write_report(evaluation, model, streets, tmp_path / "file", worst=0)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(DataError, match=r"report.html: is a folder"):
        write_report(evaluation, model, streets, tmp_path / "out", worst=0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
