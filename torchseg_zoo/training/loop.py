"""The training loop: build, resume, step, log, evaluate, save."""

from __future__ import annotations

import copy
import csv
import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from torchseg_zoo.data.datasets import is_list, open_dataset
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.devices import find_device
from torchseg_zoo.errors import ArgumentError, DataError, TrainError
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.files import make_folder
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import save_model
from torchseg_zoo.registry import create_model
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.losses import Criterion, cross_entropy, ohem_cross_entropy, total_loss
from torchseg_zoo.training.optim import learning_rate, make_optimizer
from torchseg_zoo.training.samples import BatchLoader, EpochBatches, TrainingSamples
from torchseg_zoo.training.state import Progress, load_state, save_state
from torchseg_zoo.weights import manifest

__all__ = ["TrainResult", "train"]

LOG_FIELDS = ("epoch", "loss", "lr", "miou_percent", "pixel_accuracy_percent", "seconds")


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind.

    Args:
        best: checkpoint of the best epoch on the validation split; ``load_model`` reads it.
        last: state to resume from.
        log: CSV with one line per epoch.
        miou_percent: validation mIoU of ``best``; selected on that split.
        epoch: epochs done when it was reached.
    """

    best: Path
    last: Path
    log: Path
    miou_percent: float
    epoch: int


def train(
    config: TrainConfig,
    *,
    train_set: Dataset | None = None,
    val_set: Dataset | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Trains a model and keeps the checkpoint that scores best on the validation split.

    Args:
        config: all settings.
        train_set: labelled samples; opened from ``config.data`` without it.
        val_set: labelled samples; opened from ``config.val_data`` or ``config.data`` without it.
        resume: go on from ``last.safetensors`` in ``config.out`` if it is there.
        progress: show bars on stderr.

    Raises:
        DataError: if data cannot be read or do not fit.
        TrainError: if the loss stops being finite.
        ResumeError: if the run to resume was started with other settings.
    """
    out = make_folder(Path(config.out))
    best, last, log = (out / name for name in ("best.safetensors", "last.safetensors", "log.csv"))
    if last.exists() and not resume:
        raise ArgumentError(
            "there is a run in this folder already",
            where=out,
            fix="resume it with resume=True (--resume), or choose another folder",
        )

    labels = _labels(config)
    if train_set is None:
        train_set = open_dataset(config.data, "train", labels, root=config.root)
    if val_set is None:
        val_set = _open_validation(config, labels)
    mix = open_dataset(config.mix, "train", labels) if config.mix else None
    _check_sets(config, train_set, val_set, mix)

    torch.manual_seed(config.seed)
    device = find_device(config.device)
    model = _build_model(config, train_set.labels).to(device).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(model).requires_grad_(False) if config.ema else None
    optimizer = make_optimizer(model, config)
    state = Progress()
    if resume and last.exists():
        state = load_state(last, config, model, averaged, optimizer)

    samples = TrainingSamples(train_set, mix, config)
    batches = EpochBatches(len(train_set), len(mix) if mix else 0, config)
    if len(batches) == 0:
        raise DataError(
            f"{len(train_set)} training samples do not fill one batch of {config.batch_size}",
            where=config.data,
            fix="use a smaller batch_size",
        )
    loader = BatchLoader(samples, batches, config.workers)
    criterion = _criterion(config, train_set, device)
    normalise = _Normalise(model.preprocess, device)
    steps = config.epochs * len(batches)

    for epoch in range(state.epoch, config.epochs):
        started = time.perf_counter()
        batches.epoch = epoch
        model.train()
        losses = []
        bar = tqdm(
            loader, total=len(batches), desc=f"epoch {epoch + 1}/{config.epochs}",
            disable=not progress, leave=False,
        )  # fmt: skip
        for index, (images, targets, names) in enumerate(bar):
            step = epoch * len(batches) + index
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    group["base_lr"], step, steps,
                    power=config.poly_power, warmup_steps=config.warmup_steps,
                )  # fmt: skip
            output = model(normalise(images), with_aux=True, upsample=False)
            loss = total_loss(
                output, targets.to(device).long(), criterion,
                aux_weight=config.aux_weight, align_corners=model.config.align_corners,
            )  # fmt: skip
            value = loss.item()
            if not math.isfinite(value):
                raise TrainError(
                    f"the loss is {value} at step {step} (epoch {epoch + 1})",
                    where=", ".join(names[:4]),
                    fix="lower lr, or look at these samples; the last epoch's state is kept",
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if averaged is not None:
                _update_average(averaged, model, config.ema, step)
            losses.append(value)
            bar.set_postfix(loss=f"{value:.3f}")
        state.epoch = epoch + 1

        row: dict[str, Any] = {
            "epoch": state.epoch,
            "loss": f"{np.mean(losses):.5f}",
            "lr": f"{optimizer.param_groups[0]['lr']:.3e}",
        }
        if state.epoch % config.eval_every == 0 or state.epoch == config.epochs:
            candidate = averaged if averaged is not None else model
            scores = evaluate(candidate, val_set, progress=progress)
            row["miou_percent"] = f"{scores.miou_percent:.3f}"
            row["pixel_accuracy_percent"] = f"{scores.pixel_accuracy_percent:.3f}"
            if scores.miou_percent > state.best_miou:
                state.best_miou, state.best_epoch = scores.miou_percent, state.epoch
                save_model(candidate, best)
        row["seconds"] = f"{time.perf_counter() - started:.1f}"
        save_state(last, config, state, model, averaged, optimizer)
        _log(log, row)
    return TrainResult(best, last, log, state.best_miou, state.best_epoch)


class _Normalise:
    """uint8 (N, H, W, C) from the workers → normalised (N, C, H, W) on the device."""

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        scale, shift = preprocess.scale_and_shift()
        self._scale = torch.from_numpy(scale).to(device)
        self._shift = torch.from_numpy(shift).to(device)
        self._device = device

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device, non_blocking=True).float()
        return (pixels * self._scale + self._shift).permute(0, 3, 1, 2)


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


def _check_sets(
    config: TrainConfig, train_set: Dataset, val_set: Dataset, mix: Dataset | None
) -> None:
    for name, dataset in (("training", train_set), ("validation", val_set), ("mixed", mix)):
        if dataset is None:
            continue
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


def _build_model(config: TrainConfig, labels: LabelSet) -> SegmentationModel:
    options: dict[str, Any] = {"num_classes": labels.num_classes}
    if config.pretrained_backbone:
        options["pretrained_backbone"] = True
    model = create_model(config.model, **options)
    model.labels = labels
    return model.train()


def _criterion(config: TrainConfig, train_set: Dataset, device: torch.device) -> Criterion:
    weight = None
    if config.class_weights != "none":
        weight = _class_weights(config, train_set).to(device)
    ignore_index = train_set.labels.ignore_index
    if config.criterion == "ohem":
        return functools.partial(
            ohem_cross_entropy, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept,
            weight=weight, ignore_index=ignore_index,
        )  # fmt: skip
    return functools.partial(cross_entropy, weight=weight, ignore_index=ignore_index)


def _class_weights(config: TrainConfig, train_set: Dataset) -> Tensor:
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


@torch.no_grad()
def _update_average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    # Early on a long memory would hold on to the random start.
    decay = min(decay, (1 + step) / (10 + step))
    pairs = zip(averaged.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _log(path: Path, row: dict[str, Any]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LOG_FIELDS)
        if is_new:
            writer.writeheader()
        writer.writerow(row)
