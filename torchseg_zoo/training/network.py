"""The network of a run: the model that the settings name, and what its backbone starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, DownloadError
from torchseg_zoo.layers import init_head
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import load_model
from torchseg_zoo.registry import create_model
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.weights.guard import read_foreign
from torchseg_zoo.weights.load import check_fits, read_tensors

__all__ = ["build_network", "load_backbone"]


def build_network(config: TrainConfig, num_classes: int | None) -> SegmentationModel:
    """A model by the settings of a run, with the weights that these ask for.

    Args:
        config: model, its options, and what the backbone starts from.
        num_classes: K; ``None`` for the model's own.

    Raises:
        ArgumentError: if the model does not take one of the options.
        DownloadError: if ImageNet weights are asked for and cannot be had.
        CheckpointFormatError, UnsafeCheckpointError: if ``backbone_weights`` or ``checkpoint``
            cannot be used.
        UnknownModelError, UnknownCheckpointError: if the model does not exist.
    """
    if config.checkpoint is not None:
        return _from_checkpoint(config, config.checkpoint, num_classes)
    options = _options(config)
    if num_classes is not None:
        options["num_classes"] = num_classes
    try:
        model = create_model(config.model, **options)
    except DownloadError as error:
        if not config.pretrained_backbone:
            raise
        raise DownloadError(
            error.what,
            where=error.where,
            why=error.why,
            fix="connect once, so that they are kept; give a file with pretrained_backbone=False "
            "and backbone_weights=FILE (--set); or start from noise with "
            "pretrained_backbone=False (--from-scratch)",
        ) from error
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        asked = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ArgumentError(
            f"{config.model} does not take all of {asked}",
            where="TrainConfig",
            why=str(error),
            fix="leave that setting at its default",
        ) from error
    if config.init_fan == "fan_out" and "." not in config.model:
        for name, module in model.named_children():
            if name != "backbone":
                init_head(module, fan="fan_out")
    if config.backbone_weights is not None:
        load_backbone(model, config.backbone_weights)
    return model


def _from_checkpoint(config: TrainConfig, path: str, num_classes: int | None) -> SegmentationModel:
    """The model of a file, with fresh classifiers if there are other classes now."""
    model = load_model(path)
    if model.config.model != config.model:
        raise ArgumentError(
            f"{path} holds a {model.config.model}, and the run is of {config.model}",
            where="checkpoint",
            fix=f"set model to {model.config.model}, or choose another file",
        )
    if num_classes not in (None, model.num_classes):
        model.reset_classifier(num_classes)
    return model


def _options(config: TrainConfig) -> dict[str, Any]:
    """The factory's arguments; what is left at its default is the model's own affair."""
    asked = {
        "backbone": config.backbone,
        "output_stride": config.output_stride,
        "multi_grid": config.multi_grid or None,
        "lateral": config.lateral or None,
        "pretrained_backbone": config.pretrained_backbone or None,
    }
    return {name: value for name, value in asked.items() if value is not None}


def load_backbone(model: SegmentationModel, path: str) -> None:
    """Puts a file of ImageNet weights into a model's backbone.

    Every tensor of the backbone must be in the file; a classifier in it is left out. Xception39,
    for which nobody has published weights, is trained so by timm's own script.

    Args:
        model: changed in place.
        path: safetensors, or a checkpoint of timm or PyTorch, which is read in a guarded process.

    Raises:
        CheckpointFormatError: if the file cannot be read or does not fit; the model is as before.
        UnsafeCheckpointError: if it asks for code to be run.
    """
    is_native = str(path).endswith(".safetensors")
    tensors = dict(read_tensors(Path(path), mapped=False) if is_native else read_foreign(path))
    body: nn.Module = model.backbone.body
    expected = body.state_dict()
    classifiers = ("fc.", "classifier.", "head.")
    fitting = {
        name: tensor
        for name, tensor in tensors.items()
        if name in expected or not name.startswith(classifiers)
    }
    if not set(fitting) & set(expected):
        raise CheckpointFormatError(
            f"holds no weights of {model.config.backbone}",
            where=path,
            fix="give ImageNet weights of this very network, as timm names them",
        )
    check_fits(body, fitting, where=str(path), same_types=False)
    body.load_state_dict(fitting, strict=True)
