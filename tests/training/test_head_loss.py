"""``training.head_loss``: as the plain way, and without full-size logits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training import bands, head_loss
from torchseg_zoo.training.head_loss import true_class_probability
from torchseg_zoo.training.losses import cross_entropy, ohem_cross_entropy

K = 5
SIZES = {
    "stride 8": ((4, 6), (32, 48)),
    "odd": ((5, 7), (33, 51)),
    "one cell": ((1, 1), (9, 5)),
    "one way up, one way down": ((9, 3), (6, 40)),
    "one row": ((3, 8), (3, 16)),
}


def case(
    size: str, dtype: torch.dtype = torch.float64, pictures: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    source, target = SIZES[size]
    random = torch.Generator().manual_seed(len(size))
    logits = 2 * torch.randn(pictures, K, *source, generator=random, dtype=dtype)
    labels = torch.randint(0, K, (pictures, *target), generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.2] = 255
    weight = torch.rand(K, generator=random, dtype=dtype) + 0.1
    return logits.requires_grad_(), labels, weight


def plain(logits: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    size = (labels.shape[-2], labels.shape[-1])
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def difference(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.fixture(params=[1 << 8, 1 << 12, 1 << 21], ids=["rows", "some rows", "all at once"])
def band_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bands, "_CPU_BAND_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_loss_and_gradient_are_those_of_the_plain_way(
    size: str, align_corners: bool, band_bytes: int
) -> None:
    logits, labels, weights = case(size)
    for weight, smoothing in itertools.product((None, weights), (0.0, 0.1)):
        options: dict[str, Any] = {"weight": weight, "label_smoothing": smoothing}
        full = plain(logits, labels, align_corners)
        want = F.cross_entropy(full, labels, ignore_index=255, **options)
        got = cross_entropy(logits, labels.to(torch.uint8), align_corners=align_corners, **options)
        assert got.item() == pytest.approx(want.item(), rel=1e-12)
        (slope,) = torch.autograd.grad(want, logits)
        (mine,) = torch.autograd.grad(0.4 * got, logits)
        assert difference(mine / 0.4, slope) < 1e-12


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", ["stride 8", "odd"])
def test_ohem_is_that_of_the_plain_way(size: str, align_corners: bool, band_bytes: int) -> None:
    logits, labels, weight = case(size)
    full = plain(logits, labels, align_corners)
    for threshold, min_kept in ((0.7, 10), (0.05, 300), (0.05, 0.25), (0.3, 0), (0.3, 10**6)):
        options: dict[str, Any] = {"threshold": threshold, "min_kept": min_kept, "weight": weight}
        want = ohem_cross_entropy(full, labels, **options)
        got = ohem_cross_entropy(logits, labels, align_corners=align_corners, **options)
        assert got.item() == pytest.approx(want.item(), rel=1e-12)
        (slope,) = torch.autograd.grad(want, logits, retain_graph=True)
        (mine,) = torch.autograd.grad(got, logits)
        assert difference(mine, slope) < 1e-12


def test_probabilities_are_those_of_the_true_classes(band_bytes: int) -> None:
    logits, labels, _ = case("odd")
    got = true_class_probability(logits, labels, align_corners=False)
    all_of_them = plain(logits, labels, False).softmax(1)
    want = all_of_them.gather(1, labels.where(labels != 255, 0)[:, None])[:, 0]
    torch.testing.assert_close(got, want.masked_fill(labels == 255, 1))
    assert not got.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    logits, labels, _ = case("odd", dtype)
    got = cross_entropy(logits, labels, align_corners=True)
    assert got.dtype == torch.float32
    exact = logits.detach().double().requires_grad_()
    want = cross_entropy(exact, labels, align_corners=True)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    (mine,) = torch.autograd.grad(got, logits)
    (slope,) = torch.autograd.grad(want, exact)
    assert mine.dtype == dtype
    assert difference(mine.double(), slope) < {torch.float32: 1e-5}.get(dtype, 1e-2)


def test_autocast_changes_nothing() -> None:
    logits, labels, _ = case("odd", torch.float32)
    for criterion in (cross_entropy, ohem_cross_entropy):
        want = criterion(logits, labels, align_corners=True)
        with torch.autocast("cpu", torch.bfloat16):
            assert criterion(logits, labels, align_corners=True) == want


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("criterion", [cross_entropy, ohem_cross_entropy])
def test_nothing_labelled_costs_nothing(criterion: Any, weighted: bool) -> None:
    logits, labels, weight = case("stride 8")
    options = {"weight": weight} if weighted else {}
    loss = criterion(logits, torch.full_like(labels, 255), align_corners=True, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and (gradient == 0).all()


def test_large_logits_stay_finite() -> None:
    logits, labels, _ = case("stride 8")
    loss = cross_entropy(1e4 * logits, labels, align_corners=False)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()


def test_a_label_that_no_class_has_is_no_silent_wrong_answer() -> None:
    logits, labels, _ = case("stride 8")
    labels[0, 3, 3] = K
    with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
        cross_entropy(logits, labels, align_corners=True)


def test_a_second_derivative_is_refused() -> None:
    logits, labels, _ = case("stride 8")
    loss = cross_entropy(logits, labels, align_corners=True)
    with pytest.raises(ArgumentError, match=r"create_graph: .*resize the logits .* before"):
        torch.autograd.grad(loss, logits, create_graph=True)
    full = plain(logits, labels, True)
    torch.autograd.grad(cross_entropy(full, labels), logits, create_graph=True)


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels, _ = case("stride 8")
    wanted = []
    compute = head_loss._loss_and_gradient

    def watch(*arguments: Any) -> Any:
        wanted.append(arguments[-1])
        return compute(*arguments)

    monkeypatch.setattr(head_loss, "_loss_and_gradient", watch)
    loss = cross_entropy(logits.detach(), labels, align_corners=True)
    with torch.no_grad():
        assert cross_entropy(logits, labels, align_corners=True) == loss
    assert wanted and not any(wanted)


def test_full_size_logits_are_never_made() -> None:
    logits = torch.randn(2, 19, 48, 48, requires_grad=True)
    labels = torch.randint(0, 19, (2, 384, 384)).to(torch.uint8)
    copy = 2 * 19 * 384 * 384 * 4
    for criterion in (cross_entropy, ohem_cross_entropy):
        with torch.profiler.profile(profile_memory=True) as profile:
            criterion(logits, labels, align_corners=False).backward()
        held = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        assert 0 < peak <= 0.3 * copy + bands._CPU_BAND_BYTES * torch.get_num_threads()


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        def run(*arguments: Any) -> Any:
            raise RuntimeError("no compiler here")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    calls = []
    compiled = head_loss._Compiled(lambda value: calls.append(value) or value + 1)
    assert [compiled(1), compiled(2)] == [2, 3]
    assert calls == [1, 2]


@pytest.mark.soak
def test_compiled_bands_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "_CPU_BAND_BYTES", 1 << 12)
    logits, labels, weight = case("odd")
    options: dict[str, Any] = {"align_corners": True, "weight": weight, "label_smoothing": 0.1}
    want = cross_entropy(logits, labels, **options)
    (slope,) = torch.autograd.grad(want, logits)
    compiled = head_loss._Compiled(head_loss._loss_and_gradient)
    monkeypatch.setattr(head_loss, "_fast", lambda function, device: compiled)
    got = cross_entropy(logits, labels, **options)
    (mine,) = torch.autograd.grad(got, logits)
    assert compiled._run is not head_loss._loss_and_gradient, "the compiler failed"
    assert got.item() == pytest.approx(want.item(), rel=1e-12)
    assert difference(mine, slope) < 1e-12
