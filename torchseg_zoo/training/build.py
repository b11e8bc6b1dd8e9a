"""What a run is made of: data sets, model, criterion."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.data.datasets import is_list, open_dataset
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.registry import create_model
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.losses import Criterion, cross_entropy, ohem_cross_entropy
from torchseg_zoo.weights import manifest

__all__ = ["Sets", "build_model", "class_weights", "make_criterion", "open_sets"]


@dataclass(frozen=True)
class Sets:
    """The data of a run.

    Args:
        train: what is learned from.
        val: what epochs are compared on.
        mix: what is mixed into the training set, or ``None``.
    """

    train: Dataset
    val: Dataset
    mix: Dataset | None

    def named(self) -> dict[str, Dataset]:
        """Those that there are, by what messages call them."""
        found = {"training": self.train, "validation": self.val}
        return found if self.mix is None else {**found, "mixed": self.mix}


def open_sets(config: TrainConfig, train_set: Dataset | None, val_set: Dataset | None) -> Sets:
    """Opens the data that are not given, and checks that they fit each other.

    Raises:
        ArgumentError: if a list file is to be training and validation set.
        DataError: if a set cannot be read, is empty, or has other classes than the others.
    """
    labels = _labels(config)
    if train_set is None:
        train_set = open_dataset(config.data, "train", labels, root=config.root)
    if val_set is None:
        val_set = _open_validation(config, labels)
    mix = open_dataset(config.mix, "train", labels) if config.mix else None
    sets = Sets(train_set, val_set, mix)
    _check_sets(config, sets)
    return sets


def _labels(config: TrainConfig) -> LabelSet | None:
    """What label values in files mean: as many classes as asked for, or the checkpoint's."""
    model, _, tag = config.model.partition(".")
    released = manifest.find(model, tag).labels if tag else None
    if config.num_classes is None or (released and released.num_classes == config.num_classes):
        return released
    return generic_labels(config.num_classes)


def _open_validation(config: TrainConfig, labels: LabelSet | None) -> Dataset:
    if config.val_data is None and is_list(config.data):
        raise ArgumentError(
            "a list file is one split, and the score needs another",
            where=config.data,
            fix="name the validation list with val_data (--val-data)",
        )
    return open_dataset(config.val_data or config.data, "val", labels, root=config.root)


def _check_sets(config: TrainConfig, sets: Sets) -> None:
    train_set = sets.train
    for name, dataset in sets.named().items():
        if len(dataset) == 0:
            raise DataError(
                f"the {name} set is empty", where=config.data, fix="check the list or folder"
            )
        classes = dataset.labels.num_classes
        if dataset.labels.ignore_index != train_set.labels.ignore_index:
            raise DataError(
                f"the {name} set ignores {dataset.labels.ignore_index}, "
                f"the training set {train_set.labels.ignore_index}",
                where=config.data,
                fix="give both label sets the same ignore_index",
            )
        if classes != train_set.labels.num_classes:
            raise DataError(
                f"the {name} set has {classes} classes, "
                f"the training set {train_set.labels.num_classes}",
                where=config.data,
                fix="train, validate and mix with the same classes",
            )
        if config.num_classes not in (None, classes):
            raise DataError(
                f"num_classes is {config.num_classes}, but the {name} set has {classes} "
                f"({dataset.labels.name})",
                where=config.data,
                fix=f"drop num_classes or set it to {classes}",
            )


def build_model(config: TrainConfig, labels: LabelSet) -> SegmentationModel:
    """The model that ``config`` names, for these classes, in training mode."""
    options: dict[str, Any] = {"num_classes": labels.num_classes}
    if config.pretrained_backbone:
        options["pretrained_backbone"] = True
    model = create_model(config.model, **options)
    model.labels = labels
    return model.train()


def class_weights(config: TrainConfig, train_set: Dataset) -> Tensor | None:
    """(K,) factor per class, or ``None`` for the same for all.

    Raises:
        ArgumentError: if there is not one number per class.
        DataError: if weights are to be balanced and a label map cannot be read.
    """
    if config.class_weights == "none":
        return None
    classes = train_set.labels.num_classes
    if not isinstance(config.class_weights, str):
        if len(config.class_weights) != classes:
            raise ArgumentError(
                f"{len(config.class_weights)} class weights for {classes} classes",
                where="class_weights",
                fix="give one number per class, or 'balanced'",
            )
        return torch.tensor(config.class_weights)
    counts = np.zeros(256, np.int64)
    for index in range(len(train_set)):
        label = train_set[index].label
        if label is not None:
            counts += np.bincount(label.ravel(), minlength=256)
    share = np.maximum(counts[:classes] / max(1, counts[:classes].sum()), 1e-4)
    weight = share**-0.5
    # Scaled so that the average labelled pixel weighs 1 and the learning rate keeps its meaning.
    return torch.tensor(weight / (weight * share).sum(), dtype=torch.float32)


def make_criterion(config: TrainConfig, weight: Tensor | None, ignore_index: int) -> Criterion:
    """The loss of one head, as ``config`` asks for it.

    Args:
        config: names it.
        weight: (K,) factor per class, on the device.
        ignore_index: label value that does not count.
    """
    if config.criterion == "ohem":
        return functools.partial(
            ohem_cross_entropy, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept,
            weight=weight, ignore_index=ignore_index,
        )  # fmt: skip
    return functools.partial(cross_entropy, weight=weight, ignore_index=ignore_index)
