"""What a run would do, found out without data, without weights and without training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.data.datasets import DATASET_NAMES, open_dataset
from torchseg_zoo.data.datasets.classes import read_classes
from torchseg_zoo.data.datasets.released import RELEASED
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import ZooError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.network import build_network
from torchseg_zoo.training.optim import config_groups, scheduled_rate
from torchseg_zoo.training.samples import too_few
from torchseg_zoo.types import Size
from torchseg_zoo.weights import manifest

__all__ = ["Plan", "make_plan", "saved_bytes"]

_COPIES = {"sgd": 1, "adam": 2, "adamw": 2}  # what optimizers keep of each parameter


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Args:
        config: its settings.
        num_classes: K.
        processes: how many share a step.
        steps_per_epoch: ``None`` where only the data tell.
        groups: of the optimizer: name, lr, weight_decay, tensors, elements.
        parameters: M parameters, auxiliary heads included.
        state_bytes: weights, gradients, optimizer and average.
        activation_bytes: what one process keeps of a forward pass, at full precision.
    """

    config: TrainConfig
    num_classes: int
    processes: int
    steps_per_epoch: int | None
    groups: list[dict[str, Any]]
    parameters: int
    state_bytes: int
    activation_bytes: int

    def describe(self) -> str:
        """Several lines for people."""
        config = self.config
        return "\n".join(
            [
                f"model      {config.model}, {self.num_classes} classes, "
                f"{self.parameters / 1e6:.2f} M parameters",
                f"backbone   {_start(config)}",
                f"steps      {self._steps()}",
                f"rate       {self._rate()}",
                f"loss       {self._loss()}",
                f"batch norm {_norm(config)}",
                f"scored     {_scored(config)}",
                f"memory     {self._memory()}",
                "groups     module                 rate       decay    tensors   elements",
                *map(_group, self.groups),
            ]
        )

    def _steps(self) -> str:
        config, per_epoch = self.config, self.steps_per_epoch
        size = f"{config.batch_size} samples of {_by(config.crop)}"
        if self.processes > 1:
            size += f" on {self.processes} processes"
        if per_epoch is None:
            return f"{config.epochs} epochs, each one pass over the data, {size}"
        total = config.epochs * per_epoch
        return f"{config.epochs} epochs × {per_epoch} = {total} steps of {size}"

    def _rate(self) -> str:
        config = self.config
        text = f"{config.optimizer}, lr {config.lr:g}"
        if config.lr_per_process:
            text += " × processes"
        text += f", poly {config.poly_power:g} per {'epoch' if config.poly_per_epoch else 'step'}"
        if config.optimizer == "sgd":
            text += f", momentum {config.momentum:g}"
        if config.warmup_steps:
            text += f", warm-up over {config.warmup_steps} steps"
        if self.steps_per_epoch is not None:
            last = scheduled_rate(
                config, config.lr, config.epochs * self.steps_per_epoch - 1,
                epochs=config.epochs, steps_per_epoch=self.steps_per_epoch,
            )  # fmt: skip
            text += f", {last:.3g} in the last step"
        return text

    def _loss(self) -> str:
        config = self.config
        parts: list[str] = [config.criterion]
        if "ohem" in config.criterion:
            parts[0] += f" up to probability {config.ohem_threshold:g}, {self._kept()}"
        other = f" ({config.aux_criterion})" if config.aux_criterion != "same" else ""
        parts.append(f"auxiliary × {config.aux_weight:g}{other}")
        if config.border_weight:
            parts.append(f"border ({config.border_criterion}) × {config.border_weight:g}")
        if "encnet" in config.model:
            parts.append(f"presence × {config.presence_weight:g}")
        if config.label_stride > 1:
            parts.append(f"labels at 1/{config.label_stride}")
        if config.class_weights != "none":
            parts.append("classes weighted")
        return "; ".join(parts)

    def _kept(self) -> str:
        """What OHEM keeps at least, in pixels."""
        config = self.config
        groups = self.processes if config.ohem_scope == "process" else 1
        kept = config.ohem_min_kept
        if 0 < kept < 1:
            height, width = (-(-side // config.label_stride) for side in config.crop)
            kept = int(kept * (config.batch_size // groups) * height * width)
        where = "of all processes together" if groups == 1 and self.processes > 1 else ""
        where = "of each process" if config.ohem_scope == "process" else where or "of the batch"
        return f"at least {int(kept)} pixels {where}"

    def _memory(self) -> str:
        total = self.state_bytes + self.activation_bytes
        return (
            f"about {_size(total)} per process: {_size(self.state_bytes)} weights, gradients and "
            f"optimizer, {_size(self.activation_bytes)} activations"
        )


def make_plan(config: TrainConfig, *, processes: int = 1) -> Plan:
    """Finds out what a run would do; nothing is fetched, and no network gets real memory.

    Args:
        config: the settings.
        processes: how many would share each step.

    Raises:
        ArgumentError: if model and settings do not go together.
        UnknownModelError, UnknownCheckpointError: if the model does not exist.
        DataError: if the classes file cannot be read, or the data are too few for one step.
    """
    num_classes = _num_classes(config)
    without_weights = dataclasses.replace(
        config,
        model=config.model.partition(".")[0],
        pretrained_backbone=False,
        backbone_weights=None,
        checkpoint=None,
    )
    with torch.device("meta"):
        model = build_network(without_weights, num_classes)
    groups = [
        {
            "name": group["name"],
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
            "tensors": len(group["params"]),
            "elements": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in config_groups(model, config, processes=processes)
    ]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    copies = 2 + _COPIES[config.optimizer] + (1 if config.ema else 0)
    batch = max(1, config.batch_size // processes // config.accumulate)
    return Plan(
        config=config,
        num_classes=model.num_classes,
        processes=processes,
        steps_per_epoch=_steps_per_epoch(config),
        groups=groups,
        parameters=parameters,
        state_bytes=4 * parameters * copies,
        activation_bytes=saved_bytes(model, batch, config.crop),
    )


def _num_classes(config: TrainConfig) -> int | None:
    """K, as far as names tell it."""
    if config.num_classes is not None:
        return config.num_classes
    if config.classes is not None:
        return read_classes(config.classes).num_classes
    model, _, tag = config.model.partition(".")
    if tag:
        return manifest.find(model, tag).labels.num_classes
    name = config.data.partition(":")[0]
    if name == "drawn":
        name = "camvid"
    name = RELEASED[name].labels if name in RELEASED else name
    return LABEL_SETS[name].num_classes if name in LABEL_SETS else None


def _steps_per_epoch(config: TrainConfig) -> int | None:
    """From the settings, or from data that are here."""
    if config.steps_per_epoch is not None:
        return config.steps_per_epoch
    if config.mix is not None or config.data in DATASET_NAMES or config.data.startswith("hf:"):
        return None
    num_classes = _num_classes(config)
    labels = None if num_classes is None else generic_labels(num_classes)
    try:
        train_set = open_dataset(config.data, "train", labels, root=config.root)
    except ZooError:
        return None
    if len(train_set) < config.batch_size:
        raise too_few(len(train_set), config)
    return len(train_set) // config.batch_size


def saved_bytes(model: SegmentationModel, batch: int, crop: Size) -> int:
    """What autograd keeps of one forward pass, in float32; heads stay at their own strides.

    Args:
        model: on the meta device, where this takes no memory and little time.
        batch: pictures.
        crop: (height, width) of each.
    """
    own = {value.untyped_storage()._cdata for value in model.parameters()}
    counted = max(2, batch)  # a batch norm after global pooling cannot do with one
    found: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = (tensor, storage.nbytes())
        return tensor

    size = model.input_rule.nearest(*crop)
    images = torch.empty(counted, model.config.in_channels, *size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(images, with_aux=True, upsample=False)
    del output
    return sum(count for _, count in found.values()) * batch // counted


def _start(config: TrainConfig) -> str:
    if "." in config.model:
        return f"from the checkpoint {config.model}"
    if config.checkpoint is not None:
        return f"from the checkpoint {config.checkpoint}"
    if config.backbone_weights is not None:
        return f"starts from {config.backbone_weights}"
    name = config.backbone or "the model's own"
    return f"{name}, {'ImageNet weights' if config.pretrained_backbone else 'from scratch'}"


def _norm(config: TrainConfig) -> str:
    return "over all processes" if config.sync_bn else "of each process's own samples"


def _scored(config: TrainConfig) -> str:
    text = "whole pictures"
    if config.eval_window is not None:
        text = f"windows of {_by(config.eval_window)}, stride rate {config.eval_stride_rate:.4g}"
    if config.eval_size is not None:
        text += f" resized to {_by(config.eval_size)}"
    if config.eval_label_size is not None:
        text += f", labels at {_by(config.eval_label_size)}"
    return f"{text}, every {config.eval_every} epochs"


def _group(group: dict[str, Any]) -> str:
    return (
        f"           {group['name']:<20}  {group['lr']:<9.3g}  {group['weight_decay']:<7.3g}"
        f"  {group['tensors']:>7}  {group['elements']:>9}"
    )


def _by(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
