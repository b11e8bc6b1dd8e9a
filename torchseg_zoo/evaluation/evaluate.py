"""Evaluation on labelled pictures."""

from __future__ import annotations

import torch
from tqdm import tqdm

from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import DataError
from torchseg_zoo.inference.modes import Mode
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.metrics import ConfusionMatrix, Scores
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(
    model: SegmentationModel, dataset: Dataset, *, mode: Mode | None = None, progress: bool = True
) -> Scores:
    """Scores a model at the size of the label maps.

    Args:
        model: the model; whether it was training is put back afterwards.
        dataset: pictures with labels in the model's classes.
        mode: ``Whole``, ``Sliding`` or ``MultiScaleFlip``; by default ``Whole`` (single scale, no
            flip), or for a model of one fixed input size windows of that size.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if the model cannot work in ``mode``.
        DataError: if the class counts differ, the set is empty, a sample has no labels, or no pixel
            of all label maps has a class.
    """
    if dataset.labels.num_classes != model.num_classes:
        raise DataError(
            f"the data set has {dataset.labels.num_classes} classes "
            f"({dataset.labels.name}), the model {model.num_classes} ({model.labels.name})",
            fix="evaluate on the data the model was trained for, or fine-tune it first",
        )
    if len(dataset) == 0:
        raise DataError("the data set is empty", fix="check the list or folder")
    matrix = ConfusionMatrix(model.num_classes, ignore_index=dataset.labels.ignore_index)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        for index in tqdm(range(len(dataset)), desc="evaluate", disable=not progress, leave=False):
            sample = dataset[index]
            if sample.label is None:
                raise DataError(
                    "this sample has no labels", where=sample.name, fix="list image<TAB>label"
                )
            size = (sample.label.shape[0], sample.label.shape[1])
            predicted = label(model, sample.image, mode, size=size)
            matrix.update(torch.from_numpy(sample.label).to(device), predicted)
    finally:
        model.train(was_training)
    if not matrix.counts.any():
        raise DataError(
            f"no pixel of the {len(dataset)} label maps has a class",
            fix="check the label files and what their values mean",
        )
    return matrix.scores()
