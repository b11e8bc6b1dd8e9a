"""What all models share: configuration, forward contract, input check, loading."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from torchseg_zoo.backbones import Backbone
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError
from torchseg_zoo.layers import resize
from torchseg_zoo.models.build import build, input_convolutions
from torchseg_zoo.models.config import InputRule, ModelConfig
from torchseg_zoo.models.fuse import fold_norms, foldable_norms
from torchseg_zoo.models.inputs import check_input, size_refusal
from torchseg_zoo.models.paper import Paper
from torchseg_zoo.models.recognise import describe_state
from torchseg_zoo.models.winograd import speed_up_convs
from torchseg_zoo.types import SegOutput, Size
from torchseg_zoo.weights.load import check_fits
from torchseg_zoo.weights.manifest import Checkpoint

__all__ = ["InputRule", "ModelConfig", "SegmentationModel", "build", "family"]


_FAMILIES: dict[str, type[SegmentationModel]] = {}


class SegmentationModel(nn.Module, abc.ABC):
    """Base of all families.

    ``model(x)`` takes a normalised (N, C, H, W) float tensor and returns logits (N, K, H, W), in
    training and evaluation alike. To label pictures, use ``torchseg_zoo.predict``: it normalises.

    A family of your own takes its configuration, builds ``self.backbone`` with ``create_backbone``,
    and implements ``head_logits``. What puts out the classes is ``self.head.classifier``; heads
    that only training needs go into ``self.aux_heads``, a ``ModuleDict``.
    ``examples/custom_head.py`` is a whole one.

    ``torch.export`` takes any height and width as ``Dim.DYNAMIC``. It cannot prove for any named
    ``Dim`` what rounding in strided layers means; it can for multiples of the deepest stride, so
    name those: ``{2: 32 * Dim("h", min=2, max=64), 3: 32 * Dim("w", min=2, max=64)}``. Either way
    it takes a side of one position for a case of its own: the exported model needs at least two.

    Args:
        config: rebuilds the model.

    Attributes:
        config: the frozen configuration.
        preprocess: how a picture becomes input; travels with the checkpoint.
        labels: what the classes mean; travels with the checkpoint.
        temperature: logits are divided by it before they become confidences; 1 unless
            ``evaluation.calibrate`` fitted it. Travels with the checkpoint, changes no label.
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
        known = _FAMILIES.get(cls.__name__, cls)
        if known.__module__ != cls.__module__:
            raise ArgumentError(
                f"a model family {cls.__name__} exists already, in {known.__module__}",
                where=cls.__module__,
                why="files of models name their family, and it must be one",
                fix="give the class another name",
            )
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
        self.temperature = 1.0

    @property
    def num_classes(self) -> int:
        """K."""
        return self.config.num_classes

    @abc.abstractmethod
    def head_logits(self, x: Tensor, *, with_aux: bool) -> SegOutput:
        """Logits at the heads' own strides; ``aux`` is empty unless asked for."""

    def classifiers(self) -> dict[str, nn.Conv2d]:
        """Path → convolution of every layer whose output channels are the classes.

        Those are called ``classifier``, in ``head`` and in each of ``aux_heads``. A family that
        names them otherwise says so by a method of its own.
        """
        heads = {
            name: head
            for name, head in self.named_modules()
            if name == "head" or (name.startswith("aux_heads.") and name.count(".") == 1)
        }
        found = {
            f"{name}.classifier": getattr(head, "classifier", None) for name, head in heads.items()
        }
        layers = {path: layer for path, layer in found.items() if isinstance(layer, nn.Conv2d)}
        if not layers:
            raise ArgumentError(
                f"{type(self).__name__} has no head.classifier",
                where=self.config.model,
                fix="give it one, or override classifiers()",
            )
        return layers

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
        try:
            logits, aux = self.head_logits(x, with_aux=with_aux)
        except (RuntimeError, ValueError, AssertionError) as error:
            if (refusal := size_refusal(self, x, error)) is not None:
                raise refusal from error
            raise
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
        self.temperature = 1.0

    def adapt_input(self, in_channels: int) -> None:
        """Makes a three-channel model take ``in_channels``, as timm does.

        One channel: the three kernels are summed. More: they are repeated and scaled so that the
        response to a grey picture stays the same.
        """
        if in_channels == self.config.in_channels:
            return
        from timm.models import adapt_input_conv

        for _, layer in list(input_convolutions(self)):
            weight = adapt_input_conv(in_channels, layer.weight.detach().clone())
            layer.weight = nn.Parameter(weight)
            layer.in_channels = in_channels
        self.config = dataclasses.replace(self.config, in_channels=in_channels)
        repeats = -(-in_channels // 3)
        self.preprocess = dataclasses.replace(
            self.preprocess,
            mean=(self.preprocess.mean * repeats)[:in_channels],
            std=(self.preprocess.std * repeats)[:in_channels],
        )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As in PyTorch, but all or nothing, and a state that does not fit is described.

        Raises:
            CheckpointFormatError: with ``strict``, if a tensor is missing, unexpected or of another
                shape; it lists at most five of each, and says what the state is for. The model is
                unchanged then.
        """
        if strict:
            check_fits(self, state_dict, where="state_dict", holds=describe_state, same_types=False)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def fuse(self, *, winograd: bool = True) -> Self:
        """Prepares the model for inference, in place: no batch norms, channels-last weights.

        Outputs stay equal up to rounding. A fused model can neither be trained nor saved, and its
        auxiliary heads are removed.

        Args:
            winograd: on a CPU, compute wide 3×3 convolutions by Winograd's algorithm, for which
                they keep four more copies of their weights.

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
        if winograd:
            speed_up_convs(self)
        self.fused = True
        return self

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """As ``torchseg_zoo.from_pretrained``; the model must be of this class.

        Raises:
            CheckpointFormatError: if it is of another family; else as there.
        """
        # Imported here, as below: the hub's modules need this one.
        from torchseg_zoo.models import hub

        model = hub.from_pretrained(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        if not isinstance(model, cls):
            raise CheckpointFormatError(
                f"is a {type(model).__name__}, not a {cls.__name__}",
                where=pretrained_model_name_or_path,
                fix="use torchseg_zoo.from_pretrained, which takes any family",
            )
        return model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        checkpoint: Checkpoint | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
    ) -> str | None:
        """Writes a folder for ``from_pretrained`` and the hub; see ``models.hub_save``.

        Returns:
            The URL of the commit with ``push_to_hub``, to ``repo_id`` or the folder's name.
        """
        from torchseg_zoo.models import hub_save

        hub_save.save_pretrained(self, save_directory, checkpoint=checkpoint, repo_id=repo_id)
        if not push_to_hub:
            return None
        name = repo_id or Path(save_directory).name
        return hub_save.push_to_hub(self, name, checkpoint=checkpoint)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using torchseg_zoo",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> str:
        """Uploads the model to the Hugging Face hub; see ``models.hub_save``."""
        from torchseg_zoo.models import hub_save

        return hub_save.push_to_hub(
            self,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            branch=branch,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
            checkpoint=checkpoint,
        )

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch; a fused model refuses to be trained."""
        if mode and self.fused:
            raise ArgumentError(
                f"{self.config.model} was fused for inference and has no batch norms left",
                fix="build or load the model again to train it",
            )
        return super().train(mode)

    def _check_input(self, x: Tensor) -> None:
        """Raises ``InputShapeError`` for inputs that cannot work; a family may add rules."""
        check_input(self, x)


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
