"""What all models share: configuration, forward contract, input check, loading."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import Backbone, BackboneOptions
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, InputShapeError
from torchseg_zoo.layers import resize
from torchseg_zoo.models.fuse import fold_norms, foldable_norms
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.types import SegOutput, Size
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.load import build_loaded, checkpoint_file, read_tensors

__all__ = ["InputRule", "ModelConfig", "SegmentationModel", "build", "family"]


_FAMILIES: dict[str, type[SegmentationModel]] = {}


@dataclass(frozen=True)
class InputRule:
    """Which input sizes a model takes.

    Args:
        multiple: both sides must be multiples of this.
        fixed: the only (height, width) that works, or ``None``.
    """

    multiple: int = 1
    fixed: Size | None = None

    def nearest(self, height: int, width: int) -> Size:
        """The smallest size that works and holds (height, width), or the fixed one."""
        if self.fixed is not None:
            return self.fixed
        return (
            -(-height // self.multiple) * self.multiple,
            -(-width // self.multiple) * self.multiple,
        )


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a model again; each family adds its own fields.

    Args:
        model: factory name, e.g. ``"bisenet_r18"``.
        backbone: see ``create_backbone``.
        num_classes: K.
        in_channels: C of the input.
        align_corners: how maps and logits are resized.
        backbone_options: strides and dilations of the backbone.
    """

    model: str
    backbone: str
    num_classes: int = 19
    in_channels: int = 3
    align_corners: bool = True
    backbone_options: BackboneOptions = BackboneOptions()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 1:
            raise ArgumentError(
                f"num_classes is {self.num_classes!r}",
                where=self.model,
                fix="give a whole number of at least 1",
            )
        if self.num_classes > 255:
            raise ArgumentError(
                f"num_classes is {self.num_classes}",
                where=self.model,
                why="label maps are uint8 and 255 means ignore",
                fix="give at most 255",
            )
        if not isinstance(self.in_channels, int) or self.in_channels < 1:
            raise ArgumentError(
                f"in_channels is {self.in_channels!r}",
                where=self.model,
                fix="give a whole number of at least 1",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Reads the form written by ``to_dict``.

        Raises:
            CheckpointFormatError: if it has a field that this family does not know.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(record) - known):
            raise CheckpointFormatError(
                f"{cls.__name__} has no field {', '.join(unknown)}", fix="update torchseg-zoo"
            )
        values = _tuples(record)
        if isinstance(options := values.get("backbone_options"), dict):
            values["backbone_options"] = BackboneOptions(**options)
        return cls(**values)


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists and dicts where configurations have tuples and records."""
    return {
        key: tuple(value)
        if isinstance(value, list)
        else _tuples(value)
        if isinstance(value, Mapping)
        else value
        for key, value in record.items()
    }


class SegmentationModel(nn.Module, abc.ABC):
    """Base of all families.

    ``model(x)`` takes a normalised (N, C, H, W) float tensor and returns logits (N, K, H, W), in
    training and evaluation alike. To label pictures, use ``torchseg_zoo.predict``: it normalises.

    Args:
        config: rebuilds the model.

    Attributes:
        config: the frozen configuration.
        preprocess: how a picture becomes input; travels with the checkpoint.
        labels: what the classes mean; travels with the checkpoint.
        input_rule: which input sizes work.
        fused: whether ``fuse`` was called.
        paper: the publication, where there is one.
    """

    config: ModelConfig
    backbone: Backbone
    config_class: ClassVar[type[ModelConfig]]
    paper: ClassVar[Paper | None] = None
    input_rule: InputRule = InputRule()
    # Batch norm over one pooled value per picture has no variance when there is one picture.
    pooled_norm: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _FAMILIES[cls.__name__] = cls

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.fused = False
        repeats = -(-config.in_channels // 3)
        self.preprocess = Preprocess(
            mean=(IMAGENET_MEAN * repeats)[: config.in_channels],
            std=(IMAGENET_STD * repeats)[: config.in_channels],
        )
        self.labels: LabelSet = generic_labels(config.num_classes)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.config.num_classes

    @abc.abstractmethod
    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        """Logits at the heads' own strides; ``aux`` is empty unless asked for."""

    @abc.abstractmethod
    def classifiers(self) -> dict[str, nn.Conv2d]:
        """Path → convolution of every layer whose output channels are the classes."""

    def forward(
        self, x: Tensor, *, with_aux: bool = False, upsample: bool = True
    ) -> Tensor | SegOutput:
        """Computes class logits.

        Args:
            x: (N, C, H, W) float, normalised by ``preprocess``.
            with_aux: also return the auxiliary heads' logits, for training.
            upsample: resize logits to (H, W); otherwise they stay at the heads' own strides.

        Returns:
            (N, K, H, W) logits, or (N, K, H/s, W/s) without ``upsample``; with ``with_aux`` a
            ``SegOutput`` of these and the auxiliary logits by name.

        Raises:
            InputShapeError: if the model cannot take this shape.
        """
        self._check_input(x)
        if with_aux and self.fused:
            raise ArgumentError(
                f"{self.config.model} was fused for inference and has no auxiliary heads left",
                fix="build or load the model again",
            )
        logits, aux = self.head_logits(x, with_aux=with_aux)
        if upsample:
            size = (x.shape[-2], x.shape[-1])
            logits = self._to_size(logits, size)
            aux = {
                name: self._to_size(value, size) if value.ndim == 4 else value
                for name, value in aux.items()
            }
        return SegOutput(logits, aux) if with_aux else logits

    def _to_size(self, logits: Tensor, size: Size) -> Tensor:
        return resize(logits, size, align_corners=self.config.align_corners)

    def reset_classifier(self, num_classes: int, labels: LabelSet | None = None) -> None:
        """Replaces the last layer of every head by a fresh one.

        Args:
            num_classes: new K.
            labels: what the new classes mean; numbered names without it.
        """
        config = dataclasses.replace(self.config, num_classes=num_classes)
        if labels is not None and labels.num_classes != num_classes:
            raise ArgumentError(
                f"{num_classes} classes but labels {labels.name!r} name {labels.num_classes}",
                where="labels",
            )
        for path, old in self.classifiers().items():
            new = nn.Conv2d(
                old.in_channels,
                num_classes,
                old.kernel_size,  # type: ignore[arg-type]
                bias=old.bias is not None,
                device=old.weight.device,
                dtype=old.weight.dtype,
            )
            nn.init.kaiming_normal_(new.weight, mode="fan_in", nonlinearity="relu")
            self.set_submodule(path, new)
        self.config = config
        self.labels = labels or generic_labels(num_classes)

    def adapt_input(self, in_channels: int) -> None:
        """Makes a three-channel model take ``in_channels``, as timm does.

        One channel: the three kernels are summed. More: they are repeated and scaled so that the
        response to a grey picture stays the same.
        """
        if in_channels == self.config.in_channels:
            return
        from timm.models import adapt_input_conv

        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
                weight = adapt_input_conv(in_channels, module.weight.detach().clone())
                module.weight = nn.Parameter(weight)
                module.in_channels = in_channels
        self.config = dataclasses.replace(self.config, in_channels=in_channels)
        repeats = -(-in_channels // 3)
        self.preprocess = dataclasses.replace(
            self.preprocess,
            mean=(self.preprocess.mean * repeats)[:in_channels],
            std=(self.preprocess.std * repeats)[:in_channels],
        )

    def fuse(self) -> Self:
        """Prepares the model for inference, in place: no batch norms, channels-last weights.

        Outputs stay equal up to rounding. A fused model can neither be trained nor saved, and its
        auxiliary heads are removed.

        Returns:
            The model itself, in evaluation mode.
        """
        if self.fused:
            return self
        self.eval()
        size = self.input_rule.nearest(64, 64)
        x = torch.empty(1, self.config.in_channels, *size, device="meta")
        if hasattr(self, "aux_heads"):
            self.aux_heads = nn.ModuleDict()
        fold_norms(self, foldable_norms(self, lambda model: model(x)))
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)
        self.fused = True
        return self

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch; a fused model refuses to be trained."""
        if mode and self.fused:
            raise ArgumentError(
                f"{self.config.model} was fused for inference and has no batch norms left",
                fix="build or load the model again to train it",
            )
        return super().train(mode)

    def _check_input(self, x: Tensor) -> None:
        name, channels = self.config.model, self.config.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise InputShapeError(
                f"input is {'×'.join(map(str, x.shape))} but {name} needs N×{channels}×H×W",
                fix="add the batch axis, or use predict(), which takes pictures",
            )
        if not x.is_floating_point():
            raise InputShapeError(
                f"input is {x.dtype} but {name} needs normalised floats",
                fix="use model.preprocess.tensor(image), or predict(), which takes pictures",
            )
        height, width = x.shape[-2:]
        if self.input_rule.fixed is not None and (height, width) != self.input_rule.fixed:
            raise InputShapeError(
                f"image is {height}×{width} but {name} works at "
                f"{'×'.join(map(str, self.input_rule.fixed))} only",
                fix="cut windows of that size, or use predict(), which pads smaller pictures",
            )
        multiple = self.input_rule.multiple
        if multiple > 1 and (height % multiple or width % multiple):
            good = "×".join(map(str, self.input_rule.nearest(height, width)))
            raise InputShapeError(
                f"image is {height}×{width} but {name} needs sides divisible by {multiple}",
                fix=f"pad to {good} or use predict(), which pads for you",
            )
        if self.pooled_norm and self.training and x.shape[0] == 1:
            raise InputShapeError(
                f"a batch of one cannot train {name}",
                why="batch norm after its global pooling sees a single value per channel",
                fix="use a batch of at least 2, or drop_last=True in the loader",
            )


_Model = TypeVar("_Model", bound=SegmentationModel)


def family(name: str) -> Any:
    """The subclass of ``SegmentationModel`` called ``name``, from this package or a user's.

    Raises:
        CheckpointFormatError: if no such class has been imported.
    """
    if name not in _FAMILIES:
        raise CheckpointFormatError(
            f"no model family {name!r}", fix="import the module that defines it, or update"
        )
    return _FAMILIES[name]


def build(
    family: type[_Model],
    config: ModelConfig,
    pretrained: str | None,
    *,
    num_classes: int | None,
    pretrained_backbone: bool,
) -> _Model:
    """What every factory ends in: a fresh model, or one with a checkpoint's weights.

    Args:
        family: class of the model, built as ``family(config, pretrained_backbone=...)``.
        config: configuration that the factory's arguments ask for.
        pretrained: checkpoint tag, or ``None``.
        num_classes: K the user asked for; ``None`` for the checkpoint's or the configuration's own.
        pretrained_backbone: load ImageNet weights into the backbone.

    Raises:
        UnknownCheckpointError: if the model has no such checkpoint.
        ArgumentError: if ``pretrained`` is combined with another backbone or with
            ``pretrained_backbone``.
        CheckpointFormatError: if the checkpoint's file does not fit.
    """
    if num_classes is not None:
        config = dataclasses.replace(config, num_classes=num_classes)
    if pretrained is None:
        return family(config, pretrained_backbone=pretrained_backbone)  # type: ignore[call-arg]

    if not isinstance(pretrained, str):
        raise TypeError(f"pretrained is a checkpoint tag such as 'cityscapes', not {pretrained!r}")
    checkpoint = manifest.find(config.model, pretrained)
    released = family.config_class.from_dict(checkpoint.config)
    if pretrained_backbone:
        raise ArgumentError(
            f"pretrained={pretrained!r} and pretrained_backbone=True exclude each other",
            why="the checkpoint holds the backbone's weights",
            fix="drop one of them",
        )
    if config.backbone != released.backbone:
        raise ArgumentError(
            f"pretrained={pretrained!r} was trained on {released.backbone}, "
            f"not on backbone={config.backbone!r}",
            fix="drop one of the two arguments",
        )
    path = checkpoint_file(checkpoint)
    model = build_loaded(
        lambda: family(released, pretrained_backbone=False),  # type: ignore[call-arg]
        read_tensors(path, mapped=True),
        where=str(path),
    )
    model.preprocess = checkpoint.preprocess
    model.labels = checkpoint.labels
    if num_classes is not None and num_classes != released.num_classes:
        model.reset_classifier(num_classes)
    model.adapt_input(config.in_channels)
    return model.eval()
