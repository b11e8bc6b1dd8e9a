"""``training.losses``: the original's numbers, and a slow implementation written out here."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import procedural
from golden.reading import record_of
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training.losses import (
    after_resize,
    cross_entropy,
    ohem_cross_entropy,
    total_loss,
)
from torchseg_zoo.training.overlap_losses import dice_loss, focal_loss, lovasz_softmax
from torchseg_zoo.types import SegOutput

GOLDEN = record_of("torchseg/losses_metrics")
MMSEG = record_of("mmseg/losses")["values"]
# What TorchSeg weighs the Cityscapes classes with, where it does.
CITYSCAPES_WEIGHTS = (
    1.4297, 1.4805, 1.4363, 3.365, 2.6635, 1.4311, 2.1943, 1.4817, 1.4513, 2.1984,
    1.5295, 1.6892, 3.2224, 1.4727, 7.5978, 9.4117, 15.2588, 5.6818, 2.2067,
)  # fmt: skip


def golden_batch() -> tuple[Tensor, Tensor]:
    logits = torch.from_numpy(procedural.uniform("ohem/logits", (2, 7, 24, 30), -3, 3)).float()
    labels = [procedural.label_map(24, 30, 7, f"ohem/label{i}") for i in range(2)]
    return logits.requires_grad_(), torch.stack([torch.from_numpy(label) for label in labels])


def slow_ohem(
    logits: Tensor, labels: Tensor, threshold: float, min_kept: int, weight: Tensor | None = None
) -> tuple[float, int]:
    """Loss and count of kept pixels, pixel by pixel, as TorchSeg's code selects them."""
    pixels = []
    for n in range(labels.shape[0]):
        for row in range(labels.shape[1]):
            for column in range(labels.shape[2]):
                label = int(labels[n, row, column])
                if label != 255:
                    probability = logits[n, :, row, column].softmax(0)[label].item()
                    pixels.append((probability, label))
    if 0 < min_kept <= len(pixels):
        limit = max(threshold, sorted(probability for probability, _ in pixels)[min_kept - 1])
        pixels = [pixel for pixel in pixels if pixel[0] <= limit]
    factors = [1.0 if weight is None else float(weight[label]) for _, label in pixels]
    losses = [-torch.tensor(probability).log().item() for probability, _ in pixels]
    total = sum(factor * loss for factor, loss in zip(factors, losses, strict=True))
    return total / sum(factors), len(pixels)


# Parity with the original


@pytest.mark.parametrize("case", GOLDEN["ohem"], ids=lambda c: f"{c['thresh']}-{c['min_kept']}")
def test_ohem_is_the_originals(case: dict[str, Any]) -> None:
    logits, labels = golden_batch()
    loss = ohem_cross_entropy(logits, labels, threshold=case["thresh"], min_kept=case["min_kept"])
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert int((gradient.abs().sum(1) > 0).sum()) == case["kept_pixels"]
    assert gradient.abs().sum().item() == pytest.approx(case["grad_abs_sum"], rel=1e-5)


def test_cross_entropy_is_the_originals() -> None:
    logits, labels = golden_batch()
    assert int((labels != 255).sum()) == GOLDEN["valid"]
    assert cross_entropy(logits, labels).item() == pytest.approx(GOLDEN["ce"], rel=1e-5)


def test_weighted_ohem_is_the_originals() -> None:
    case = GOLDEN["ohem_weighted"]
    logits = torch.from_numpy(procedural.uniform("ohem/logits19", (1, 19, 24, 30), -3, 3)).float()
    labels = torch.from_numpy(procedural.label_map(24, 30, 19, "ohem/label19"))[None]
    weight = torch.tensor(CITYSCAPES_WEIGHTS)
    loss = ohem_cross_entropy(
        logits, labels, threshold=case["thresh"], min_kept=case["min_kept"], weight=weight
    )
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)


@pytest.mark.parametrize("weight", [None, torch.ones(7)])
@pytest.mark.parametrize("criterion", [cross_entropy, ohem_cross_entropy])
def test_nothing_labelled_costs_nothing(criterion: Any, weight: Tensor | None) -> None:
    assert GOLDEN["ohem_all_ignored"] == "nan"  # where the original stops training
    logits, labels = golden_batch()
    loss = criterion(logits, torch.full_like(labels, 255), weight=weight)
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient == 0).all()


# Against the slow way


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("min_kept", [0, 1, 17, 60, 10_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_ohem_keeps_the_pixels_that_it_says(
    threshold: float, min_kept: int, weighted: bool
) -> None:
    generator = torch.Generator().manual_seed(min_kept)
    logits = 2 * torch.randn(2, 4, 6, 7, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0]) if weighted else None
    want, kept = slow_ohem(logits, labels, threshold, min_kept, weight)
    logits.requires_grad_()
    loss = ohem_cross_entropy(logits, labels, threshold=threshold, min_kept=min_kept, weight=weight)
    assert loss.item() == pytest.approx(want, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert int((gradient.abs().sum(1) > 0).sum()) == kept
    assert (gradient.movedim(1, -1)[labels == 255] == 0).all()


def test_the_gradient_is_that_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 3, (1, 4, 5), generator=generator)
    labels[0, 0, 0] = 255
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for criterion in (
        functools.partial(cross_entropy, weight=weight),
        functools.partial(ohem_cross_entropy, threshold=0.4, min_kept=5, weight=weight),
    ):
        assert torch.autograd.gradcheck(lambda x, c=criterion: c(x, labels), (logits,))


def test_another_ignore_index_and_a_class_of_weight_zero() -> None:
    logits = torch.randn(1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 9]]])
    want = F.cross_entropy(logits[:, :, :, :2], labels[:, :, :2]).item()
    assert cross_entropy(logits, labels, ignore_index=9).item() == pytest.approx(want, rel=1e-6)
    silent = torch.tensor([0.0, 0.0])
    assert cross_entropy(logits, labels, weight=silent, ignore_index=9).item() == 0


# Several heads


def test_the_total_is_main_plus_weighted_auxiliary_heads_at_the_labels_size() -> None:
    labels = torch.randint(0, 3, (2, 16, 20))
    output = SegOutput(
        torch.randn(2, 3, 4, 5), {"a": torch.randn(2, 3, 2, 3), "b": torch.randn(2, 3, 16, 20)}
    )

    def alone(logits: Tensor, align_corners: bool) -> float:
        full = F.interpolate(logits, (16, 20), mode="bilinear", align_corners=align_corners)
        return F.cross_entropy(full, labels).item()

    for align_corners in (True, False):
        got = total_loss(output, labels, cross_entropy, aux_weight=0.4, align_corners=align_corners)
        main, a, b = (alone(one, align_corners) for one in (output.logits, *output.aux.values()))
        assert got.item() == pytest.approx(main + 0.4 * (a + b), rel=1e-5)
        without = total_loss(
            SegOutput(output.logits, {}), labels, cross_entropy,
            aux_weight=0.4, align_corners=align_corners,
        )  # fmt: skip
        assert without.item() == pytest.approx(main, rel=1e-5)


@pytest.mark.parametrize("side", [300, 40])
def test_half_precision_logits_are_summed_in_full_precision(side: int) -> None:
    logits = torch.zeros(1, 2, side, side, dtype=torch.float16)
    labels = torch.zeros(1, 300, 300, dtype=torch.int64)
    loss = total_loss(
        SegOutput(logits, {}), labels, cross_entropy, aux_weight=1, align_corners=True
    )
    assert loss.item() == pytest.approx(0.693147, rel=1e-5)  # 90,000 such terms overflow float16


def test_auxiliary_heads_may_have_a_criterion_of_their_own() -> None:
    labels = torch.randint(0, 3, (1, 8, 8))
    output = SegOutput(torch.randn(1, 3, 8, 8), {"a": torch.randn(1, 3, 4, 4)})
    got = total_loss(
        output, labels, after_resize(dice_loss), aux_criterion=cross_entropy,
        aux_weight=0.5, align_corners=False,
    )  # fmt: skip
    want = dice_loss(output.logits, labels) + 0.5 * cross_entropy(
        output.aux["a"], labels, align_corners=False
    )
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


def test_logits_of_another_size_need_to_be_told_how_to_grow() -> None:
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64)
    for criterion in (cross_entropy, ohem_cross_entropy):
        with pytest.raises(ArgumentError, match="align_corners: logits and labels differ in size"):
            criterion(logits, labels)


# mmsegmentation's numbers


def mmseg_batch() -> tuple[Tensor, Tensor]:
    logits = procedural.uniform("mmseg.loss.logits", (2, 7, 37, 53), -3, 3).astype(np.float32)
    labels = np.stack(
        [procedural.label_map(37, 53, 7, name=f"mmseg.loss.label.{i}") for i in range(2)]
    )
    picture, row, column = np.nonzero(labels != 255)
    even = row % 2 == 0
    picture, row, column = picture[even], row[even], column[even]
    logits[picture, labels[picture, row, column], row, column] += np.float32(2.5)
    return torch.from_numpy(logits), torch.from_numpy(labels.astype(np.int64))


def test_cross_entropy_is_mmsegs() -> None:
    logits, labels = mmseg_batch()
    loss = cross_entropy(logits, labels).item()
    assert loss == pytest.approx(MMSEG["cross_entropy_avg_non_ignore"]["value"], rel=1e-6)
    share = MMSEG["valid_pixels"] / MMSEG["all_pixels"]  # its other mean is over all pixels
    assert loss * share == pytest.approx(MMSEG["cross_entropy"]["value"], rel=1e-6)


@pytest.mark.parametrize("case", MMSEG["ohem_pixel_sampler"]["cases"], ids=str)
def test_ohem_is_mmsegs(case: dict[str, Any]) -> None:
    logits, labels = mmseg_batch()
    threshold = 0.0 if case["thresh"] is None else case["thresh"]
    loss = ohem_cross_entropy(
        logits.requires_grad_(), labels, threshold=threshold, min_kept=2 * case["min_kept"]
    )
    assert loss.item() == pytest.approx(case["mean_over_kept"], rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert int((gradient.abs().sum(1) > 0).sum()) == case["kept"]


@pytest.mark.parametrize("case", MMSEG["ohem_cross_entropy"]["cases"], ids=str)
def test_the_other_ohem_is_mmsegs(case: dict[str, Any]) -> None:
    logits, labels = mmseg_batch()
    loss = ohem_cross_entropy(
        logits, labels, threshold=case["thres"], min_kept=case["min_kept"]
    ).item()
    if case["min_kept"] > MMSEG["valid_pixels"]:
        # There it leaves out the surest pixel; TorchSeg and we count all.
        count = MMSEG["valid_pixels"]
        surest = -true_class_log(logits, labels).max().item()
        loss = (loss * count - surest) / (count - 1)
    assert loss == pytest.approx(case["value"], rel=1e-6)


def true_class_log(logits: Tensor, labels: Tensor) -> Tensor:
    costs = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    return -costs[labels != 255]


@pytest.mark.parametrize("case", MMSEG["lovasz_softmax"]["cases"], ids=str)
def test_lovasz_is_mmsegs(case: dict[str, Any]) -> None:
    loss = lovasz_softmax(*mmseg_batch(), per_image=case["per_image"])
    assert loss.item() == pytest.approx(case["value"], rel=1e-5)


@pytest.mark.parametrize("case", MMSEG["dice"]["cases"], ids=str)
def test_dice_is_mmsegs(case: dict[str, Any]) -> None:
    loss = dice_loss(
        *mmseg_batch(), squared=not case["naive_dice"], sigmoid=case["use_sigmoid"],
        per_class=False, count_ignored=True,
    )  # fmt: skip
    assert loss.item() == pytest.approx(case["value"], rel=1e-5)


# Overlap and focal losses


def test_lovasz_of_certain_answers_is_one_minus_the_mean_iou() -> None:
    labels = torch.tensor([[[0, 0, 1, 2, 255]]])
    guess = torch.tensor([[[0, 1, 1, 2, 0]]])
    logits = 1000 * F.one_hot(guess, 3).movedim(-1, 1).float()
    assert lovasz_softmax(logits, labels).item() == pytest.approx(1 - (1 / 2 + 1 / 2 + 1) / 3)


def test_dice_of_certain_answers_is_one_minus_the_mean_coefficient() -> None:
    labels = torch.tensor([[[0, 0, 1, 3, 255]]])
    guess = torch.tensor([[[0, 1, 1, 3, 2]]])
    logits = 1000 * F.one_hot(guess, 4).movedim(-1, 1).float()  # class 2 is absent
    want = 1 - (2 / 3 + 2 / 3 + 1) / 3
    for squared in (True, False):
        loss = dice_loss(logits, labels, squared=squared, smooth=1e-9)
        assert loss.item() == pytest.approx(want)


def test_focal_without_focus_is_cross_entropy_and_with_it_weighs_by_doubt() -> None:
    logits, labels = golden_batch()
    weight = torch.arange(1.0, 8.0)
    for one in (None, weight):
        plain = focal_loss(logits, labels, gamma=0, weight=one)
        assert plain.item() == pytest.approx(cross_entropy(logits, labels, weight=one).item())
    probability = logits.softmax(1).gather(1, labels.where(labels != 255, 0).long()[:, None])[:, 0]
    costs = (-((1 - probability) ** 2) * probability.log())[labels != 255]
    assert focal_loss(logits, labels).item() == pytest.approx(costs.mean().item(), rel=1e-5)


@pytest.mark.parametrize("loss", [dice_loss, lovasz_softmax, focal_loss])
def test_other_losses_of_nothing_and_their_gradients(loss: Any) -> None:
    logits, labels = golden_batch()
    nothing = loss(logits, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == 0 and (gradient == 0).all()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert gradient.isfinite().all() and gradient.any()
    assert (gradient.movedim(1, -1)[labels == 255] == 0).all()
    small, target = logits[:1, :, :4, :5].double().detach().requires_grad_(), labels[:1, :4, :5]
    assert torch.autograd.gradcheck(lambda x: loss(x, target), (small,))
    sure = 1000 * F.one_hot(labels.where(labels != 255, 0).long(), 7).movedim(-1, 1).float()
    (gradient,) = torch.autograd.grad(loss(sure.requires_grad_(), labels), sure)
    assert gradient.isfinite().all()
