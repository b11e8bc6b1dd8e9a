"""Training in several processes on one machine, started from here instead of by ``torchrun``."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import NamedTuple

import torch
import torch.distributed

from torchseg_zoo.devices import find_device
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import ArgumentError, TrainError, ZooError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.loop import TrainResult, train

__all__ = ["launch"]

_PATIENCE_S = 30.0  # for the step under way and its state; launchers give as much
_LISTENING_S = 1.0  # who died first is often heard of last


class _Place(NamedTuple):
    """A process among the others, how it starts workers, and the options of ``train``."""

    number: int
    size: int
    port: int
    threads: int
    method: str
    resume: bool
    check: bool
    progress: bool


@dataclasses.dataclass(eq=False)
class _Rank:
    number: int
    device: str
    process: SpawnProcess
    pipe: Connection


def launch(
    config: TrainConfig,
    devices: Sequence[str],
    *,
    resume: bool = False,
    check: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Trains in one process per device, as ``torchrun`` would start them.

    A script that calls this needs the guard ``if __name__ == "__main__":``, because each process
    imports it. SIGTERM and SIGUSR1 are handed on to the processes.

    Args:
        config: settings; ``config.device`` is not looked at.
        devices: one for each process, as ``"cuda:0"`` or ``"cpu"``; the CPU's threads are divided
            among all.
        resume: as for ``train``; so are ``check`` and ``progress``.
        check: look at some of the files first.
        progress: show bars on stderr.

    Raises:
        ArgumentError: if there is no such device, or they are of several kinds.
        TrainError: if a process dies; the others are ended then.
        ZooError: what ``train`` raises in one of them.
    """
    names = [str(find_device(device)) for device in devices]
    if len({name.partition(":")[0] for name in names}) != 1:
        raise ArgumentError(
            f"cannot train on {', '.join(names) or 'nothing'} together",
            where="devices",
            fix="give GPUs, as 0-7, or cpu,cpu",
        )
    if len(names) == 1:
        alone = dataclasses.replace(config, device=names[0])
        return train(alone, resume=resume, check=check, progress=progress)
    # The store where they meet is kept here, at a port that is surely free.
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(minutes=5)
    )
    threads = max(1, torch.get_num_threads() // len(names))
    context = multiprocessing.get_context("spawn")
    ranks: list[_Rank] = []
    try:
        for number, device in enumerate(names):
            ours, theirs = context.Pipe(duplex=False)
            place = _Place(
                number, len(names), store.port, threads, multiprocessing.get_start_method(),
                resume, check, progress,
            )  # fmt: skip
            process = context.Process(
                target=_rank,
                args=(theirs, dataclasses.replace(config, device=device), place),
                name=f"train {number}",
            )
            process.start()
            theirs.close()
            ranks.append(_Rank(number, device, process, ours))
        with _handing_on(ranks):
            return _outcome(ranks)
    finally:
        _end(ranks)


def _outcome(ranks: Sequence[_Rank]) -> TrainResult:
    """What the first process returns; raises what went wrong in any."""
    results: dict[int, TrainResult] = {}
    problems: list[ZooError] = []
    waiting, until = list(ranks), float("inf")
    while waiting and time.monotonic() < until:
        pipes = [rank.pipe for rank in waiting]
        ready = wait(pipes, None if until == float("inf") else max(0.0, until - time.monotonic()))
        for rank in [rank for rank in waiting if rank.pipe in ready]:
            waiting.remove(rank)
            try:
                answer = rank.pipe.recv()
            except (EOFError, OSError):
                answer = _death(rank, len(ranks))
                problems.insert(0, answer)  # the others only say that it is gone
                until = min(until, time.monotonic())
                continue
            if isinstance(answer, ZooError):
                problems.append(answer)
                until = min(until, time.monotonic() + _LISTENING_S)
            else:
                results[rank.number] = answer
    if problems:
        raise problems[0]
    return results[0]


def _death(rank: _Rank, size: int) -> TrainError:
    rank.process.join(_PATIENCE_S)
    code = rank.process.exitcode or 0
    try:
        how = f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        how = f"ended with code {code}"
    return TrainError(
        how,
        where=f"process {rank.process.pid} (rank {rank.number} of {size}, {rank.device})",
        fix="see what it said, or whether memory ran out; resume=True (--resume) goes on from the "
        "last saved state",
    )


def _end(ranks: Sequence[_Rank]) -> None:
    """Ends what still runs; a process that hangs is killed."""
    for rank in ranks:
        rank.process.terminate()
    until = time.monotonic() + _PATIENCE_S
    for rank in ranks:
        rank.process.join(max(0.0, until - time.monotonic()))
        if rank.process.is_alive():
            rank.process.kill()
            rank.process.join()
        rank.pipe.close()


@contextmanager
def _handing_on(ranks: Sequence[_Rank]) -> Iterator[None]:
    """Signals that ask a run to end reach its processes."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.process.pid is not None and rank.process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(rank.process.pid, number)

    before = {}
    with suppress(ValueError):  # outside the main thread there are no signals
        for name in ("SIGTERM", "SIGUSR1"):
            if hasattr(signal, name):
                before[name] = signal.signal(getattr(signal, name), hand_on)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _rank(pipe: Connection, config: TrainConfig, place: _Place) -> None:
    """The life of one process."""
    # Ctrl-C reaches the whole group; the parent asks for the end, and the state is saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(place.threads)
    # Otherwise workers would be started as this process was, which takes them seconds.
    multiprocessing.set_start_method(place.method, force=True)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(place.port),
        # How PyTorch is told that the launcher keeps the store.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    try:
        with Ranks(place.number, place.size, place.number) as ranks:
            result = train(
                config, ranks=ranks,
                resume=place.resume, check=place.check, progress=place.progress,
            )  # fmt: skip
        pipe.send(result)
    except ZooError as error:
        pipe.send(error)
