"""``inference.tail``: labels and confidence in bands equal those of full-size logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from torchseg_zoo.inference import tail
from torchseg_zoo.inference.prediction import Confidence

SIZES = [
    ((4, 6), (32, 48)),
    ((5, 7), (37, 53)),
    ((1, 1), (1, 1)),
    ((1, 1), (9, 5)),
    ((1, 50), (1, 400)),
    ((6, 4), (1, 1)),
    ((9, 8), (5, 3)),
    ((12, 12), (12, 12)),
    ((2, 3), (1, 17)),
]


def logits_of(count: int, classes: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(count, classes, *size, generator=generator)


def resized(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


def assert_same_but_for_ties(labels: Tensor, full: Tensor) -> None:
    """Where our class is not the largest, its logit must be as large but for rounding."""
    chosen = full.gather(1, labels[:, None].long())[:, 0]
    assert (full.amax(1) - chosen).max() < 2e-5
    assert (labels != full.argmax(1)).sum() <= 1 + labels.numel() // 10_000


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("classes", [2, 19, 150])
def test_labels_are_the_argmax_of_a_resize(
    source: tuple[int, int], target: tuple[int, int], classes: int, align_corners: bool
) -> None:
    logits = logits_of(2, classes, source)
    labels = tail.label_map(logits, target, align_corners=align_corners)
    assert labels.shape == (2, *target) and labels.dtype == torch.uint8
    assert_same_but_for_ties(labels, resized(logits, target, align_corners))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_confidence_is_the_largest_softmax(
    source: tuple[int, int], target: tuple[int, int], align_corners: bool
) -> None:
    logits = logits_of(2, 11, source, seed=1)
    got = tail.confidence(logits, target, align_corners=align_corners)
    want = resized(logits, target, align_corners).softmax(1).amax(1)
    assert got.shape == (2, *target) and got.dtype == torch.float32
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)


def by_definition(probabilities: Tensor, kind: str) -> Tensor:
    """Confidence of (N, K, H, W) probabilities."""
    if kind == "probability":
        return probabilities.amax(1)
    if kind == "margin":
        ordered = probabilities.sort(1, descending=True).values
        return ordered[:, 0] - ordered[:, 1]
    entropy = -(probabilities * probabilities.clamp(min=1e-30).log()).sum(1)
    return 1 - entropy / math.log(probabilities.shape[1])


@pytest.mark.parametrize("kind", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_confidences_by_their_definitions(kind: Confidence, temperature: float) -> None:
    logits = logits_of(2, 11, (5, 7), seed=2)
    got = tail.confidence(logits, (37, 53), align_corners=True, kind=kind, temperature=temperature)
    want = by_definition((resized(logits, (37, 53), True) / temperature).softmax(1), kind)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    assert got.min() >= 0 and got.max() <= 1


@pytest.mark.parametrize("kind", ["probability", "margin", "entropy"])
def test_confidences_at_their_ends(kind: Confidence) -> None:
    even, sure = torch.zeros(1, 4, 2, 2), torch.tensor([[[[0.0]], [[1e4]], [[-1e4]], [[0.0]]]])
    least = 0.25 if kind == "probability" else 0
    for logits, want in ((even, least), (sure, 1), (torch.zeros(1, 1, 2, 2), 1)):
        found = tail.confidence(logits, (3, 3), align_corners=False, kind=kind)
        torch.testing.assert_close(found, torch.full((1, 3, 3), float(want)), atol=1e-6, rtol=0)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple) else (found,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return found


@pytest.mark.parametrize("kind", ["probability", "margin", "entropy"])
def test_no_full_size_logits_exist(kind: Confidence) -> None:
    logits, size = logits_of(1, 19, (32, 64)), (512, 1024)
    with Largest() as largest:
        tail.confidence(logits, size, align_corners=True, kind=kind, temperature=2.0)
        tail.label_map(logits, size, align_corners=True)
    assert largest.elements == size[0] * size[1]  # the map itself; 19 times that would be logits


@pytest.mark.parametrize("elements", [1, 1000, 2**18])
def test_the_band_does_not_matter(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    logits = logits_of(1, 7, (9, 11))
    want = tail.label_map(logits, (70, 90), align_corners=True)
    monkeypatch.setattr(tail, "_BAND_ELEMENTS", elements)
    assert torch.equal(tail.label_map(logits, (70, 90), align_corners=True), want)


def test_half_precision_and_other_memory_formats() -> None:
    logits = logits_of(2, 5, (6, 7)).bfloat16()
    want = tail.label_map(logits.float(), (30, 31), align_corners=False)
    strided = logits.to(memory_format=torch.channels_last)
    assert torch.equal(tail.label_map(strided, (30, 31), align_corners=False), want)


def test_one_class_is_certain_everywhere() -> None:
    logits = logits_of(1, 1, (3, 3))
    assert (tail.label_map(logits, (8, 8), align_corners=True) == 0).all()
    assert (tail.confidence(logits, (8, 8), align_corners=True) == 1).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[[1e4]], [[-1e4]], [[1e4]]]])
    assert tail.confidence(logits, (2, 2), align_corners=True).tolist() == [[[0.5] * 2] * 2]


@pytest.mark.parametrize("align_corners", [False, True])
def test_what_a_gpu_compiles_is_the_definition(align_corners: bool) -> None:
    """Traced and decomposed as for a GPU's kernel, without generating its code."""
    kernel = tail._Kernel(backend="aot_eager_decomp_partition")
    for source, size in SIZES[:3]:
        logits = logits_of(2, 5, source)
        labels = kernel(logits.half(), size, align_corners)
        assert labels is not None and labels.dtype == torch.uint8
        assert_same_but_for_ties(labels, resized(logits.half().float(), size, align_corners))


def test_without_a_compiler_it_is_said_once_and_done_by_bands() -> None:
    kernel = tail._Kernel(backend="no such compiler")
    logits = logits_of(1, 3, (4, 4))
    with pytest.warns(RuntimeWarning, match="without a compiled kernel"):
        assert kernel(logits, (8, 8), False) is None
    assert kernel(logits, (8, 8), False) is None  # warnings are errors here: nothing is said again
    labels = tail._labels_by_bands(logits, (8, 8), False)
    assert_same_but_for_ties(labels, resized(logits, (8, 8), False))
