"""The process of a contender: it answers one question at a time, until nobody asks any more."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np

from torchseg_zoo.benchmark.contenders import Assignment, Contender, open_contender
from torchseg_zoo.errors import ExportError, ZooError

__all__ = ["Loaded", "Memory", "Part", "Warmed", "serve"]

Part = Literal["end to end", "network"]
"""What is timed: bytes in, labels out; or the network alone."""

_MIB = 1 << 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Loaded:
    """A contender that is ready.

    Args:
        device: what it runs on.
        seconds: that loading took, libraries included.
    """

    device: str
    seconds: float


@dataclass(frozen=True)
class Warmed:
    """What the first call for a size gave.

    Args:
        labels: (N, H, W) uint8; ``None`` for the network alone.
        seconds: of that call.
    """

    labels: np.ndarray | None
    seconds: float


@dataclass(frozen=True)
class Memory:
    """Of the process, in MiB.

    Args:
        peak: the most it ever held, loading included.
        running: the most it held since it was warm; ``None`` where the system does not tell.
    """

    peak: float
    running: float | None


def serve(pipe: Connection, assignment: Assignment) -> None:
    """Answers (method of ``_Service``, its arguments) with what it returns or the error."""
    # Ctrl-C reaches the whole group; the parent ends its processes itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(assignment.threads)
    service = _Service(assignment)
    with suppress(EOFError, OSError):  # the parent is gone, and nobody wants an answer
        while True:
            method, arguments = pipe.recv()
            pipe.send(_answered(service, method, arguments))


def _answered(service: _Service, method: str, arguments: tuple[object, ...]) -> object:
    try:
        return getattr(service, method)(*arguments)
    except ZooError as error:
        return error
    except Exception as error:  # each runtime has classes of its own
        lines = str(error).strip().splitlines() or [""]
        return ExportError(
            "the runtime failed",
            where=service.assignment.runtime,
            why=f"{type(error).__name__}: {lines[-1][:200]}",
            fix="try another size, or another runtime",
        )


class _Service:
    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._contender: Contender | None = None
        self._call: Callable[[], object] = lambda: None
        self._peak = 0.0

    def load(self) -> Loaded:
        start = time.perf_counter()
        self._contender = open_contender(self.assignment)
        return Loaded(self._contender.device, time.perf_counter() - start)

    def warm(self, part: Part, pictures: np.ndarray, calls: int) -> Warmed:
        """Makes the first call for these pictures, and some more; ``turn`` repeats them."""
        contender = self._contender
        assert contender is not None
        labels = None
        if part == "network":
            self._call = contender.network(pictures)
            start = time.perf_counter()
            self._call()
        else:
            self._call = lambda: contender.labels(pictures)
            start = time.perf_counter()
            labels = contender.labels(pictures)
        seconds = time.perf_counter() - start
        for _ in range(calls):
            self._call()
        self._peak = max(self._peak, _peak_mib())
        _forget_peak()
        return Warmed(labels, seconds)

    def turn(self, calls: int) -> list[float]:
        """Milliseconds of each call, after one that is not timed: the caches are ours again."""
        self._call()
        found = []
        for _ in range(calls):
            start = time.perf_counter()
            self._call()
            found.append(1e3 * (time.perf_counter() - start))
        return found

    def label(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) → (H, W) uint8."""
        assert self._contender is not None
        found: np.ndarray = self._contender.labels(picture[None])[0]
        return found

    def memory(self) -> Memory:
        now = _peak_mib()
        return Memory(max(self._peak, now), now if _forgets() else None)


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return 0.0
    import resource

    # Kilobytes on Linux, bytes on macOS.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / _MIB if sys.platform == "darwin" else most / 1024


def _forgets() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK)


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
