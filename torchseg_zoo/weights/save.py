"""Writing native checkpoints: safetensors whose header also rebuilds the model.

The format is written here rather than by the safetensors package so that the same tensors give the
same bytes with every version of it (digests are pinned), and so that a tensor at a time is copied.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.files import atomic_write
from torchseg_zoo.weights.header import DTYPES, FORMAT

__all__ = ["tensors_digest", "write_tensors", "write_tensors_to"]

_CODES = {getattr(torch, dtype.torch_name): code for code, dtype in DTYPES.items()}
_ALIGNMENT = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON-able description; the file appears whole or not at all.

    Args:
        path: final name.
        tensors: by name; stored contiguous.
        meta: kept as one JSON string in the safetensors header under ``torchseg_zoo``.

    Raises:
        ArgumentError: if a tensor has a dtype that native files do not hold.
        DataError: if the file cannot be written.
    """
    atomic_write(path, lambda file: write_tensors_to(file, tensors, meta))


def write_tensors_to(
    file: BinaryIO, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Writes what ``write_tensors`` writes into an open file; equal input gives equal bytes."""
    header: dict[str, Any] = {"__metadata__": {FORMAT: json.dumps(meta, sort_keys=True)}}
    # Wide types first: so every tensor is aligned to its own width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _CODES:
            raise ArgumentError(f"{name} is {tensor.dtype}, which native files do not hold")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        plain = tensors[name].detach().cpu().contiguous()
        data: Any = plain.reshape(-1).view(torch.uint8).numpy()
        file.write(memoryview(data))


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hex, of the native file that holds these tensors and no description."""
    sink = _Digest()
    write_tensors_to(cast(BinaryIO, sink), tensors, {})
    return sink.sha256.hexdigest()


class _Digest:
    """A digest in the guise of an open file."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        self.sha256.update(data)
