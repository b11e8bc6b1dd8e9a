"""Whole-image evaluation."""

from __future__ import annotations

import torch
from tqdm import tqdm

from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.data.transforms import resize_image
from torchseg_zoo.errors import DataError
from torchseg_zoo.inference.tail import label_map
from torchseg_zoo.metrics import ConfusionMatrix, Scores
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(model: SegmentationModel, dataset: Dataset, *, progress: bool = True) -> Scores:
    """Scores a model on whole pictures at their own size, single scale, no flip.

    Args:
        model: the model; its mode is put back afterwards.
        dataset: pictures with labels in the model's classes.
        progress: show a bar on stderr.

    Raises:
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
            image = sample.image
            if model.preprocess.resize is not None:
                image = resize_image(image, model.preprocess.resize)
            logits = model(model.preprocess.tensor(image).to(device), upsample=False)
            predicted = label_map(
                logits, sample.label.shape, align_corners=model.config.align_corners
            )
            matrix.update(torch.from_numpy(sample.label).to(device), predicted[0])
    finally:
        model.train(was_training)
    if not matrix.counts.any():
        raise DataError(
            f"no pixel of the {len(dataset)} label maps has a class",
            fix="check the label files and what their values mean",
        )
    return matrix.scores()
