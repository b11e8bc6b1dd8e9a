"""Evaluation on labelled pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.data.transforms import resize_label
from torchseg_zoo.errors import DataError
from torchseg_zoo.evaluation.protocol import Origin, describe_run, list_digest
from torchseg_zoo.evaluation.result import Evaluation, PictureScore
from torchseg_zoo.inference.modes import Mode, default_mode
from torchseg_zoo.inference.scoring import Scored, score
from torchseg_zoo.metrics import (
    BoundaryOverlap,
    ConfusionMatrix,
    ReliabilityCounts,
    count_pairs,
    overlaps,
    picture_scores,
)
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["check_classes", "evaluate", "evaluating", "scored_samples"]


@torch.inference_mode()
def evaluate(
    model: SegmentationModel,
    dataset: Dataset,
    *,
    mode: Mode | None = None,
    label_size: Size | None = None,
    boundary_share: float | None = None,
    reliability: bool = False,
    origin: Origin | None = None,
    progress: bool = True,
) -> Evaluation:
    """Scores a model at the size of the label maps.

    Args:
        model: the model; whether it was training is put back afterwards.
        dataset: pictures with labels in the model's classes.
        mode: ``Whole``, ``Sliding`` or ``MultiScaleFlip``; by default ``Whole`` (single scale, no
            flip), or for a model of one fixed input size windows of that size.
        label_size: (height, width) that label maps are brought to, by nearest neighbour, and scored
            at; by default their own. A score at another size is not comparable.
        boundary_share: also measure boundary IoU, in bands of this share of the picture's diagonal;
            see ``metrics.BoundaryOverlap``.
        reliability: also measure whether confidences are true; they take some time.
        origin: where model and data came from, for the protocol.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if the model cannot work in ``mode``, or an argument is out of range.
        DataError: if the class counts differ, the set is empty, a sample has no labels, or no pixel
            of all label maps has a class.
    """
    labels = dataset.labels
    check_classes(model, dataset)
    mode = default_mode(model.input_rule) if mode is None else mode
    matrix = ConfusionMatrix(model.num_classes, ignore_index=labels.ignore_index)
    boundary = None
    if boundary_share is not None:
        boundary = BoundaryOverlap(
            model.num_classes, ignore_index=labels.ignore_index, share=boundary_share
        )
    bins = ReliabilityCounts() if reliability else None
    found: list[Tensor] = []
    samples: list[tuple[str, Size]] = []
    for name, size, truth, result in scored_samples(
        model, dataset, mode, label_size=label_size, progress=progress
    ):
        predicted = result.labels()
        pairs = count_pairs(truth, predicted, model.num_classes, ignore_index=labels.ignore_index)
        matrix.add(pairs)
        found.append(overlaps(pairs))
        samples.append((name, size))
        if boundary is not None:
            boundary.update(truth, predicted)
        if bins is not None:
            labelled = (truth < model.num_classes) & (truth != labels.ignore_index)
            confidence = result.confidence(temperature=model.temperature)
            bins.update(confidence, truth == predicted, labelled)
        del result  # merged scores are large; the next picture's must not lie beside them
    counts = matrix.counts
    if not counts.any():
        raise DataError(
            f"no pixel of the {len(dataset)} label maps has a class",
            fix="check the label files and what their values mean",
        )
    return Evaluation(
        **vars(matrix.scores()),
        confusion=counts.numpy(),
        pictures=_picture_scores(torch.stack(found), [name for name, _ in samples]),
        protocol=describe_run(
            model,
            labels,
            mode,
            files_sha256=list_digest(samples),
            count=len(samples),
            labelled_pixels=int(counts.sum()),
            label_size=label_size,
            origin=origin or Origin(),
        ),
        boundary_share=boundary_share,
        boundary_iou_percent=boundary.iou_percent() if boundary is not None else (),
        reliability=bins.table() if bins is not None else None,
        temperature=model.temperature,
    )


def check_classes(model: SegmentationModel, dataset: Dataset) -> None:
    """Refuses a data set that the model cannot be scored on.

    Raises:
        DataError: if the class counts differ, or the set is empty.
    """
    if dataset.labels.num_classes != model.num_classes:
        raise DataError(
            f"the data set has {dataset.labels.num_classes} classes "
            f"({dataset.labels.name}), the model {model.num_classes} ({model.labels.name})",
            fix="evaluate on the data the model was trained for, or fine-tune it first",
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


def scored_samples(
    model: SegmentationModel,
    dataset: Dataset,
    mode: Mode,
    *,
    label_size: Size | None = None,
    progress: bool = True,
) -> Iterator[tuple[str, Size, Tensor, Scored]]:
    """Runs a model on every sample of a data set.

    Args:
        model: the model.
        dataset: pictures with labels.
        mode: see ``evaluate``, also for ``label_size`` and ``progress``.

    Yields:
        The sample's name, the (height, width) of its picture, its (H, W) uint8 truth on the model's
        device, and its scores at that size.

    Raises:
        ArgumentError: if the model cannot work in ``mode``.
        DataError: if a sample has no labels.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        for index in tqdm(range(len(dataset)), desc="evaluate", disable=not progress, leave=False):
            sample = dataset[index]
            if sample.label is None:
                raise DataError(
                    "this sample has no labels", where=sample.name, fix="list image<TAB>label"
                )
            label = sample.label if label_size is None else resize_label(sample.label, label_size)
            size = (label.shape[0], label.shape[1])
            truth = torch.from_numpy(np.require(label, requirements=["C", "W"])).to(device)
            picture = (sample.image.shape[0], sample.image.shape[1])
            yield sample.name, picture, truth, score(model, sample.image, mode, size=size)


def _picture_scores(found: Tensor, names: list[str]) -> tuple[PictureScore, ...]:
    miou, accuracy = (values.tolist() for values in picture_scores(found.cpu()))
    return tuple(
        PictureScore(index, name, miou[index], accuracy[index]) for index, name in enumerate(names)
    )
