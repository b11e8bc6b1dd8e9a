"""Native safetensors files → the tensors of a model. Nothing here ever unpickles."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.files import open_regular, printable
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.save import FORMAT

__all__ = [
    "assign",
    "build_loaded",
    "check_fits",
    "checkpoint_file",
    "read_meta",
    "read_tensors",
]

_Model = TypeVar("_Model", bound=nn.Module)
_SHOWN = 5
EMBEDDED = Path(__file__).with_name("embedded")


@dataclass(frozen=True)
class _Misfit:
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def describe(self) -> str:
        parts = []
        for kind, names in vars(self).items():
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                parts.append(f"{len(names)} {kind}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts)


def checkpoint_file(checkpoint: Checkpoint) -> Path:
    """The local file with the checkpoint's native tensors.

    Raises:
        CheckpointFormatError: if the file is not there.
    """
    for source in checkpoint.sources:
        if source.kind == "embedded":
            path = EMBEDDED / source.location
            if path.is_file():
                return path
    raise CheckpointFormatError(
        f"the weights of {checkpoint.name} are not in this installation",
        fix="reinstall torchseg-zoo",
    )


def read_tensors(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Args:
        path: the file.
        mapped: map it instead of reading it. Only for files that nobody rewrites in place: a mapped
            file that is cut later kills the process.

    Raises:
        CheckpointFormatError: if it is not a whole safetensors file.
    """
    import safetensors
    from safetensors import torch as safetensors_torch

    with open_regular(path, error=CheckpointFormatError) as stream:
        try:
            if mapped:
                return safetensors_torch.load_file(path)
            return safetensors_torch.load(stream.read())
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            raise CheckpointFormatError(
                "not a readable safetensors file",
                where=printable(path),
                why=f"{type(error).__name__}: {error}",
                fix="fetch or save it again; files of other projects need converting first",
            ) from error


def read_meta(path: Path) -> dict[str, Any]:
    """The description that ``write_tensors`` put into the header.

    Raises:
        CheckpointFormatError: if there is none.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})[FORMAT])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointFormatError(
            "not a checkpoint of this package",
            where=path,
            why=f"{type(error).__name__}: {error}",
            fix="load files written by save_model() or train()",
        ) from error
    if not isinstance(record, dict):
        raise CheckpointFormatError("its header is not a record", where=path)
    return record


def build_loaded(
    build: Callable[[], _Model], tensors: Mapping[str, Tensor], *, where: str
) -> _Model:
    """Builds a model around given tensors, without initialising it first.

    The model is built on the meta device and the tensors are assigned. A backbone that keeps
    non-persistent buffers, which no file holds, is built again with real memory and copied into.

    Args:
        build: makes the model on the current default device.
        tensors: the model's whole state, by name.
        where: the file's name, for messages.

    Raises:
        CheckpointFormatError: if a tensor is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        model = build()
    assign(model, tensors, where=where)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model = build()
        model.load_state_dict(tensors, strict=True)
    return model


def assign(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Puts ``tensors`` in place of the model's own, all or none.

    Raises:
        CheckpointFormatError: if names or shapes differ; the model is unchanged then.
    """
    check_fits(model, tensors, where=where)
    model.load_state_dict(tensors, strict=True, assign=True)
    # Assigned tensors do not require gradients, as buffers should not and parameters should.
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def check_fits(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Checks that ``tensors`` are a model's whole state, no more and no less.

    Raises:
        CheckpointFormatError: if names or shapes differ; lists at most five of each kind.
    """
    expected = model.state_dict()
    misfit = _Misfit(
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in tensors if name not in expected],
        misshaped=[
            f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected
            if name in tensors and tensors[name].shape != expected[name].shape
        ],
    )
    if problems := misfit.describe():
        raise CheckpointFormatError(
            f"does not fit {type(model).__name__}",
            where=where,
            why=problems,
            fix="load it with the model and options it was saved from",
        )
