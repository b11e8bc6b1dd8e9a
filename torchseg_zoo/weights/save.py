"""Writing native checkpoints: safetensors whose header also rebuilds the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchseg_zoo.files import atomic_write

__all__ = ["FORMAT", "write_tensors"]

FORMAT = "torchseg_zoo"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON-able description; the file appears whole or not at all.

    Args:
        path: final name.
        tensors: by name; stored contiguous, on the CPU.
        meta: kept as one JSON string in the safetensors header under ``torchseg_zoo``.

    Raises:
        DataError: if the file cannot be written.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    payload = save(plain, metadata={FORMAT: json.dumps(meta, sort_keys=True)})
    atomic_write(path, lambda file: file.write(payload))
