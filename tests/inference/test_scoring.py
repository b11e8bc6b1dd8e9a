"""What an inference mode computes: goldens of two projects, and what holds for all modes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_networks import Fake, local, strided
from golden import procedural
from golden.reading import arrays_of, record_of
from pictures import photo
from torch import Tensor

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import ArgumentError, InputShapeError
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.inference import scoring
from torchseg_zoo.inference.modes import Mode, MultiScaleFlip, Sliding, Whole
from torchseg_zoo.inference.resize import resize_photo
from torchseg_zoo.inference.scoring import label, score, scores
from torchseg_zoo.inference.windows import visits, window_starts
from torchseg_zoo.models.base import InputRule

MERGES = ("torchseg", "logit-mean", "probability-mean")


# Goldens


def evaluators_network(x: Tensor) -> Tensor:
    """The fake network of golden/torchseg/evaluator, see the README there; logits."""
    weight = torch.from_numpy(procedural.uniform("fake/weight", (6, 3), -1, 1)).float()
    bias = torch.from_numpy(procedural.uniform("fake/bias", (6,), -0.5, 0.5)).float()
    z = F.conv2d(x, weight[:, :, None, None], bias)
    z = z + 0.5 * F.avg_pool2d(z, 5, stride=1, padding=2)
    return z * (1 + 0.3 * torch.arange(x.shape[3]) / (x.shape[3] - 1))


@pytest.mark.parametrize(
    "case", record_of("torchseg/evaluator")["cases"], ids=lambda case: case["name"]
)
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_torchsegs_evaluator(case: dict[str, Any], batch: int | None) -> None:
    stored = arrays_of("torchseg/evaluator")
    image = procedural.uint8_image(97, 131)
    network = Fake(evaluators_network)
    size = None
    mode: Mode
    if case["kind"] == "sliding":
        crop = case["crop"]
        inner = Sliding.at_rate((crop, crop), case["stride_rate"], merge="torchseg")
        mode = MultiScaleFlip(tuple(case["scales"]), case["flip"], inner, "torchseg")
    else:
        inner = Whole(case["input_size"] and tuple(case["input_size"]), "torchseg")
        mode = MultiScaleFlip((1,), case["flip"], inner, "torchseg") if case["flip"] else inner
        size = case["output_size"] and tuple(case["output_size"])
    result = score(network, image, mode, size=size, batch=batch)
    total, labels = result.scores(), result.labels().numpy()
    windows = sum(shape[0] for shape in network.shapes)
    assert {shape[1:] for shape in network.shapes} == {
        tuple(shape[1:])
        for shape in (
            [scale["call_shape"] for scale in case["per_scale"]]
            if case["kind"] == "sliding"
            else [case["call_shape"]]
        )
    }
    wrong = int((labels != stored[f"{case['name']}_label"]).sum())
    if case["kind"] == "whole":
        assert wrong == 0
        return
    assert windows == sum(scale["network_calls"] for scale in case["per_scale"])
    rows, columns = case["score_stride"]
    got = total[:, ::rows, ::columns].permute(1, 2, 0).numpy()
    want = stored[f"{case['name']}_score"]
    assert total.dtype == torch.float64
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)
    assert float(total.sum()) == pytest.approx(case["sum"], rel=1e-6)
    assert wrong <= case["close"]
    assert (result.confidence() <= 1).all()


def mmsegs_network(x: Tensor) -> Tensor:
    names = record_of("mmseg/slide")["weights"]
    tensors = {
        name: torch.from_numpy(procedural.fill(name, shape)) for name, shape in names.items()
    }
    x = F.conv2d(
        x, tensors["backbone.conv.weight"], tensors["backbone.conv.bias"], stride=4, padding=1
    ).relu()
    head = "decode_head.conv_seg"
    return F.conv2d(x, tensors[f"{head}.weight"], tensors[f"{head}.bias"])


@pytest.mark.parametrize("case", record_of("mmseg/slide")["cases"], ids=lambda case: case["array"])
def test_mmsegs_sliding(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Its input is normalised already: pass floats through an identity in place of a photo.
    monkeypatch.setattr(scoring, "_check_image", lambda image: None)
    identity = Preprocess((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
    network = Fake(mmsegs_network, align_corners=case["align_corners"], preprocess=identity)
    x = procedural.input_image((1, 3, *case["image_hw"]), name="mmseg.slide")
    mode = Sliding(case["crop_hw"], case["stride_hw"], "logit-mean")
    got = scores(network, x[0].transpose(1, 2, 0), mode)
    want = arrays_of("mmseg/slide")[case["array"]]
    np.testing.assert_allclose(got[None, :, ::2, ::2].numpy(), want, atol=1e-4, rtol=0)
    assert float(got.mean()) == pytest.approx(case["mean"], abs=1e-5)
    assert float(got.std()) == pytest.approx(case["std"], abs=1e-4)


# What holds for every mode


def plain(
    network: Fake, image: np.ndarray, windows: list[tuple[slice, slice]], mirrored: bool = False
) -> Tensor:
    """Probability mean over windows, written down naively."""
    x = network.preprocess.tensor(image[:, ::-1] if mirrored else image)
    total, count = 0.0, torch.zeros(x.shape[2:])
    for rows, columns in windows:
        part = x[..., rows, columns]
        logits = F.interpolate(
            network(part, upsample=False), part.shape[2:], mode="bilinear",
            align_corners=network.config.align_corners,
        )  # fmt: skip
        whole = torch.zeros(1, logits.shape[1], *x.shape[2:])
        whole[..., rows, columns] = logits.softmax(1)
        total = total + whole
        count[rows, columns] += 1
    mean = (total / count)[0]
    return mean.flip(-1) if mirrored else mean


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_probability_mean_is_what_it_says(align_corners: bool, flip: bool) -> None:
    image = photo(41, 67)
    network = Fake(strided, align_corners=align_corners)
    windows = [
        (slice(row, row + 24), slice(column, column + 32))
        for row, column in itertools.product((0, 13, 17), (0, 20, 35))
    ]
    mode = MultiScaleFlip((1,), flip, Sliding((24, 32), (13, 20)))
    want = plain(network, image, windows)
    if flip:
        want = (want + plain(network, image, windows, mirrored=True)) / 2
    got = scores(network, image, mode)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.sum(0), torch.ones(41, 67))


def test_views_merge_at_the_pictures_size_as_in_mmsegmentation() -> None:
    image, network = photo(41, 67), Fake(strided, align_corners=True)
    mode = MultiScaleFlip((0.5, 1.5), True, Sliding((24, 24), (17, 17), "logit-mean"))
    want = 0
    for scale, mirrored in itertools.product((0.5, 1.5), (False, True)):
        view = image[:, ::-1] if mirrored else image
        size = int(41 * scale + 0.5), int(67 * scale + 0.5)
        pixels = resize_photo(torch.from_numpy(view.copy()), size).numpy()
        logits = scores(network, pixels, mode.view)[None]
        logits = F.interpolate(logits, (41, 67), mode="bilinear", align_corners=True)
        want = want + (logits.flip(-1) if mirrored else logits).softmax(1)[0] / 4
    torch.testing.assert_close(scores(network, image, mode), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("size", [(30, 50), (1, 1), (7, 50), (50, 3)])
def test_a_window_that_covers_the_picture_is_the_whole(merge: Any, size: tuple[int, int]) -> None:
    image, network = photo(*size), Fake(local)
    want = scores(network, image, Whole(merge=merge))
    for window in (size, (64, 50), (64, 80)):
        stride = (window[0] // 2 + 1, window[1] // 2 + 1)
        got = score(network, image, Sliding(window, min(window, stride), merge))
        torch.testing.assert_close(got.scores(), want)
        assert got.labels().shape == size
    assert torch.equal(label(network, image), label(network, image, Whole()))


@pytest.mark.parametrize("merge", ["logit-mean", "probability-mean"])
@pytest.mark.parametrize("inner", [None, Sliding((24, 24), (17, 17)), Sliding((24, 24), (24, 24))])
def test_a_mirrored_picture_gets_mirrored_labels(merge: Any, inner: Any) -> None:
    inner = inner and dataclasses.replace(inner, merge=merge)
    mode = MultiScaleFlip((0.75, 1), True, inner, merge)
    network = Fake(strided, rule=InputRule(multiple=8))
    image = photo(41, 67)
    got = scores(network, np.ascontiguousarray(image[:, ::-1]), mode)
    torch.testing.assert_close(got.flip(-1), scores(network, image, mode), atol=1e-5, rtol=1e-5)


def test_torchsegs_rule_counts_overlaps_and_squares_under_flip() -> None:
    constant = Fake(lambda x: torch.zeros(len(x), 4, *x.shape[2:]))
    inner = Sliding((4, 5), (3, 3), "torchseg")
    got = scores(constant, photo(9, 10), inner)
    overlaps = visits(9, 4, [0, 3, 5])[:, None] * visits(10, 5, [0, 3, 5])
    torch.testing.assert_close(got, (overlaps / 4).expand(4, -1, -1).double())
    got = scores(constant, photo(9, 10), MultiScaleFlip((1,), True, inner, "torchseg"))
    torch.testing.assert_close(got, (overlaps / 16).expand(4, -1, -1).double())


def test_windows_cover_every_pixel_and_overlap_as_said() -> None:
    for side, window, stride in itertools.product(range(4, 30), (1, 3, 4), (1, 2, 3, 4)):
        if stride > window:
            continue
        starts = window_starts(side, window, stride)
        count = np.zeros(side, int)
        for start in starts:
            count[start : start + window] += 1
        assert starts[0] == 0 and starts[-1] == side - window and (np.diff(starts) > 0).all()
        assert count.min() >= 1 and (visits(side, window, starts).numpy() == count).all()
        # mmsegmentation's formula
        assert len(starts) == max(side - window + stride - 1, 0) // stride + 1


@pytest.mark.parametrize("merge", MERGES)
def test_the_batch_does_not_matter(merge: Any) -> None:
    network = Fake(strided)
    mode = MultiScaleFlip((0.75, 1.25), True, Sliding((24, 24), (16, 16), merge), merge)
    image = photo(45, 61)
    want = scores(network, image, mode, batch=1)
    for batch in (2, 5, 100, None):
        torch.testing.assert_close(scores(network, image, mode, batch=batch), want)
    assert max(shape[0] for shape in network.shapes) > 20


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("size", [(48, 64), (40, 64), (64, 40)])
def test_windows_side_by_side_need_no_sums(merge: Any, size: tuple[int, int]) -> None:
    network, image = Fake(strided), photo(*size)
    result = score(network, image, Sliding((24, 32), (24, 32), merge))
    assert result.light == (size == (48, 64))
    total = result.scores().float()
    assert (result.labels() != total.argmax(0)).sum() <= 2
    if merge == "logit-mean":
        total = total.softmax(0)
    chosen = total.amax(0) / total.sum(0)
    torch.testing.assert_close(result.confidence(), chosen, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merge", MERGES)
def test_labels_are_the_largest_scores(merge: Any) -> None:
    network, image = Fake(strided), photo(41, 67)
    for mode in (
        Whole(merge=merge),
        Sliding((24, 24), (17, 17), merge),
        MultiScaleFlip((0.5, 1), True, Sliding((24, 24), (17, 17), merge), merge),
    ):
        for size in (None, (20, 30), (80, 99)):
            result = score(network, image, mode, size=size)
            assert result.labels().dtype == torch.uint8
            assert result.labels().shape == (size or (41, 67)) == result.scores().shape[1:]
            assert (result.labels() != result.scores().argmax(0)).sum() <= 2
            assert 0 < result.confidence().min() <= result.confidence().max() <= 1 + 1e-6


# Models that do not take every size


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("rule", [InputRule(multiple=32), InputRule(fixed=(32, 64))])
@pytest.mark.parametrize("size", [(20, 30), (32, 64), (20, 100), (100, 70)])
def test_input_rules_are_kept(merge: Any, rule: InputRule, size: tuple[int, int]) -> None:
    network, image = Fake(strided, rule=rule), photo(*size)
    for inner in (Sliding((32, 64), (32, 33), merge), Whole(merge=merge)):
        if isinstance(inner, Whole) and rule.fixed and (size[0] > 32 or size[1] > 64):
            with pytest.raises(InputShapeError, match=r"works at 32×64 only; slide"):
                label(network, image, inner)
            continue
        for mode in (inner, MultiScaleFlip((0.5, 1), True, inner, merge)):
            assert label(network, image, mode).shape == size
    assert label(network, image).shape == size  # Fake checks the shapes


def test_padding_is_zero_after_normalisation_right_and_below() -> None:
    seen = []
    network = Fake(lambda x: seen.append(x.clone()) or strided(x), rule=InputRule(multiple=32))
    image = photo(20, 40)
    label(network, image)
    (x,) = seen
    torch.testing.assert_close(x[:, :, :20, :40], network.preprocess.tensor(image))
    assert not x[:, :, 20:].any() and not x[:, :, :, 40:].any()


def test_a_preprocess_that_resizes_comes_first() -> None:
    network = Fake(strided, preprocess=Preprocess(resize=(48, 64)))
    assert label(network, photo(20, 30), MultiScaleFlip((0.5, 1), True)).shape == (20, 30)
    assert network.shapes == [(2, 3, 24, 32), (2, 3, 48, 64)]


# predict and evaluate


def test_predict_and_evaluate_take_modes() -> None:
    torch.manual_seed(0)
    model = tsz.bisenet_x39(num_classes=11).eval()
    streets = DrawnStreets(2, size=(64, 96))
    mode = MultiScaleFlip((0.75, 1), True, Sliding((48, 64), (32, 48)))
    result = tsz.predict(model, streets[0].image, mode=mode)
    with torch.inference_mode():
        want = scores(model, streets[0].image, mode)
    np.testing.assert_array_equal(result.labels, want.argmax(0).numpy())
    np.testing.assert_allclose(result.confidence, want.amax(0).numpy(), atol=1e-5)
    assert evaluate(model, streets, mode=mode, progress=False) != evaluate(
        model, streets, progress=False
    )


# Refusals


def test_calls_that_cannot_work() -> None:
    network = Fake(strided)
    for image in (photo()[:, :, 0], photo() / 255, [[1]], photo()[:0], photo()[:, :0]):
        with pytest.raises(ArgumentError, match="for a picture"):
            label(network, image)
    with pytest.raises(ArgumentError, match="batch: 0 is below 1"):
        label(network, photo(), batch=0)
    with pytest.raises(ArgumentError, match="size: "):
        label(network, photo(), size=(0, 5))
