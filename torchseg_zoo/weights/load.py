"""Native safetensors files → the tensors of a model. Nothing here ever unpickles."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchseg_zoo.errors import CheckpointFormatError, described, listed
from torchseg_zoo.files import open_regular, printable
from torchseg_zoo.weights.header import DTYPES, FORMAT, Header, read_header
from torchseg_zoo.weights.manifest import Checkpoint

__all__ = [
    "assign",
    "build_loaded",
    "check_fits",
    "embedded_file",
    "read_meta",
    "read_tensors",
]

_Model = TypeVar("_Model", bound=nn.Module)
EMBEDDED = Path(__file__).with_name("embedded")


@dataclass(frozen=True)
class _Misfit:
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]
    of_another_type: list[str]

    def describe(self) -> str:
        parts = []
        for kind, names in vars(self).items():
            if names:
                parts.append(f"{len(names)} {kind.replace('_', ' ')}: {listed(names)}")
        return "; ".join(parts)


def embedded_file(checkpoint: Checkpoint) -> Path | None:
    """The checkpoint's native file inside the package; ``None`` if it is to be had elsewhere.

    Raises:
        CheckpointFormatError: if it should be there, has no other source, and is not.
    """
    for source in checkpoint.sources:
        if source.kind == "embedded":
            path = EMBEDDED / source.location
            if path.is_file():
                return path
    if all(source.kind == "embedded" for source in checkpoint.sources):
        raise CheckpointFormatError(
            f"the weights of {checkpoint.name} are not in this installation",
            fix="reinstall torchseg-zoo",
        )
    return None


def read_tensors(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Args:
        path: the file.
        mapped: map it instead of reading it. Only for files that nobody rewrites in place: a mapped
            file that is cut later kills the process.

    Raises:
        CheckpointFormatError: if it is not a whole safetensors file, or breaks one of the rules of
            ``read_header``.
    """
    header = read_header(path)
    aligned = all(at % DTYPES[code].width == 0 for code, _, at in header.tensors.values())
    if mapped and aligned and sys.byteorder == "little":
        return _mapped(path, header)

    import safetensors
    from safetensors import torch as safetensors_torch

    with open_regular(path, error=CheckpointFormatError) as stream:
        try:
            return safetensors_torch.load(stream.read())
        except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
            raise _unreadable(path, error) from error


def _mapped(path: Path, header: Header) -> dict[str, Tensor]:
    """The tensors where they lie; the safetensors package does the same in four times the time."""
    try:
        # Private: what is written into the tensors never reaches the file.
        storage = torch.UntypedStorage.from_file(str(path), False, header.size)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from error
    tensors = {}
    for name, (code, shape, place) in header.tensors.items():
        kind = DTYPES[code]
        empty = torch.empty(0, dtype=getattr(torch, kind.torch_name), device="cpu")
        tensors[name] = empty.set_(storage, place // kind.width, shape)  # type: ignore[call-overload]
    return tensors


def _unreadable(path: Path, error: Exception) -> CheckpointFormatError:
    return CheckpointFormatError(
        "not a readable safetensors file",
        where=printable(path),
        why=f"{type(error).__name__}: {error}",
        fix="fetch or save it again; files of other projects need converting first",
    )


def read_meta(path: Path) -> dict[str, Any]:
    """The description that ``write_tensors`` put into the header.

    Raises:
        CheckpointFormatError: if there is none, or the header is bad.
    """
    header = read_header(path)
    try:
        record = json.loads(header.metadata[FORMAT])
    except (KeyError, ValueError, RecursionError) as error:
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
    build: Callable[[], _Model], tensors: Mapping[str, Tensor], *, where: str, holds: str = ""
) -> _Model:
    """Builds a model around given tensors, without initialising it first.

    The model is built on the meta device and the tensors are assigned. A backbone that keeps
    non-persistent buffers, which no file holds, is built again with real memory and copied into.

    Args:
        build: makes the model on the current default device.
        tensors: the model's whole state, by name.
        where: the file's name, for messages.
        holds: what the file says it is for, likewise.

    Raises:
        CheckpointFormatError: if a tensor is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        model = build()
    assign(model, tensors, where=where, holds=holds)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model = build()
        model.load_state_dict(tensors, strict=True)
    return model


def assign(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str, holds: str = "") -> None:
    """Puts ``tensors`` in place of the model's own, all or none.

    Raises:
        CheckpointFormatError: if names or shapes differ; the model is unchanged then.
    """
    check_fits(model, tensors, where=where, holds=holds)
    # What load_state_dict(assign=True) does, less its search through all names for every module.
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                tensor = tensors[prefix + name]
                module._parameters[name] = nn.Parameter(tensor, tensor.is_floating_point())
        for name in module._buffers:
            if prefix + name in tensors:  # others are not persistent
                module._buffers[name] = tensors[prefix + name]


def check_fits(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    holds: str | Callable[[Mapping[str, Tensor]], str] = "",
    same_types: bool = True,
) -> None:
    """Checks that ``tensors`` are a model's whole state, no more and no less.

    A whole model in another precision (``model.half()``) fits; one with mixed precisions does not.

    Args:
        model: on any device, also on meta.
        tensors: by name.
        where: the file's name, for messages.
        holds: what the tensors seem to be for, in words, or a function that tells it.
        same_types: whether types matter; they do not where values are copied.

    Raises:
        CheckpointFormatError: if names, shapes or types differ; lists at most five of each kind.
    """
    expected = model.state_dict()
    common = [name for name in expected if isinstance(tensors.get(name), Tensor)]
    floats = {tensors[name].dtype for name in common if tensors[name].is_floating_point()}
    uniform = len(floats) == 1

    def same_type(name: str) -> bool:
        mine, theirs = expected[name], tensors[name]
        both_float = mine.is_floating_point() and theirs.is_floating_point()
        return mine.dtype == theirs.dtype or (both_float and uniform)

    misfit = _Misfit(
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in tensors if name not in expected],
        misshaped=[
            f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
            for name in common
            if tensors[name].shape != expected[name].shape
        ],
        of_another_type=[
            f"{name} is {tensors[name].dtype}, not {expected[name].dtype}"
            for name in common
            if same_types and not same_type(name)
        ]
        + [
            f"{name} is {described(tensors[name])}"
            for name in expected
            if name in tensors and not isinstance(tensors[name], Tensor)
        ],
    )
    if problems := misfit.describe():
        holds = holds if isinstance(holds, str) else holds(tensors)
        raise CheckpointFormatError(
            f"does not fit {type(model).__name__}",
            where=where,
            why=f"it is for {holds}; {problems}" if holds else problems,
            fix="load it into the model that it was saved from: load_model() builds that",
        )
