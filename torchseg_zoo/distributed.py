"""Processes that a launcher such as ``torchrun`` started, on one machine or on several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

import torch
import torch.distributed

from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import ArgumentError, EvaluationError

__all__ = ["Ranks", "launched"]

# A rank waits for the slowest one; that one is dead is told by its connection, not by the clock.
_TIMEOUT = timedelta(days=7)


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


class Ranks(Closing):
    """This process among the others of its launcher; use it as a context manager.

    Args:
        rank: number of this process, from 0 on.
        size: number of processes.
        local_rank: number of this process on its machine, from 0 on.

    Raises:
        ArgumentError: if these numbers cannot be.
    """

    def __init__(self, rank: int, size: int, local_rank: int) -> None:
        if not 0 <= rank < size or local_rank < 0:
            raise ArgumentError(
                f"rank {rank} of {size}, local rank {local_rank}",
                where="RANK, WORLD_SIZE, LOCAL_RANK",
                fix="start with torchrun, which sets them",
            )
        self.rank = rank
        self.size = size
        self.local_rank = local_rank

    @classmethod
    def from_environment(cls) -> Self:
        """Reads what the launcher told this process.

        Raises:
            ArgumentError: if it is missing or no number.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        try:
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            found = ", ".join(f"{name}={os.environ.get(name, 'not set')}" for name in names)
            raise ArgumentError(
                f"the launcher's variables cannot be used: {found}",
                where="environment",
                fix="start with torchrun, or unset WORLD_SIZE",
            ) from error

    def __enter__(self) -> Self:
        try:
            # What is gathered here lies in main memory; training also exchanges gradients.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            torch.distributed.init_process_group(
                backend, rank=self.rank, world_size=self.size, timeout=_TIMEOUT
            )
        except (RuntimeError, ValueError) as error:
            raise EvaluationError(
                "cannot reach the other processes",
                where=f"rank {self.rank} of {self.size}",
                why=str(error).splitlines()[0],
                fix="check MASTER_ADDR and MASTER_PORT; torchrun sets them",
            ) from error
        return self

    def close(self) -> None:
        """Leaves the group of processes."""
        torch.distributed.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    def share(self, items: Sequence[int]) -> list[int]:
        """This process's part: every ``size``-th item."""
        return list(items[self.rank :: self.size])

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in every process; all must call this.

        Args:
            value: anything that pickle takes.

        Raises:
            EvaluationError: if another process is gone.
        """
        values: list[Any] = [None] * self.size
        try:
            torch.distributed.all_gather_object(values, value)
        except RuntimeError as error:
            raise EvaluationError(
                "another process is gone",
                where=f"rank {self.rank} of {self.size}",
                why=str(error).splitlines()[0],
                fix="see what it said; resume=True (--resume) goes on from the records",
            ) from error
        return values
