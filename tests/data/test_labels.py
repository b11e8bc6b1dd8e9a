"""``data.labels`` and ``data.preprocess``: the two records that travel with a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from torchseg_zoo.data.labels import CAMVID, CITYSCAPES, LABEL_SETS, LabelSet, generic_labels
from torchseg_zoo.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from torchseg_zoo.errors import ArgumentError


@pytest.mark.parametrize("labels", [*LABEL_SETS.values(), generic_labels(7)])
def test_label_sets_survive_json(labels: LabelSet) -> None:
    assert LabelSet.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_known_sets_are_those_of_their_benchmarks() -> None:
    assert CITYSCAPES.num_classes == 19 and CAMVID.num_classes == 11
    assert CITYSCAPES.classes[:3] == ("road", "sidewalk", "building")
    assert CITYSCAPES.palette[13] == (0, 0, 142)  # car
    assert CITYSCAPES.raw_ids is not None and CITYSCAPES.raw_ids[26] == 13
    for labels in LABEL_SETS.values():
        assert len(set(labels.classes)) == len(set(labels.palette)) == labels.num_classes


def test_generic_colours_are_those_of_the_voc_kit() -> None:
    labels = generic_labels(255)
    assert labels.palette[:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert len(set(labels.palette)) == 255
    table = generic_labels(3).palette_array()
    assert table.shape == (256, 3) and table.dtype == np.uint8
    assert table[3:].max() == 0


def test_label_sets_that_contradict_themselves() -> None:
    with pytest.raises(ArgumentError, match="2 classes but 1 colours"):
        LabelSet("x", ("a", "b"), ((0, 0, 0),))
    with pytest.raises(ArgumentError, match="at least one class"):
        generic_labels(0)


def test_preprocessing_is_divide_subtract_divide() -> None:
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = Preprocess().tensor(image)
    want = (torch.from_numpy(image).double() / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(
        IMAGENET_STD
    )
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(x[0].permute(1, 2, 0).double(), want, atol=1e-6, rtol=0)
    pair = Preprocess().tensor(np.stack([image, image[::-1]]))
    torch.testing.assert_close(pair[1], x[0].flip(1), atol=0, rtol=0)


@pytest.mark.parametrize("resize", [None, (12, 34)])
def test_preprocessing_survives_json_and_describes_itself(resize: tuple[int, int] | None) -> None:
    preprocess = Preprocess((0.5,), (0.25,), resize)
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    assert "mean (0.5)" in preprocess.describe()
    assert ("12×34" in preprocess.describe()) == (resize is not None)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))])
def test_preprocessing_that_cannot_work(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="do not go together"):
        Preprocess(mean, std)
