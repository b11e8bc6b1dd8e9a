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
        reason = str(error).splitlines()[0].partition(". ")[0]
        unknown = reason.startswith("Expected one of")  # a list of devices that nobody has
        raise ArgumentError(
            f"{name!r} cannot be used here",
            where="device",
            why="there is no such kind of device" if unknown else reason,
            fix="use cpu, cuda, cuda:1 or auto" if unknown else "use cpu or auto",
        ) from error
