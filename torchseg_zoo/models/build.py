"""What every factory ends in: a fresh model, or one with a released checkpoint's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from torchseg_zoo.errors import ArgumentError, CheckpointFormatError
from torchseg_zoo.models.description import describe_model
from torchseg_zoo.registry import given_options
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.convert import Converted
from torchseg_zoo.weights.load import build_loaded, check_fits, read_meta, read_tensors
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.native import native_file
from torchseg_zoo.weights.progress import say

if TYPE_CHECKING:
    from torchseg_zoo.models.base import ModelConfig, SegmentationModel

__all__ = ["build", "finished", "input_convolutions", "released_file"]

# Options that work beside a checkpoint; ``pretrained_backbone`` is looked at on its own.
_HONOURED = {"pretrained", "num_classes", "in_channels", "pretrained_backbone"}
_DECIDES = {"mask_size": ("attention",)}  # option → further fields that it sets
_Model = TypeVar("_Model", bound="SegmentationModel")


def build(
    family: type[_Model],
    config: ModelConfig,
    pretrained: str | None,
    *,
    num_classes: int | None,
    pretrained_backbone: bool,
) -> _Model:
    """A fresh model, or one with a released checkpoint's weights.

    Args:
        family: class of the model, built as ``family(config, pretrained_backbone=...)``.
        config: configuration that the factory's arguments ask for.
        pretrained: checkpoint tag, or ``None``.
        num_classes: K the user asked for; ``None`` for the checkpoint's or the configuration's own.
        pretrained_backbone: load ImageNet weights into the backbone.

    Raises:
        UnknownCheckpointError: if the model has no such checkpoint.
        ArgumentError: if ``pretrained`` is combined with ``pretrained_backbone``, or with an option
            that contradicts the checkpoint, such as another backbone or output stride.
        DownloadError, IntegrityError, CacheError: if the checkpoint cannot be had.
        UnsafeCheckpointError, CheckpointFormatError: if its file cannot be read, or does not fit.
    """
    if num_classes is not None:
        config = dataclasses.replace(config, num_classes=num_classes)
    if pretrained is None:
        return family(config, pretrained_backbone=pretrained_backbone)  # type: ignore[call-arg]

    if not isinstance(pretrained, str):
        raise TypeError(f"pretrained is a checkpoint tag such as 'cityscapes', not {pretrained!r}")
    checkpoint = manifest.find(config.model, pretrained)
    if pretrained_backbone:
        raise ArgumentError(
            f"pretrained={pretrained!r} and pretrained_backbone=True exclude each other",
            why="the checkpoint holds the backbone's weights",
            fix="drop one of them",
        )
    _refuse_ignored(family, config, checkpoint, pretrained)
    model = _released(family, checkpoint)
    if num_classes is not None and num_classes != model.num_classes:
        model.reset_classifier(num_classes)
    model.adapt_input(config.in_channels)
    return model.eval()


def _refuse_ignored(
    family: type[SegmentationModel], config: ModelConfig, checkpoint: Checkpoint, pretrained: str
) -> None:
    """A checkpoint brings its own network along: what asks for another one is not passed over."""
    asked, theirs = config.to_dict(), family.config_class.from_dict(checkpoint.config).to_dict()
    for record in (asked, theirs):
        record |= record["backbone_options"]
    for name in sorted(given_options() - _HONOURED):
        if name not in asked:
            what = f"pretrained={pretrained!r} does not go with {name}"
        elif any(
            asked.get(field) != theirs.get(field) for field in (name, *_DECIDES.get(name, ()))
        ):
            what = (
                f"pretrained={pretrained!r} was trained with {name}={theirs[name]!r}, "
                f"not with {name}={asked[name]!r}"
            )
        else:
            continue
        raise ArgumentError(
            what,
            where=config.model,
            why="a checkpoint brings its own network along",
            fix=f"drop {name}, or build without pretrained and load a state_dict() yourself",
        )


def _released(family: type[_Model], checkpoint: Checkpoint) -> _Model:
    """The model of a manifest entry, with its weights."""
    path = released_file(family, checkpoint)
    if doubtful := [name for name in checkpoint.unverified if name.startswith("preprocess.")]:
        say(
            f"{checkpoint.name}: preprocessing unverified ({', '.join(doubtful)}); "
            "run torchseg-zoo evaluate --verify"
        )
    record: Mapping[str, Any] = checkpoint.config
    if any(name.startswith("config.") for name in checkpoint.unverified):
        record = read_meta(path)["config"]  # the file's own shapes have decided
    config = family.config_class.from_dict(record)
    model = build_loaded(
        lambda: family(config, pretrained_backbone=False),  # type: ignore[call-arg]
        read_tensors(path, mapped=True),
        where=str(path),
    )
    model.preprocess = checkpoint.preprocess
    model.labels = checkpoint.labels
    return model


def released_file(family: type[SegmentationModel], checkpoint: Checkpoint) -> Path:
    """The local native file of a manifest entry; see ``native_file``, also for what it raises.

    Args:
        family: class of the entry's model.
        checkpoint: the entry.
    """
    return native_file(checkpoint, lambda converted: finished(family, checkpoint, converted))


def finished(
    family: type[SegmentationModel], checkpoint: Checkpoint, converted: Converted
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A converted file as the native one that is kept: it fits the entry's model and takes RGB."""
    theirs = converted.config
    if converted.family != family.__name__:
        raise CheckpointFormatError(
            f"is a {converted.family}, not a {family.__name__}",
            where=checkpoint.name,
            why=f"the file is for {converted.holds}",
            fix="report it: the manifest names another file than it should",
        )
    doubtful = {name.partition(".")[2] for name in checkpoint.unverified}
    decided = {name: value for name, value in theirs.items() if name in doubtful}
    config = family.config_class.from_dict({**checkpoint.config, **decided})
    with torch.device("meta"):
        model = family(config, pretrained_backbone=False)  # type: ignore[call-arg]
    expected = model.state_dict()
    tensors = {
        name: _as(tensor, expected[name]) if name in expected else tensor
        for name, tensor in converted.tensors.items()
    }
    check_fits(model, tensors, where=checkpoint.name, holds=converted.holds)
    if checkpoint.channel_order == "bgr":
        for path, _ in input_convolutions(model):
            tensors[f"{path}.weight"] = tensors[f"{path}.weight"].flip(1)
    model.preprocess, model.labels = checkpoint.preprocess, checkpoint.labels
    return tensors, describe_model(model)


def _as(tensor: Tensor, expected: Tensor) -> Tensor:
    """The tensor in the model's precision; floats stay floats, and whole numbers whole."""
    same_kind = tensor.is_floating_point() == expected.is_floating_point()
    return tensor.to(expected.dtype) if same_kind and tensor.dtype != torch.bool else tensor


def input_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Path and layer of every convolution that sees the three channels of a picture."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            yield path, module
