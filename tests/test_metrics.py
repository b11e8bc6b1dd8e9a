"""``metrics``: a case worked by hand, the original's numbers, and an independent count."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import procedural

from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.metrics import ConfusionMatrix

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "torchseg" / "losses_metrics.json").read_text()
)["metrics"]


def maps(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The golden case's truth and prediction, as its README says."""
    if case["name"] == "absent":
        truth, prediction = np.zeros((4, 5), np.int64), np.zeros((4, 5), np.int64)
        truth[-1] = 255
        prediction[0, 0] = 1
        return truth, prediction
    name, classes = f"metric/{case['name']}", case["classes"]
    truth = procedural.label_map(40, 50, classes, f"{name}/gt", 255)
    prediction = procedural.label_map(40, 50, classes, f"{name}/pred", 0, 0.0)
    right = (procedural.uniform(f"{name}/mix", (40, 50)) < 0.6) & (truth != 255)
    return truth, np.where(right, truth, prediction)


def same(ours: float, golden: float | None) -> bool:
    return (
        math.isnan(ours)
        if golden is None or math.isnan(golden)
        else ours == pytest.approx(100 * golden, rel=1e-9)
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_originals_counts_and_scores(case: dict[str, Any]) -> None:
    truth, prediction = maps(case)
    matrix = ConfusionMatrix(case["classes"])
    matrix.update(torch.from_numpy(truth), torch.from_numpy(prediction))
    assert matrix.counts.tolist() == case["hist"]
    scores = matrix.scores()
    assert len(scores.iou_percent) == len(case["iu"])
    assert all(same(*pair) for pair in zip(scores.iou_percent, case["iu"], strict=True))
    assert same(scores.miou_percent, case["mean_iu"])
    assert same(scores.miou_without_first_percent, case["mean_iu_no_back"])
    assert same(scores.pixel_accuracy_percent, case["pixel_acc"])


def test_four_pixels_by_hand() -> None:
    # truth 0 0 1 255, prediction 0 1 1 1: one right and one wrong of class 0, one right of class 1,
    # nothing of class 2, and the last pixel does not count.
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 0], [1, 255]]), torch.tensor([[0, 1], [1, 1]]))
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    scores = matrix.scores()
    assert scores.iou_percent[:2] == (50.0, 50.0) and math.isnan(scores.iou_percent[2])
    assert scores.accuracy_percent[:2] == (50.0, 100.0) and math.isnan(scores.accuracy_percent[2])
    assert scores.miou_percent == 50.0
    assert scores.miou_without_first_percent == 50.0
    assert scores.pixel_accuracy_percent == pytest.approx(200 / 3)


@pytest.mark.parametrize("classes", [1, 2, 19, 150, 255])
def test_against_a_count_by_sets_of_pixels(classes: int) -> None:
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes, (3, 40, 31))
    truth[rng.random(truth.shape) < 0.1] = 255
    prediction = rng.integers(0, classes, truth.shape)
    matrix = ConfusionMatrix(classes)
    for one, other in zip(truth, prediction, strict=True):
        matrix.update(
            torch.from_numpy(one.astype(np.uint8)), torch.from_numpy(other.astype(np.uint8))
        )
    counted = truth != 255
    ious = []
    for index in range(classes):
        t, p = (truth == index) & counted, (prediction == index) & counted
        union = (t | p).sum()
        ious.append(100 * (t & p).sum() / union if union else math.nan)
    scores = matrix.scores()
    np.testing.assert_allclose(scores.iou_percent, ious, rtol=1e-12)
    assert scores.miou_percent == pytest.approx(np.nanmean(ious), rel=1e-12)
    right = 100 * (truth == prediction)[counted].mean()
    assert scores.pixel_accuracy_percent == pytest.approx(right, rel=1e-12)


def test_merging_is_counting_together() -> None:
    truth, prediction = torch.randint(0, 5, (2, 9, 9)), torch.randint(0, 5, (2, 9, 9))
    whole, first, second = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(truth, prediction)
    first.update(truth[0], prediction[0])
    second.update(truth[1], prediction[1])
    first.merge(second)
    assert torch.equal(first.counts, whole.counts)


def test_an_ignore_index_below_the_class_count_does_not_count() -> None:
    matrix = ConfusionMatrix(2, ignore_index=0)
    matrix.update(torch.tensor([0, 1, 1]), torch.tensor([1, 1, 0]))
    assert matrix.counts.tolist() == [[0, 0], [1, 1]]


def test_the_table_names_every_class_and_json_has_no_nan() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    scores = matrix.scores()
    lines = scores.table(
        LabelSet("x", ("sky", "a long name", "car"), ((0, 0, 0),) * 3)
    ).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["sky", "a long name", "car"]
    assert lines[1].split() == ["sky", "50.00", "50.00"]
    assert "nan" in lines[3]
    assert lines[4].split()[-1] == "50.00" and lines[5].split()[-1] == "66.67"
    record = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert record["iou_percent"] == [50.0, 50.0, None]
    with pytest.raises(ValueError, match="zip"):
        scores.table(generic_labels(2))
