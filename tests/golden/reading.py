"""What the golden files hold, and the procedural weights that they were computed with."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golden import procedural

FOLDER = Path(__file__).parent
State = dict[str, Tensor]


@functools.cache
def record_of(name: str) -> dict[str, Any]:
    """What a golden says of itself.

    Args:
        name: folder and file without its ending, such as ``torchseg/bisenet_r18``.
    """
    path = FOLDER / f"{name}.json"
    text = path.read_text() if path.exists() else str(arrays_of(name)["meta"])
    record: dict[str, Any] = json.loads(text)
    return record


@functools.lru_cache(maxsize=4)
def arrays_of(name: str) -> dict[str, np.ndarray]:
    """A golden's arrays by their names."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        return dict(archive)


def state_of(name: str) -> State:
    """A golden's parameters and buffers under their original names."""
    record = record_of(name)
    factors = dict(record.get("weight_factors", {}))
    overrides = record.get("overrides") or {}
    factors |= {key: value["multiply"] for key, value in overrides.items()}
    state = {}
    for key, shape, _ in record.get("state") or record["state_dict"]:
        value = np.asarray(procedural.fill(key, shape))
        if key in factors:
            value = (value.astype(np.float64) * factors[key]).astype(value.dtype)
        state[key] = torch.from_numpy(value).reshape(shape)
    return state
