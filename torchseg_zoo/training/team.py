"""The processes that train one model together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchseg_zoo.devices import find_device
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import EvaluationError, TrainError, ZooError
from torchseg_zoo.training.sync_norm import convert_batch_norm

__all__ = ["Team"]

_T = TypeVar("_T")


class Team:
    """This process among those that train with it; alone, nothing is exchanged.

    Args:
        ranks: as the launcher numbered them; ``None`` for one process.
        device: name of a device; of ``"auto"`` and ``"cuda"`` each process of a machine takes its
            own.

    Attributes:
        rank: number of this process, from 0 on.
        size: number of processes.
        device: of this process.
    """

    def __init__(self, ranks: Ranks | None, device: str) -> None:
        self.ranks = ranks
        self.rank = ranks.rank if ranks else 0
        self.size = ranks.size if ranks else 1
        self.device = find_device(device)
        if ranks and self.device.type == "cuda":
            if device in ("auto", "cuda"):
                self.device = find_device(f"cuda:{ranks.local_rank}")
            torch.cuda.set_device(self.device)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each."""
        if self.size > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
        return values

    def same(self, value: _T, what: str) -> _T:
        """Requires that all processes have the same value.

        Raises:
            TrainError: if they have not.
        """
        found = self.gather(value)
        if any(theirs != value for theirs in found):
            raise TrainError(
                f"the processes do not have the same {what}",
                where=f"rank {self.rank} of {self.size}",
                why=", ".join(map(str, found)),
                fix="give all the same options and one folder that all of them see",
            )
        return value

    def agree(self, error: ZooError | None) -> None:
        """Raises in all processes what went wrong in one of them.

        Raises:
            ZooError: ``error``, or that of the first process that has one.
        """
        for theirs in self.gather(error):
            if theirs is not None:
                raise error or theirs

    def first_does(self, action: Callable[[], object]) -> None:
        """The first process does something; if it fails, all of them raise its error."""
        error = None
        if self.is_first:
            try:
                action()
            except ZooError as caught:
                error = caught
        self.agree(error)

    def gather(self, value: _T) -> list[_T]:
        """The values of all processes, by rank, in each of them.

        Raises:
            TrainError: if another process is gone.
        """
        if self.ranks is None:
            return [value]
        try:
            return self.ranks.gather(value)
        except EvaluationError as error:
            raise _gone(self, error.why) from error

    def seed_step(self, seed: int, step: int) -> None:
        """Sets PyTorch's random numbers (dropout) to a function of seed, step and rank alone."""
        state = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def sync_batch_norm(self, model: nn.Module) -> None:
        """Replaces the batch norms inside by such as look at the samples of all processes."""
        if self.size > 1:
            convert_batch_norm(model, self.device)

    def wrap(self, model: nn.Module, unused: list[nn.Parameter]) -> nn.Module:
        """The model, with gradients that are the mean over all processes.

        Args:
            model: on its device.
            unused: parameters that the loss does not depend on. They are frozen: so no process ever
                waits for their gradients, and none needs to be looked for in each step.
        """
        if self.size == 1:
            return model
        for parameter in unused:
            parameter.requires_grad_(False)
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def share_buffers(self, model: nn.Module) -> None:
        """Gives all processes the first one's running statistics."""
        if self.size > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns the end of another process, as PyTorch reports it, into an error of ours.

        Raises:
            TrainError: if another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, ZooError) or self.size == 1:
                raise
            lost = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")
            if not any(word in str(error) for word in lost):
                raise
            raise _gone(self, str(error).splitlines()[0]) from error


def _gone(team: Team, why: str | None) -> TrainError:
    return TrainError(
        "another process is gone",
        where=f"rank {team.rank} of {team.size}",
        why=why,
        fix="see what it said; go on with resume=True (--resume)",
    )


def without_sync(network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Leaves the gradients of all but a step's last part where they are."""
    if wanted and isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()
