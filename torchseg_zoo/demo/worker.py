"""The process with the models, seen from the page: one picture at a time, ended when it must be.

A forward pass cannot be interrupted from within, and a process that runs out of memory takes all
that is in it along. So both happen to a process of their own, and a new one takes its place.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchseg_zoo.demo.config import DemoConfig
from torchseg_zoo.errors import DataError, ZooError

if TYPE_CHECKING:
    from torchseg_zoo.demo.labelling import Labeller
    from torchseg_zoo.demo.results import Pixel, Result

__all__ = ["Worker"]

_LOADING_LIMIT_S = 600.0  # the first use of a checkpoint of another project converts it
_PATIENCE_S = 5.0
_GONE = (EOFError, OSError)  # what a pipe says whose other end died


@dataclass(frozen=True)
class _Job:
    """What the process is asked: load a model, and unless ``picture`` is missing, label it."""

    model: str
    picture: Path | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class _Question:
    """Which classes a pixel of a result may have."""

    key: str
    x: int
    y: int


_LOADED = "loaded"


class Worker:
    """A process that labels; it is started at once and again whenever it has ended.

    Args:
        config: of the demo.
    """

    def __init__(self, config: DemoConfig) -> None:
        self._config = config
        self._turn = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._closed = False

    def load(self, model: str) -> None:
        """Makes a model ready, so that the first picture does not wait for it.

        Raises:
            ZooError: as ``label``.
        """
        with self._turn:
            self._ask(_Job(model), _LOADING_LIMIT_S, f"loading {model} took more than")

    def label(self, model: str, picture: Path, folder: Path) -> Result:
        """Labels a picture; calls of several threads take turns. See ``Labeller``.

        Args:
            model: ``"model.tag"``, or "" for the file of one's own.
            picture: the file.
            folder: exists and is empty; gets the result files.

        Raises:
            DataError: if the picture cannot be used, or took too much time or memory.
            ZooError: as loading a model does.
        """
        with self._turn:
            job = _Job(model, picture, folder)
            answer = self._ask(job, _LOADING_LIMIT_S, f"loading {model} took more than")
            if answer == _LOADED:
                limit = self._config.time_limit_s
                answer = self._answer(limit, "labelling this picture took more than")
            return answer  # type: ignore[no-any-return]

    def pixel(self, key: str, x: int, y: int) -> Pixel | None:
        """The classes of a pixel, or ``None`` if the scores are not kept; see ``Labeller``.

        Raises:
            DataError: if that took too much time.
        """
        with self._turn:
            limit = self._config.time_limit_s
            question = _Question(key, x, y)
            return self._ask(question, limit, "this took more than")  # type: ignore[no-any-return]

    @property
    def process_id(self) -> int | None:
        """Of the process that is running now."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._closed = True
        self._end()

    def _ask(self, job: _Job | _Question, limit_s: float, what: str) -> Any:
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(job)
        except _GONE as error:
            raise self._died() from error
        return self._answer(limit_s, what)

    def _answer(self, limit_s: float, what: str) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(limit_s):
                self._end()
                raise DataError(
                    f"{what} {limit_s:g} s and was stopped", fix="try a smaller picture or model"
                )
            answer = self._pipe.recv()
        except _GONE as error:
            raise self._died() from error
        if isinstance(answer, ZooError):
            raise answer
        return answer

    def _start(self) -> None:
        self._end()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        config = self._config
        process = context.Process(
            target=_work,
            args=(theirs, config.device, config.checkpoint, config.max_pixels),
            daemon=True,
            name="demo",
        )
        process.start()
        theirs.close()  # so that the end of the process closes the pipe
        self._process, self._pipe = process, ours

    def _died(self) -> DataError:
        """Says how the process ended."""
        process = self._process
        if self._closed or process is None:
            return DataError("the demo is closing", fix="start it again")
        process.join(_PATIENCE_S)
        code = process.exitcode or 0
        self._end()
        why = f"exit code {code}"
        with suppress(ValueError):
            why = signal.Signals(-code).name
        return DataError(
            "the process that labels has ended, and another is started",
            why=f"{why}; memory may have run out",
            fix="try again, or a smaller picture",
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()  # it writes nothing that others would read
            self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _work(pipe: Connection, device: str, own_file: str | None, max_pixels: int) -> None:
    """The life of the process: a job, its answers, the next job."""
    # Ctrl-C reaches the whole group; the parent ends its worker itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from torchseg_zoo.demo.labelling import Labeller

    labeller = Labeller(device, own_file, max_pixels)
    with suppress(*_GONE):  # the parent is gone, and nobody wants an answer
        while True:
            job: _Job | _Question = pipe.recv()
            pipe.send(_done(labeller, job, pipe))


def _done(labeller: Labeller, job: _Job | _Question, pipe: Connection) -> object:
    try:
        if isinstance(job, _Question):
            return labeller.pixel(job.key, job.x, job.y)
        labeller.load(job.model)
        if job.picture is None or job.folder is None:
            return None
        pipe.send(_LOADED)
        return labeller.label(job.model, job.picture, job.folder)
    except ZooError as error:
        return error
