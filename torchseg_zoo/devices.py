"""Names of devices, checked."""

from __future__ import annotations

import torch

from torchseg_zoo.errors import ArgumentError

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """The device that a user named; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        ArgumentError: if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(
            f"{name!r} cannot be used here",
            where="device",
            why=str(error).splitlines()[0],
            fix="use cpu or auto",
        ) from error
