"""Several processes that share the pictures of an evaluation, one per device."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Self

import torch

from torchseg_zoo.closing import Closing
from torchseg_zoo.data.datasets.files import FileDataset
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.devices import find_device
from torchseg_zoo.errors import ArgumentError, EvaluationError, ZooError
from torchseg_zoo.evaluation.counts import Outcome
from torchseg_zoo.evaluation.measure import ENOUGH, NOTHING_YET, Plan, ahead_of, measured
from torchseg_zoo.evaluation.protocol import describe_device
from torchseg_zoo.files import printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import model_from_meta, save_model
from torchseg_zoo.weights.load import read_meta, read_tensors

__all__ = ["Workers"]

_PATIENCE_S = 5.0
_GONE = (EOFError, OSError)  # what a pipe says whose other end died


@dataclass(frozen=True)
class _Task:
    """What a worker evaluates: the model as a file of its own, so that nothing is fetched again.

    Every answer comes with the task's number: a worker may hear of a task when it is over.
    """

    number: int
    model: Path
    channels_last: bool
    dataset: Dataset
    plan: Plan


@dataclass(frozen=True)
class _Ready:
    """A worker's answer to a task: how many pictures to hand it at once, and what it runs on."""

    ahead: int
    device: Mapping[str, Any]


@dataclass(eq=False)
class _Worker:
    number: int
    device: str
    process: SpawnProcess
    pipe: Connection
    handed: deque[int]
    ahead: int = 0


class Workers(Closing):
    """Processes that share the pictures of evaluations; use it as a context manager.

    Pictures are handed out one by one, so no process idles while there are any. If one dies, it is
    named in a warning, and the others do its pictures. A script that uses this needs the guard
    ``if __name__ == "__main__":``, because each process imports it.

        with Workers(["cuda:0", "cuda:1"]) as workers:
            evaluation = evaluate(model, dataset, workers=workers)

    Args:
        devices: one process for each, such as ``"cuda:0"`` or ``"cpu"``; a device may come more
            than once. The CPU's threads are divided among all.

    Attributes:
        devices: of the processes that were started.
        device: what the last evaluation ran on, for its protocol.

    Raises:
        ArgumentError: if there is none, or no such device.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        if not devices:
            raise ArgumentError("no device for any process", where="devices", fix="give cpu, say")
        self.devices = tuple(str(find_device(device)) for device in devices)
        self._workers: list[_Worker] = []
        self._tasks = 0
        self.device: Mapping[str, Any] = {}

    def __len__(self) -> int:
        return len(self.devices)

    def __enter__(self) -> Self:
        threads = max(1, torch.get_num_threads() // len(self.devices))
        context = multiprocessing.get_context("spawn")
        try:
            for number, device in enumerate(self.devices, start=1):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(theirs, device, threads), daemon=True,
                    name=f"evaluate {number}",
                )  # fmt: skip
                process.start()
                theirs.close()  # so that the end of the process closes the pipe
                self._workers.append(_Worker(number, device, process, ours, deque()))
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends all processes, whatever they are doing."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_PATIENCE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers = []

    @property
    def processes(self) -> tuple[int, ...]:
        """Process ids of those that are alive."""
        return tuple(worker.process.pid or 0 for worker in self._workers)

    def run(
        self, model: SegmentationModel, dataset: Dataset, plan: Plan, indices: Sequence[int]
    ) -> Iterator[Outcome]:
        """Measures pictures, in any order.

        Args:
            model: it is copied to each process.
            dataset: likewise.
            plan: what to measure.
            indices: which pictures; every one of them comes out once.

        Raises:
            ArgumentError: if model or data set cannot be sent to other processes.
            EvaluationError: if all processes have died.
            ZooError: what ``measured`` raises in one of them; they are ended then.
        """
        with tempfile.TemporaryDirectory(prefix="torchseg_zoo-") as folder:
            file = Path(folder) / "model.safetensors"
            save_model(model, file)
            self._tasks += 1
            task = _Task(self._tasks, file, _is_channels_last(model), dataset, plan)
            try:
                yield from self._share(task, deque(indices))
            except BaseException:
                self.close()  # what they are doing is not wanted any more
                raise

    def _share(self, task: _Task, todo: deque[int]) -> Iterator[Outcome]:
        missing = set(todo)
        lost = "none was left"
        for worker in list(self._workers):
            try:
                worker.pipe.send(task)
            except OSError:
                lost = self._bury(worker, task, todo)
            except (TypeError, AttributeError, ValueError, ImportError) as error:
                raise ArgumentError(
                    "this data set cannot be sent to other processes",
                    where="dataset",
                    why=str(error),
                    fix="evaluate in one process, or make it of what pickle takes",
                ) from error
        started = len(self._workers)
        described: dict[int, Mapping[str, Any]] = {}
        while missing or not described:
            if not self._workers:
                raise EvaluationError(
                    f"no process is left, {len(missing)} pictures are not done",
                    why=lost,
                    fix="use fewer processes if memory ran out; resume=True (--resume) goes on "
                    "from the record",
                )
            for worker in self._answering():
                try:
                    number, answer = worker.pipe.recv()
                except _GONE:
                    lost = self._bury(worker, task, todo)
                    continue
                if number != task.number:
                    continue  # it started so late that the others had done the task before
                if isinstance(answer, ZooError):
                    raise answer
                if isinstance(answer, _Ready):
                    worker.ahead = answer.ahead
                    described[worker.number] = answer.device
                else:
                    worker.handed.remove(answer.index)
                    missing.discard(answer.index)
                    yield answer
            for worker in list(self._workers):
                while todo and len(worker.handed) < worker.ahead:
                    worker.handed.append(todo.popleft())
                    with suppress(OSError):  # its end is heard of when it is listened to
                        worker.pipe.send(worker.handed[-1])
        self._dismiss()
        self.device = {**described[min(described)], "processes": started}

    def _answering(self) -> list[_Worker]:
        ready = wait([worker.pipe for worker in self._workers])
        return [worker for worker in self._workers if worker.pipe in ready]

    def _dismiss(self) -> None:
        """Ends the task; the processes wait for another."""
        for worker in self._workers:
            worker.ahead = 0
            with suppress(OSError):
                worker.pipe.send(ENOUGH)

    def _bury(self, worker: _Worker, task: _Task, todo: deque[int]) -> str:
        """Takes a dead process out, gives its pictures back, and says how it ended."""
        self._workers.remove(worker)
        worker.process.join(_PATIENCE_S)
        worker.pipe.close()
        code = worker.process.exitcode
        try:
            how = f"was ended by {signal.Signals(-(code or 0)).name}"
        except ValueError:
            how = f"ended with code {code}"
        names = ", ".join(_name(task.dataset, index) for index in worker.handed)
        todo.extendleft(reversed(worker.handed))
        lost = (
            f"process {worker.process.pid} ({worker.number} of {len(self.devices)}, "
            f"{worker.device}) {how}" + (f" at {names}" if names else "")
        )
        if self._workers:
            warnings.warn(f"{lost}; the others go on", stacklevel=2)
        return lost


def _is_channels_last(model: SegmentationModel) -> bool:
    """Whether kernels for that memory format run, which round in their own way."""
    return any(
        parameter.dim() == 4
        and parameter.is_contiguous(memory_format=torch.channels_last)
        and not parameter.is_contiguous()
        for parameter in model.parameters()
    )


def _name(dataset: Dataset, index: int) -> str:
    if isinstance(dataset, FileDataset):
        return printable(dataset.pairs[index][0])
    return f"picture {index}"


def _work(pipe: Connection, device: str, threads: int) -> None:
    """The life of a process: a task, its pictures, the next task."""
    # Ctrl-C reaches the whole group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with suppress(*_GONE):  # the parent is gone, and nobody wants an answer
        while True:
            task = pipe.recv()
            if isinstance(task, _Task):  # else the end of one whose model was gone already
                _do(pipe, task, device)


def _do(pipe: Connection, task: _Task, device: str) -> None:
    def more(may_wait: bool) -> int:
        if not may_wait and not pipe.poll():
            return NOTHING_YET
        index: int = pipe.recv()
        return index

    try:
        tensors = read_tensors(task.model, mapped=True)  # one copy for all processes
        model = model_from_meta(read_meta(task.model), tensors, where=str(task.model))
        model = model.to(device)
        if task.channels_last:
            model = model.to(memory_format=torch.channels_last)
        first = next(model.parameters())
        pipe.send((task.number, _Ready(ahead_of(first.device), describe_device(first))))
        for outcome in measured(model, task.dataset, task.plan, more):
            pipe.send((task.number, outcome))
    except ZooError as error:
        pipe.send((task.number, error))
