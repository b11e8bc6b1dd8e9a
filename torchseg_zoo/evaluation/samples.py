"""Samples that can be scored, and a model that is ready to score them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from torchseg_zoo.data.label_map import check_label_values
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.data.transforms import resize_label
from torchseg_zoo.errors import DataError, listed
from torchseg_zoo.inference.modes import Mode
from torchseg_zoo.inference.scored import Scored
from torchseg_zoo.inference.scoring import score
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["check_classes", "evaluating", "read_labelled", "scored", "scored_samples"]

_SHOWN = 40  # classes of a list in a message


def check_classes(model: SegmentationModel, dataset: Dataset) -> None:
    """Refuses a data set that the model cannot be scored on.

    Spelling, as of "traffic light" and "traffic_light", does not matter, and classes that have only
    numbers for names may be any.

    Raises:
        DataError: if the classes differ, or the set is empty.
    """
    ours, theirs = model.labels, dataset.labels
    lists = f"data: {listed(theirs.classes, _SHOWN)}; model: {listed(ours.classes, _SHOWN)}"
    if theirs.num_classes != model.num_classes:
        raise DataError(
            f"the data set has {theirs.num_classes} classes "
            f"({theirs.name}), the model {model.num_classes} ({ours.name})",
            why=lists,
            fix="evaluate on the data the model was trained for, or fine-tune it first",
        )
    differing = theirs.first_difference(ours)
    if differing is not None:
        raise DataError(
            f"class {differing} is {theirs.classes[differing]!r} in the data set "
            f"({theirs.name}) and {ours.classes[differing]!r} in the model ({ours.name})",
            why=lists,
            fix="evaluate on the data the model was trained for; or name the data set's classes "
            "like the model's, in classes.txt, if they mean the same",
        )
    if len(dataset) == 0:
        raise DataError("the data set is empty", fix="check the list or folder")


@contextmanager
def evaluating(model: SegmentationModel) -> Iterator[None]:
    """Evaluation mode within the block; whether the model was training is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def read_labelled(dataset: Dataset, index: int) -> tuple[Sample, np.ndarray]:
    """One sample and its (H, W) uint8 labels.

    Raises:
        DataError: if it cannot be read, has no labels, or they hold what is no class.
    """
    sample = dataset[index]
    if sample.label is None:
        raise DataError("this sample has no labels", where=sample.name, fix="list image<TAB>label")
    labels = dataset.labels
    # Files are checked when they are read; a data set made in Python need not have looked.
    if ((sample.label >= labels.num_classes) & (sample.label != labels.ignore_index)).any():
        check_label_values(sample.label, labels, where=sample.name)
    return sample, sample.label


def scored(
    model: SegmentationModel,
    sample: Sample,
    label: np.ndarray,
    mode: Mode,
    *,
    label_size: Size | None = None,
) -> tuple[Tensor, Scored]:
    """One sample's truth and its scores, both at the size that counts.

    Args:
        model: in evaluation mode.
        sample: the picture.
        label: (H, W) uint8 train ids.
        mode: see ``evaluate``, also for ``label_size``.

    Returns:
        (H, W) uint8 truth on the model's device, and the scores at that size.

    Raises:
        ArgumentError: if the model cannot work in ``mode``.
    """
    if label_size is not None:
        label = resize_label(label, label_size)
    device = next(model.parameters()).device
    truth = torch.from_numpy(np.require(label, requirements=["C", "W"])).to(device)
    return truth, score(model, sample.image, mode, size=(label.shape[0], label.shape[1]))


def scored_samples(
    model: SegmentationModel, dataset: Dataset, mode: Mode, *, progress: bool = True
) -> Iterator[tuple[Tensor, Scored]]:
    """Runs a model on every sample of a data set.

    Args:
        model: the model; it is in evaluation mode meanwhile.
        dataset: pictures with labels.
        mode: see ``evaluate``, also for ``progress``.

    Yields:
        What ``scored`` returns.

    Raises:
        ArgumentError: if the model cannot work in ``mode``.
        DataError: as ``read_labelled``.
    """
    with evaluating(model):
        for index in tqdm(range(len(dataset)), desc="evaluate", disable=not progress, leave=False):
            yield scored(model, *read_labelled(dataset, index), mode)
