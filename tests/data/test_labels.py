"""``data.labels`` and ``data.preprocess``: the two records that travel with a checkpoint."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from torchseg_zoo.data.label_sets import CAMVID, CITYSCAPES, LABEL_SETS
from torchseg_zoo.data.labels import LabelSet, generic_labels
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
    counts = {"voc": 21, "coco_voc": 21, "ade20k": 150, "coco_stuff164k": 171}
    counts |= {"coco_stuff10k": 171, "pascal_context": 60, "pascal_context59": 59, "loveda": 7}
    assert counts.items() <= {name: one.num_classes for name, one in LABEL_SETS.items()}.items()
    for name, labels in LABEL_SETS.items():
        assert labels.name == name
        assert len(set(labels.classes)) == labels.num_classes
        assert all(label == label.strip() != "" for label in labels.classes)
        if labels.raw_ids is not None:
            assert sorted(labels.raw_ids.values()) == list(range(labels.num_classes))
    # What a wrong order would move: the first and last, and one from the middle.
    ade, stuff = LABEL_SETS["ade20k"], LABEL_SETS["coco_stuff164k"]
    assert (ade.classes[0], ade.classes[20], ade.classes[149]) == ("wall", "car", "flag")
    assert (stuff.classes[0], stuff.classes[79], stuff.classes[170]) == (
        "person", "toothbrush", "wood",
    )  # fmt: skip
    assert ade.raw_ids is not None and ade.raw_ids[21] == 20 and 0 not in ade.raw_ids
    # COCO's categories 13 (stop sign) and 182 (wood) are 12 and 181 in the large set's files.
    assert stuff.raw_ids is not None and (stuff.raw_ids[12], stuff.raw_ids[181]) == (11, 170)
    small = LABEL_SETS["coco_stuff10k"].raw_ids
    assert small is not None and (small[13], small[182]) == (11, 170) and 0 not in small
    with_background, without = LABEL_SETS["pascal_context"], LABEL_SETS["pascal_context59"]
    assert with_background.classes[0] == "background"
    assert with_background.classes[1:] == without.classes == tuple(sorted(without.classes))
    assert LABEL_SETS["voc"].palette[1:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))


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


@pytest.mark.parametrize(
    ("sides", "size", "want"),
    [
        ({"short_side": 520}, (375, 500), (520, 693)),
        ({"short_side": 512, "long_side": 2048}, (375, 500), (512, 683)),
        ({"short_side": 512, "long_side": 2048}, (100, 1000), (205, 2048)),
        ({"long_side": 520}, (500, 375), (520, 390)),
        ({"resize": (12, 34)}, (500, 375), (12, 34)),
        ({"short_side": 1024, "long_side": 2048}, (1024, 2048), (1024, 2048)),
        ({"long_side": 10}, (1, 1000), (1, 10)),
        ({}, (500, 375), (500, 375)),
    ],
)
def test_pictures_are_brought_to_a_side_without_losing_their_shape(
    sides: dict[str, Any], size: tuple[int, int], want: tuple[int, int]
) -> None:
    preprocess = Preprocess(**sides)
    assert preprocess.input_size(*size) == want
    assert Preprocess.from_dict(json.loads(json.dumps(preprocess.to_dict()))) == preprocess
    for value in sides.values():
        assert str(value if isinstance(value, int) else value[0]) in preprocess.describe()


@pytest.mark.parametrize("sides", [{"resize": (1, 1), "short_side": 3}, {"long_side": 0}])
def test_sizes_that_cannot_work(sides: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Preprocess(**sides)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,))])
def test_preprocessing_that_cannot_work(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="do not go together"):
        Preprocess(mean, std)
