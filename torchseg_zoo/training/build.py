"""What a run is made of: data sets, model, class weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.data.class_weights import balanced_weights
from torchseg_zoo.data.datasets import is_list, open_dataset
from torchseg_zoo.data.datasets.classes import read_classes
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.network import build_network
from torchseg_zoo.weights import manifest

__all__ = ["Sets", "build_model", "class_weights", "open_sets"]


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
    labels, classes = _labels(config), read_classes(config.classes) if config.classes else None
    if train_set is None:
        train_set = open_dataset(config.data, "train", labels, root=config.root, classes=classes)
    if val_set is None:
        val_set = _open_validation(config, labels, classes)
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


def _open_validation(
    config: TrainConfig, labels: LabelSet | None, classes: LabelSet | None
) -> Dataset:
    if config.val_data is None and is_list(config.data):
        raise ArgumentError(
            "a list file is one split, and the score needs another",
            where=config.data,
            fix="name the validation list with val_data (--val-data)",
        )
    spec = config.val_data or config.data
    return open_dataset(spec, "val", labels, root=config.root, classes=classes)


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
        differing = dataset.labels.first_difference(train_set.labels)
        if differing is not None:
            raise DataError(
                f"class {differing} is {dataset.labels.classes[differing]!r} in the {name} set and "
                f"{train_set.labels.classes[differing]!r} in the training set",
                where=config.data,
                fix="train, validate and mix with the same classes, in the same order",
            )
        if config.num_classes not in (None, classes):
            raise DataError(
                f"num_classes is {config.num_classes}, but the {name} set has {classes} "
                f"({dataset.labels.name})",
                where=config.data,
                fix=f"drop num_classes or set it to {classes}",
            )


def build_model(
    config: TrainConfig, labels: LabelSet, *, resuming: bool = False
) -> SegmentationModel:
    """The model that ``config`` names, for these classes, in training mode.

    Args:
        config: see ``build_network``, also for what is raised.
        labels: what the classes mean.
        resuming: whether a state will be loaded: ImageNet weights are not needed then.
    """
    if resuming:
        config = dataclasses.replace(config, pretrained_backbone=False, backbone_weights=None)
    model = build_network(config, labels.num_classes)
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
    return torch.tensor(balanced_weights(counts[:classes]), dtype=torch.float32)
