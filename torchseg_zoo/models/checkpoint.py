"""A model as one file: safetensors whose header rebuilds it, or what another project wrote."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, ZooError
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, family
from torchseg_zoo.models.description import describe_model
from torchseg_zoo.weights.convert import convert
from torchseg_zoo.weights.fetch import fetch
from torchseg_zoo.weights.guard import read_foreign
from torchseg_zoo.weights.header import is_safetensors
from torchseg_zoo.weights.load import build_loaded, read_meta, read_tensors
from torchseg_zoo.weights.save import write_tensors

__all__ = [
    "describe_model",
    "load_model",
    "model_from_meta",
    "model_from_state_dict",
    "save_model",
]


def save_model(model: SegmentationModel, path: str | Path) -> None:
    """Writes a model to one safetensors file, whole or not at all.

    Raises:
        ArgumentError: if the model was fused.
        DataError: if the file cannot be written.
    """
    if model.fused:
        raise ArgumentError(
            f"{model.config.model} was fused for inference, so its tensors have other names",
            where="model",
            fix="save the model before fuse()",
        )
    write_tensors(Path(path), model.state_dict(), describe_model(model))


def load_model(
    path: str | Path, *, layout: str | None = None, config: Mapping[str, Any] | None = None
) -> SegmentationModel:
    """Rebuilds a model from a file; it is in evaluation mode.

    Args:
        path: a file that ``save_model`` or ``train`` wrote, or a checkpoint of another project,
            which is read in a guarded child process; or the URL of one, see ``weights.fetch``.
        layout: of a checkpoint of another project: see ``model_from_state_dict``.
        config: likewise.

    Raises:
        CheckpointFormatError: if the file is not such a checkpoint, or is damaged.
        UnsafeCheckpointError: if it asks for code to be run.
        DownloadError, IntegrityError, CacheError: if a URL cannot be fetched.
    """
    remote = isinstance(path, str) and "://" in path
    file = fetch(path) if remote else Path(path)
    # Read, not mapped: somebody may rewrite a file of their own while the model lives.
    where = str(path)
    if is_safetensors(file):
        tensors = read_tensors(file, mapped=remote)
        if layout is None and config is None:
            return model_from_meta(read_meta(file), tensors, where=where)
    else:
        tensors = read_foreign(file)
    try:
        return model_from_state_dict(tensors, layout=layout, config=config)
    except CheckpointFormatError as error:
        as_what = f"{where}, as {error.where}" if error.where else where
        raise CheckpointFormatError(
            error.what, where=as_what, why=error.why, fix=error.fix
        ) from error


def model_from_meta(
    meta: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str
) -> SegmentationModel:
    """Rebuilds a model from ``describe_model``'s record and its tensors.

    Raises:
        CheckpointFormatError: if they do not describe a model of this package.
    """
    try:
        cls = family(str(meta["family"]))
        config = cls.config_class.from_dict(meta["config"])
        preprocess = Preprocess.from_dict(meta["preprocess"])
        labels = LabelSet.from_dict(meta["labels"])
        temperature = float(meta.get("temperature", 1))
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointFormatError(
            "its header does not describe a model",
            where=where,
            why=f"{type(error).__name__}: {error}",
            fix="load files written by save_model() or train()",
        ) from error
    problems = [
        f"{ours} {what} in the {record}, {config_value} in the configuration"
        for what, record, ours, config_value in (
            ("classes", "labels", labels.num_classes, config.num_classes),
            ("channels", "preprocessing", len(preprocess.mean), config.in_channels),
        )
        if ours != config_value
    ]
    if problems:
        raise CheckpointFormatError(
            "its header contradicts itself",
            where=where,
            why="; ".join(problems),
            fix="load files written by save_model() or train()",
        )
    holds = f"{config.model}, {config.num_classes} classes"
    model = _built(cls, config, tensors, where=where, holds=holds)
    model.preprocess = preprocess
    model.labels = labels
    model.temperature = temperature
    return model.eval()


def model_from_state_dict(
    state_dict: Mapping[str, Any],
    *,
    layout: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> SegmentationModel:
    """Builds the model that a foreign state dict belongs to, and loads it strictly.

    Args:
        state_dict: tensors by name, bare or wrapped as its project wraps them.
        layout: naming scheme (``"torchseg"``, ...); recognised by its keys without it.
        config: fields of the model's configuration that shapes cannot tell; they take precedence.

    Returns:
        The model in evaluation mode, around the given tensors (they are not copied).

    Raises:
        CheckpointFormatError: if the layout is not known, a key is unknown, or a tensor is missing
            or of another shape.
    """
    converted = convert(state_dict, layout=layout)
    cls = family(converted.family)
    model_config = cls.config_class.from_dict({**converted.config, **(config or {})})
    where = f"{converted.layout} checkpoint"
    model = _built(cls, model_config, converted.tensors, where=where, holds=converted.holds)
    return model.eval()


def _built(
    cls: type[SegmentationModel],
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    holds: str,
) -> SegmentationModel:
    try:
        return build_loaded(lambda: cls(config), tensors, where=where, holds=holds)
    except ZooError:
        raise
    except (TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        # The configuration comes from a file: its numbers may be of any kind and size.
        raise CheckpointFormatError(
            f"no {cls.__name__} can be built from its configuration",
            where=where,
            why=f"{type(error).__name__}: {error}",
            fix="load files written by save_model() or train()",
        ) from error
