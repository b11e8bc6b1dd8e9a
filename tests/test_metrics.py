"""``metrics``: a case worked by hand, the original's numbers, and an independent count."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from golden import procedural
from golden.reading import record_of
from scipy import ndimage
from torchmetrics.classification import MulticlassJaccardIndex

from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.metrics import (
    BoundaryOverlap,
    ConfusionMatrix,
    ReliabilityCounts,
    count_pairs,
    overlaps,
    picture_scores,
)

CASES: list[dict[str, Any]] = record_of("torchseg/losses_metrics")["metrics"]


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
    means = {line[:15].strip(): float(line[15:]) for line in lines[4:]}
    assert means == {
        "without class 0": 50, "weighted IoU": 50, "mean accuracy": 75, "mean IoU": 50,
        "pixel accuracy": 66.67,
    }  # fmt: skip
    record = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert record["iou_percent"] == [50.0, 50.0, None]
    with pytest.raises(ValueError, match="zip"):
        scores.table(generic_labels(2))


def patches(rng: np.random.Generator, size: tuple[int, int], classes: int) -> np.ndarray:
    """A label map of rectangles, as real ones have more area than borders."""
    found = np.zeros(size, np.uint8)
    for _ in range(3 * classes):
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        height, width = rng.integers(1, size[0]), rng.integers(1, size[1])
        found[top : top + height, left : left + width] = rng.choice([*range(classes), 255])
    return found


@pytest.mark.parametrize("classes", [2, 19, 181, 255])
@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])  # counted by runs, at the limit, by pixels
def test_pairs_of_every_type_and_texture(classes: int, kind: torch.dtype, noise: float) -> None:
    rng = np.random.default_rng(classes)
    truth = patches(rng, (60, 70), classes)
    prediction = np.where(truth == 255, 0, truth)
    noisy = rng.random(truth.shape) < noise
    prediction[noisy] = rng.integers(0, classes, noisy.sum())
    want = np.zeros((classes + 1, classes + 1), np.int64)
    np.add.at(want, (np.minimum(truth, classes), prediction), 1)
    got = count_pairs(
        torch.from_numpy(truth).to(kind), torch.from_numpy(prediction).to(kind), classes
    )
    np.testing.assert_array_equal(got.numpy(), want)
    right, true, found = overlaps(got).numpy()
    np.testing.assert_array_equal(right, np.diagonal(want)[:-1])
    np.testing.assert_array_equal(true, want[:-1].sum(1))
    np.testing.assert_array_equal(found, want[:-1, :-1].sum(0))


def test_values_outside_of_bytes_have_no_class() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([-1, 256, 257, 0, 1]), torch.tensor([0, 0, 0, 0, 1]))
    assert matrix.counts.tolist() == [[1, 0], [0, 1]]
    assert not ConfusionMatrix(2).counts.any()
    matrix.update(torch.zeros(0), torch.zeros(0))
    assert matrix.counts.sum() == 2


def test_a_prediction_that_is_no_class_is_refused_and_not_counted_elsewhere() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1, 255]), torch.tensor([2, 1, 9]))
    with pytest.raises(ArgumentError, match="1 labelled pixels were predicted as none of 2"):
        matrix.scores()
    with pytest.raises(ArgumentError, match=r"truth is \(2,\), the prediction \(3,\)"):
        matrix.update(torch.zeros(2), torch.zeros(3))
    for classes in (0, 256):
        with pytest.raises(ArgumentError, match=f"{classes} classes"):
            ConfusionMatrix(classes)


@pytest.mark.parametrize("ignore_index", [255, 0, 3])
def test_torchmetrics_finds_the_same_iou(ignore_index: int) -> None:
    classes, rng = 7, np.random.default_rng(ignore_index)
    jaccard = MulticlassJaccardIndex(classes, average=None, ignore_index=ignore_index)
    matrix = ConfusionMatrix(classes, ignore_index=ignore_index)
    for _ in range(4):
        truth = torch.from_numpy(patches(rng, (40, 50), classes)).long()
        truth[truth == 255] = ignore_index
        prediction = torch.from_numpy(rng.integers(0, classes, (40, 50)))
        jaccard.update(prediction[None], truth[None])
        matrix.update(truth, prediction)
    iou = np.nan_to_num(matrix.scores().iou_percent)
    theirs = 100 * jaccard.compute().numpy()
    if ignore_index < classes:  # to torchmetrics an ignored class has the score 0
        iou[ignore_index] = 0
    np.testing.assert_allclose(iou, theirs, atol=1e-4)


def test_weighted_and_mean_scores_by_hand() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1]))
    scores = matrix.scores()  # IoU 2/3 and 1/2, of 3 and 1 true pixels
    assert scores.frequency_weighted_iou_percent == pytest.approx(100 * (3 * 2 / 3 + 1 / 2) / 4)
    assert scores.mean_accuracy_percent == pytest.approx(100 * (2 / 3 + 1) / 2)


def test_scores_of_single_pictures() -> None:
    pictures = [([0, 0, 1, 255], [0, 1, 1, 1]), ([1, 1], [1, 1]), ([255, 255], [0, 1])]
    found = torch.stack(
        [overlaps(count_pairs(torch.tensor(t), torch.tensor(p), 3)) for t, p in pictures]
    )
    miou, accuracy = picture_scores(found)
    assert miou[:2].tolist() == [50, 100] and miou[2].isnan()
    assert accuracy[:2].tolist() == [pytest.approx(200 / 3), 100] and accuracy[2].isnan()


def outline(mask: np.ndarray, distance: int) -> np.ndarray:
    """The paper's own way: what repeated erosion by 3×3 takes away, outside of the picture 0."""
    eroded = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)
    return mask & ~eroded


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 1.0])
def test_boundary_iou_against_erosion(share: float) -> None:
    classes, rng = 5, np.random.default_rng(3)
    overlap = BoundaryOverlap(classes, share=share)
    sums = np.zeros((2, classes))
    for size in ((50, 70), (31, 90)):
        truth, prediction = (patches(rng, size, classes) for _ in range(2))
        prediction[prediction == 255] = 0
        overlap.update(torch.from_numpy(truth), torch.from_numpy(prediction))
        distance = max(1, round(share * math.hypot(*size)))
        for index in range(classes):
            labelled = truth != 255
            true = outline(truth == index, distance)
            found = outline((prediction == index) & labelled, distance)
            sums[:, index] += (true & found).sum(), (true | found).sum()
    np.testing.assert_allclose(overlap.iou_percent(), 100 * sums[0] / sums[1])


def test_boundary_iou_of_a_perfect_prediction_beside_unlabelled_pixels() -> None:
    truth = patches(np.random.default_rng(0), (60, 60), 4)
    overlap = BoundaryOverlap(5)
    overlap.update(torch.from_numpy(truth), torch.from_numpy(np.where(truth == 255, 2, truth)))
    assert overlap.iou_percent()[:4] == (100,) * 4 and math.isnan(overlap.iou_percent()[4])
    for share in (0.0, -1.0, 1.5):
        with pytest.raises(ArgumentError, match="share of the diagonal"):
            BoundaryOverlap(5, share=share)


def test_reliability_against_numpy() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(4000).astype(np.float32)
    confidence[:3] = 0, 1, 0.5
    right, labelled = rng.random(4000) < confidence**2, rng.random(4000) < 0.9
    counts = ReliabilityCounts()
    for part in (slice(0, 1500), slice(1500, None)):
        counts.update(*(torch.from_numpy(v[part]) for v in (confidence, right, labelled)))
    table = counts.table()
    bins = np.clip(np.ceil(confidence * 15) - 1, 0, 14)[labelled]
    error = 0.0
    for index in range(15):
        chosen = bins == index
        assert table.counts[index] == chosen.sum()
        means = confidence[labelled][chosen].mean(), right[labelled][chosen].mean()
        assert (table.confidence[index], table.accuracy[index]) == pytest.approx(means, abs=1e-6)
        error += chosen.mean() * abs(means[0] - means[1])
    assert table.error_percent == pytest.approx(100 * error, abs=1e-4)
    empty = ReliabilityCounts().table()
    assert math.isnan(empty.error_percent)
    json.dumps(empty.to_dict(), allow_nan=False)


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = (torch.from_numpy(patches(rng, (512, 700), 19)).cuda() for _ in range(2))
    prediction.clamp_(max=18)
    matrix, boundary, counts = ConfusionMatrix(19), BoundaryOverlap(19), ReliabilityCounts()
    for step in range(2):  # the first one moves the sums to the device
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            matrix.update(truth, prediction)
            boundary.update(truth, prediction)
            counts.update(prediction / 18, truth == prediction, truth != 255)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    on_cpu = ConfusionMatrix(19)
    for _ in range(2):
        on_cpu.update(truth.cpu(), prediction.cpu())
    assert torch.equal(matrix.counts, on_cpu.counts)
