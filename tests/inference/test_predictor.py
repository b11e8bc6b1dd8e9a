"""The prepared model against the plain one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.inference.modes import MultiScaleFlip, Sliding


@pytest.fixture(scope="module")
def model() -> tsz.SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid").eval()


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    return draw_street(3, (180, 250))[0]


@pytest.mark.parametrize(
    "mode", [None, Sliding((96, 128), (64, 96)), MultiScaleFlip((0.75, 1.0))], ids=str
)
def test_labels_and_confidence_are_the_models(model, street: np.ndarray, mode) -> None:
    wanted = tsz.predict(model, street, mode=mode)
    predictor = tsz.Predictor(model, mode=mode, keep_memory=False)
    got = predictor(street)
    assert (got.labels == wanted.labels).mean() > 0.9999
    np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-3)
    assert got.classes == wanted.classes
    np.testing.assert_array_equal(predictor.labels(street), got.labels)


def test_the_model_is_left_as_it_was(model, street: np.ndarray) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tsz.Predictor(model, keep_memory=False)(street)
    assert not model.fused
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bad_arguments_are_refused_at_once(model) -> None:
    with pytest.raises(ArgumentError, match="cuda:99"):
        tsz.Predictor(model, device="cuda:99")
    with pytest.raises(ArgumentError, match="mode"):
        tsz.Predictor(model, mode="whole")


def test_freed_memory_is_used_again() -> None:
    """Page faults of a second prediction, with and without ``keep_memory``, each in a process."""
    script = """
import resource, sys, torch, numpy, torchseg_zoo as tsz
torch.set_num_threads(1)
predictor = tsz.Predictor(tsz.bisenet_x39(pretrained="camvid"), keep_memory=sys.argv[1] == "keep")
picture = numpy.zeros((768, 1024, 3), numpy.uint8)
for _ in range(3):
    predictor.labels(picture)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
predictor.labels(picture)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    keep, free = (
        int(subprocess.run(
            [sys.executable, "-c", script, word], capture_output=True, text=True, check=True
        ).stdout)
        for word in ("keep", "free")
    )  # fmt: skip
    assert keep < free / 4 or not sys.platform.startswith("linux")


def test_compiled_labels_are_the_models(model, street: np.ndarray) -> None:
    """Through the compiler's front end; the code it would generate needs a C++ compiler."""
    predictor = tsz.Predictor(model, keep_memory=False)
    predictor.model.compile(backend="aot_eager", dynamic=False)
    assert (predictor.labels(street) == tsz.predict(model, street).labels).mean() > 0.9999


def test_a_confidence_that_is_none_is_refused_at_once(model) -> None:
    with pytest.raises(ArgumentError, match="no confidence 'sure'; known are probability, margin"):
        tsz.Predictor(model, confidence="sure")
