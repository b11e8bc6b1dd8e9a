"""Whether another project's file is the checkpoint that it is said to be; nothing is kept of it."""

from __future__ import annotations

from pathlib import Path

import torch

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.files import printable
from torchseg_zoo.models.build import finished
from torchseg_zoo.registry import model_factory
from torchseg_zoo.weights.convert import convert
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.native import foreign_tensors
from torchseg_zoo.weights.released import member_of

__all__ = ["check_file"]


def check_file(checkpoint: Checkpoint, path: Path) -> None:
    """Reads a file in the guarded child process and compares it with a checkpoint's model.

    An archive around the checkpoint is not looked into.

    Args:
        checkpoint: what it is said to be.
        path: the file, in the checkpoint's layout.

    Raises:
        UnsafeCheckpointError: if the file asks for code to be run.
        CheckpointFormatError: if it cannot be read, or does not fit the model.
    """
    if member_of(checkpoint):
        return
    with torch.device("meta"):
        family = type(model_factory(checkpoint.model)())
    try:
        finished(family, checkpoint, convert(foreign_tensors(path), layout=checkpoint.layout))
    except CheckpointFormatError as error:
        raise CheckpointFormatError(
            f"is not {checkpoint.name}", where=printable(path), why=str(error), fix="check the file"
        ) from error
