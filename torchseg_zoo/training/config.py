"""The settings of a training run: one flat frozen dataclass."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training.checks import check_settings
from torchseg_zoo.types import Size

__all__ = ["TrainConfig", "parse_settings"]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a run; the defaults suit small data sets.

    Args:
        model: name for ``create_model``, with or without a checkpoint tag.
        data: list file, folder or ``"drawn"``; see ``open_dataset``.
        val_data: where validation samples come from; ``None`` for the ``val`` split of ``data``.
        out: folder for the log and the checkpoints.
        root: folder that the paths in a list file start from.
        num_classes: K; ``None`` takes the data set's or the checkpoint's own.
        classes: classes file that says what the label values mean, whatever lies beside the data;
            see ``read_classes``.
        backbone: as in ``create_backbone``; ``None`` for the model's own.
        output_stride: input pixels per cell of the deepest map; ``None`` for the model's own.
        multi_grid: dilations of the last stage's blocks, where the model takes them (DeepLab).
        lateral: EncNet's lateral connections.
        pretrained_backbone: start from timm's ImageNet weights.
        backbone_weights: start from this file of ImageNet weights (safetensors or ``.pth``).
        checkpoint: start from all weights of this file, of a ``model`` without a tag, with fresh
            classifiers if it has another number of classes; the model is built as the file says.
        init_fan: which side keeps the variance of fresh head convolutions, ``"fan_in"`` or
            ``"fan_out"``.
        epochs: passes over the training data.
        steps_per_epoch: steps that count as an epoch; the data are repeated as often as that takes.
            ``None`` for one pass over them.
        batch_size: samples per step, of all processes together.
        crop: (height, width) of a training sample.
        early_crop: crop of the first half of the epochs; ``None`` for the same throughout.
        scales: factors for the random scale.
        continuous_scale: any factor between the extremes instead of one of ``scales``.
        mirror: mirror every second sample.
        brightness: random gain within 1 ± this.
        exact_resize: scale as TorchSeg does, to the pixel, at six times the price; see
            ``Augmentation``.
        mix: a second data set mixed into every epoch, as ``data`` names one.
        mix_share: share of an epoch's samples that come from ``mix``.
        label_stride: labels are compared at 1 / this of the crop; 1 for full size.
        aligned_labels: which pixels ``label_stride`` keeps; see ``transforms.subsample``.
        optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
        lr: base learning rate.
        lr_per_process: multiply ``lr`` by the number of processes.
        momentum: of ``"sgd"``.
        head_lr_multiplier: factor on ``lr`` for ``head_modules``.
        head_modules: top-level modules with the multiplied rate; ``None`` for all but the backbone.
        weight_decay: for convolution and linear weights; biases and norms have none.
        poly_power: lr = base · (1 − step / steps) ** this.
        poly_per_epoch: lower the rate once per epoch instead of at each step.
        lr_lag: steps by which the rate stays behind.
        min_lr: what the rate does not fall below.
        warmup_steps: steps over which the rate rises linearly from 0.
        criterion: ``"ce"``, ``"ohem"``, ``"focal"``, ``"dice"``, ``"lovasz"``, or the sum
            ``"ce+dice"`` or ``"ce+lovasz"``.
        aux_criterion: ``"same"``, or ``"ce"`` for auxiliary heads whatever ``criterion`` is.
        label_smoothing: share of the target spread over all classes, of ``"ce"`` and ``"ohem"``.
        ohem_threshold: pixels whose true class has a probability up to this always count.
        ohem_min_kept: at least so many pixels count; below 1 it is a share of the labels compared.
        ohem_scope: whether these are pixels of each ``"process"`` or of the ``"global"`` batch.
        class_weights: ``"none"``, ``"balanced"`` (1 / sqrt of the class's share of pixels) or K
            numbers.
        aux_weight: factor on each auxiliary head's loss.
        presence_weight: factor on EncNet's loss on the classes present.
        border_weight: factor on DFN's border losses; 0 leaves them out.
        border_criterion: ``"focal"``, or ``"legacy"`` for the formula that TorchSeg trained with.
        ema: decay of the averaged weights that are evaluated and saved; 0 for none.
        sync_bn: batch norm over the samples of all processes; without it each has its own.
        accumulate: parts in which a process takes its share of a step, to save memory; batch norm
            sees one part at a time.
        precision: ``"fp32"``, or autocast to ``"bf16"`` or ``"fp16"`` (with loss scaling).
        clip_norm: largest norm of the gradient; 0 for no limit.
        compile: compile the network with ``torch.compile``.
        non_finite: what a loss or gradient that is not finite does, before it reaches a weight:
            ``"stop"`` the run or ``"skip"`` the step (ten in a row stop the run).
        save_every_steps: steps between saved states; 0 saves at the end of each epoch only.
        seed: decides the initial weights, the order and every augmentation.
        workers: processes that prepare samples; 0 prepares them in this one. Where Python does not
            fork (Windows, macOS, and Linux from Python 3.14), a script that asks for some needs the
            guard ``if __name__ == "__main__":``, and a data set of its own a module of its own.
        cache: keep decoded training files in memory, in each process.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
        eval_window: (height, width) of evaluation windows; ``None`` for whole pictures.
        eval_stride_rate: distance of the windows, as a share of their sides.
        eval_size: (height, width) that pictures are resized to for evaluation.
        eval_label_size: (height, width) at which labels are compared in evaluation.
        patience: epochs without a better validation score after which the run ends; 0 for never.
        tensorboard: log for TensorBoard, too (extra ``tensorboard``).
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    """

    model: str = "bisenet_x39"
    data: str = "drawn"
    val_data: str | None = None
    out: str = "runs/train"
    root: str | None = None
    num_classes: int | None = None
    classes: str | None = None
    backbone: str | None = None
    output_stride: int | None = None
    multi_grid: tuple[int, ...] = ()
    lateral: bool = False
    pretrained_backbone: bool = False
    backbone_weights: str | None = None
    checkpoint: str | None = None
    init_fan: Literal["fan_in", "fan_out"] = "fan_in"
    epochs: int = 40
    steps_per_epoch: int | None = None
    batch_size: int = 8
    crop: Size = (256, 256)
    early_crop: Size | None = None
    scales: tuple[float, ...] = (0.75, 1.5)
    continuous_scale: bool = True
    mirror: bool = True
    brightness: float = 0.2
    exact_resize: bool = False
    mix: str | None = None
    mix_share: float = 0.0
    label_stride: int = 1
    aligned_labels: bool = True
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    lr_per_process: bool = False
    momentum: float = 0.9
    head_lr_multiplier: float = 1.0
    head_modules: tuple[str, ...] | None = None
    weight_decay: float = 1e-2
    poly_power: float = 0.9
    poly_per_epoch: bool = False
    lr_lag: int = 0
    min_lr: float = 0.0
    warmup_steps: int = 0
    criterion: Literal["ce", "ohem", "focal", "dice", "lovasz", "ce+dice", "ce+lovasz"] = "ce"
    aux_criterion: Literal["same", "ce"] = "same"
    label_smoothing: float = 0.0
    ohem_threshold: float = 0.7
    ohem_min_kept: float = 100_000
    ohem_scope: Literal["process", "global"] = "process"
    class_weights: tuple[float, ...] | Literal["none", "balanced"] = "none"
    aux_weight: float = 1.0
    presence_weight: float = 0.2
    border_weight: float = 0.0
    border_criterion: Literal["focal", "legacy"] = "focal"
    ema: float = 0.0
    sync_bn: bool = True
    accumulate: int = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    clip_norm: float = 0.0
    compile: bool = False
    non_finite: Literal["stop", "skip"] = "stop"
    save_every_steps: int = 0
    seed: int = 0
    workers: int = 0
    cache: bool = False
    eval_every: int = 1
    eval_window: Size | None = None
    eval_stride_rate: float = 2 / 3
    eval_size: Size | None = None
    eval_label_size: Size | None = None
    patience: int = 0
    tensorboard: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        check_settings(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; ``from_dict`` reads it back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Reads the form written by ``to_dict``.

        Raises:
            ArgumentError: if it has an unknown setting.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(record) - known):
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise ArgumentError(
                f"unknown settings: {', '.join(unknown)}",
                where="TrainConfig",
                fix=f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}",
            )
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
        }
        return cls(**values)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Reads ``NAME=VALUE`` texts: ``lr=0.01``, ``crop=256,256``, ``mix=drawn``.

    Values are Python literals, words, or words with commas between them, as
    ``head_modules=head,ffm``.

    Raises:
        ArgumentError: if a text has no ``=``.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ArgumentError(
                f"{text!r} is not NAME=VALUE",
                where="settings (--set)",
                fix="write it like crop=256,256",
            )
        try:
            settings[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            words = [word.strip() for word in value.split(",")]
            settings[name.strip()] = tuple(filter(None, words)) if len(words) > 1 else words[0]
    return settings
