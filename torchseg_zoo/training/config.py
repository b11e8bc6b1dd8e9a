"""The settings of a training run: one flat frozen dataclass."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from torchseg_zoo.errors import ArgumentError
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
        pretrained_backbone: start from ImageNet weights.
        epochs: passes over the training data.
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
        optimizer: ``"sgd"`` (momentum 0.9) or ``"adamw"``.
        lr: base learning rate.
        head_lr_multiplier: factor on ``lr`` for ``head_modules``.
        head_modules: top-level modules with the multiplied rate; ``None`` for all but the backbone.
        weight_decay: for convolution and linear weights; biases and norms have none.
        poly_power: lr = base · (1 − step / steps) ** this.
        warmup_steps: steps over which the rate rises linearly from 0.
        criterion: ``"ce"`` or ``"ohem"``.
        ohem_threshold: pixels whose true class has a probability up to this always count.
        ohem_min_kept: at least so many pixels per step count.
        class_weights: ``"none"``, ``"balanced"`` (1 / sqrt of the class's share of pixels) or K
            numbers.
        aux_weight: factor on each auxiliary head's loss.
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
        workers: processes that prepare samples; 0 prepares them in this one.
        cache: keep decoded training files in memory, in each process.
        eval_every: epochs between evaluations; the last epoch is always evaluated.
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
    pretrained_backbone: bool = False
    epochs: int = 40
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
    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = 1e-3
    head_lr_multiplier: float = 1.0
    head_modules: tuple[str, ...] | None = None
    weight_decay: float = 1e-2
    poly_power: float = 0.9
    warmup_steps: int = 0
    criterion: Literal["ce", "ohem"] = "ce"
    ohem_threshold: float = 0.7
    ohem_min_kept: int = 100_000
    class_weights: tuple[float, ...] | Literal["none", "balanced"] = "none"
    aux_weight: float = 1.0
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
    patience: int = 0
    tensorboard: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        def is_size(value: object) -> bool:
            return (
                isinstance(value, tuple)
                and len(value) == 2
                and all(isinstance(side, int) and side >= 1 for side in value)
            )

        def numbers(value: object) -> bool:
            return isinstance(value, tuple) and all(isinstance(n, int | float) for n in value)

        def at_least(least: int, value: object) -> bool:
            return isinstance(value, int) and value >= least

        def share(value: object) -> bool:
            return isinstance(value, int | float) and 0 <= value < 1

        def positive(value: object) -> bool:
            return isinstance(value, int | float) and 0 < value < math.inf

        checks = {
            "num_classes": (
                self.num_classes is None
                or (at_least(1, self.num_classes) and self.num_classes <= 255),
                "a whole number from 1 to 255",
            ),
            "epochs": (at_least(1, self.epochs), "a whole number of at least 1"),
            "batch_size": (at_least(1, self.batch_size), "a whole number of at least 1"),
            "eval_every": (at_least(1, self.eval_every), "a whole number of at least 1"),
            "label_stride": (at_least(1, self.label_stride), "a whole number of at least 1"),
            "workers": (at_least(0, self.workers), "a whole number of at least 0"),
            "warmup_steps": (at_least(0, self.warmup_steps), "a whole number of at least 0"),
            "seed": (at_least(0, self.seed), "a whole number of at least 0"),
            "patience": (at_least(0, self.patience), "a whole number of at least 0"),
            "crop": (is_size(self.crop), "two whole numbers (height, width) of at least 1"),
            "early_crop": (
                self.early_crop is None or is_size(self.early_crop),
                "two whole numbers (height, width) of at least 1",
            ),
            "scales": (
                numbers(self.scales) and len(self.scales) > 0 and min(self.scales) > 0,
                "one or more positive factors, as 0.75,1.5",
            ),
            "head_modules": (
                self.head_modules is None
                or (
                    isinstance(self.head_modules, tuple)
                    and all(isinstance(name, str) for name in self.head_modules)
                ),
                "names with commas, as head,ffm or head,",
            ),
            "accumulate": (at_least(1, self.accumulate), "a whole number of at least 1"),
            "save_every_steps": (
                at_least(0, self.save_every_steps),
                "a whole number of at least 0",
            ),
            "clip_norm": (
                self.clip_norm == 0 or positive(self.clip_norm),
                "a number of at least 0",
            ),
            "precision": (self.precision in ("fp32", "bf16", "fp16"), "'fp32', 'bf16' or 'fp16'"),
            "non_finite": (self.non_finite in ("stop", "skip"), "'stop' or 'skip'"),
            "lr": (positive(self.lr), "a positive number"),
            "head_lr_multiplier": (positive(self.head_lr_multiplier), "a positive number"),
            "mix_share": (share(self.mix_share), "in [0, 1)"),
            "brightness": (share(self.brightness), "in [0, 1)"),
            "ema": (share(self.ema), "in [0, 1)"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "'sgd' or 'adamw'"),
            "criterion": (self.criterion in ("ce", "ohem"), "'ce' or 'ohem'"),
            "class_weights": (
                self.class_weights in ("none", "balanced") or numbers(self.class_weights),
                "'none', 'balanced' or one number per class",
            ),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise ArgumentError(
                    f"{name} is {getattr(self, name)!r}",
                    where="TrainConfig",
                    fix=f"must be {wanted}",
                )
        if (self.mix is None) != (self.mix_share == 0):
            raise ArgumentError(
                "mix and mix_share go together",
                where="TrainConfig",
                fix="set both, as mix='drawn' and mix_share=0.2, or neither",
            )

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
                f"{text!r} is not NAME=VALUE", where="--set", fix="write it as --set crop=256,256"
            )
        try:
            settings[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            words = [word.strip() for word in value.split(",")]
            settings[name.strip()] = tuple(filter(None, words)) if len(words) > 1 else words[0]
    return settings
