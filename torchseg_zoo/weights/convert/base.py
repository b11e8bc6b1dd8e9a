"""What all converters share: unwrapping, renaming by rules, naming what is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError, listed

__all__ = ["Converted", "Converter", "Rule", "rename", "unwrap", "with_batch_counts"]

Rule = tuple[str, str]  # regular expression, replacement
_WRAPPERS = ("state_dict", "model", "model_state", "net")


@dataclass(frozen=True)
class Converted:
    """A foreign checkpoint under native names.

    Args:
        layout: where it came from.
        family: class of the model, e.g. ``"BiSeNet"``.
        config: fields of the family's configuration.
        tensors: native name → tensor.
    """

    layout: str
    family: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def holds(self) -> str:
        """What it is for, in words: ``"pspnet_r101, 150 classes, in the layout of mmseg"``."""
        model, classes = self.config.get("model"), self.config.get("num_classes")
        return f"{model}, {classes} classes, in the layout of {self.layout}"


Converter = Callable[[Mapping[str, Tensor]], Converted]


def unwrap(record: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors inside the usual wrappings, without ``module.`` prefixes.

    Raises:
        CheckpointFormatError: if there are no tensors in it.
    """
    for key in _WRAPPERS:
        inner = record.get(key)
        if isinstance(inner, Mapping):
            record = inner
            break
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in record.items()
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointFormatError(
            "there are no tensors in it",
            why=f"its keys are {', '.join(map(str, list(record)[:5])) or 'none'}",
            fix="pass a state dict, or a checkpoint that holds one under 'state_dict' or 'model'",
        )
    return tensors


def rename(
    tensors: Mapping[str, Tensor], stages: Sequence[Sequence[Rule]], *, layout: str
) -> dict[str, Tensor]:
    """Renames every tensor.

    Args:
        tensors: by foreign name.
        stages: rule lists applied one after the other. In the first, exactly one rule must match at
            the start of each name; in the others all that match are applied.
        layout: for the message.

    Raises:
        CheckpointFormatError: if a name matches no rule of the first stage, or two become one.
    """
    prefixes = [(re.compile(pattern), replacement) for pattern, replacement in stages[0]]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in tensors.items():
        for pattern, replacement in prefixes:
            new, count = pattern.subn(replacement, name, count=1)
            if count and pattern.match(name):
                break
        else:
            unknown.append(name)
            continue
        for rules in stages[1:]:
            for expression, replacement in rules:
                new = re.sub(expression, replacement, new)
        if new in renamed:
            raise CheckpointFormatError(f"two tensors would be called {new}", where=layout)
        renamed[new] = tensor
    if unknown:
        raise CheckpointFormatError(
            f"{len(unknown)} unknown names: {listed(unknown)}",
            where=f"layout {layout}",
            fix="pass the layout that the file has, or report the file",
        )
    return renamed


def with_batch_counts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives every batch norm its ``num_batches_tracked``: PyTorch before 0.4.1 kept none.

    The counter is 0; nothing that this package builds reads it.

    Args:
        tensors: by native name.
    """
    filled: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        filled[name] = tensor
        norm, _, kind = name.rpartition(".")
        count = f"{norm}.num_batches_tracked"
        if kind == "running_var" and count not in tensors:
            filled[count] = torch.tensor(0)
    return filled
