"""The checkpoint that the package carries, on the example picture that it carries."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.data.datasets.drawn import EXAMPLE_SEED, draw_street
from torchseg_zoo.data.image import read_image
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.weights import manifest

STREET = Path(__file__).parents[1] / "examples" / "street.png"


@pytest.fixture(scope="module")
def model() -> tsz.SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid")


def test_the_example_is_the_reserved_scene() -> None:
    drawn, _ = draw_street(EXAMPLE_SEED)
    # Another Pillow may smooth an edge differently; another scene would differ everywhere.
    assert np.abs(read_image(STREET).astype(int) - drawn).mean() < 1


@pytest.mark.parametrize(("name", "share"), [("road", 0.90), ("sky", 0.90), ("building", 0.75)])
def test_the_example_is_labelled_right(
    model: tsz.SegmentationModel, name: str, share: float
) -> None:
    _, truth = draw_street(EXAMPLE_SEED)
    labels = tsz.predict(model, STREET).labels
    index = model.labels.classes.index(name)
    assert (labels[truth == index] == index).mean() >= share


def test_the_drawn_validation_streets_are_mostly_right(model: tsz.SegmentationModel) -> None:
    dataset = open_dataset("drawn", "val", model.labels)
    right = [
        (tsz.predict(model, s.image).labels == s.label).mean()
        for s in map(dataset.__getitem__, range(8))
    ]
    assert np.mean(right) >= 0.8


def test_what_the_manifest_says_of_it(model: tsz.SegmentationModel) -> None:
    entry = manifest.find("bisenet_x39", "camvid")
    assert entry.status == "scored" and entry.layout == "native"
    assert isinstance(model.labels, LabelSet) and model.labels.classes[0] == "sky"
    assert "non-commercial" in entry.licenses["weights"]
    assert "selected on this split" in entry.metrics[0].protocol
    assert entry.metrics[0].miou_percent >= 52
    assert entry.size_bytes is not None and entry.size_bytes <= 8_000_000


@pytest.mark.soak
def test_its_score_is_reproduced(model: tsz.SegmentationModel) -> None:
    scores = tsz.evaluate(
        model, open_dataset(os.environ["TORCHSEG_ZOO_CAMVID"], "val", model.labels)
    )
    stated = manifest.find("bisenet_x39", "camvid").metrics[0].miou_percent
    assert scores.miou_percent == pytest.approx(stated, abs=0.05)
