"""The parent's side of a contender's process."""

from __future__ import annotations

import multiprocessing
import signal
from typing import Any

import numpy as np

from torchseg_zoo.benchmark.contenders import Assignment
from torchseg_zoo.benchmark.worker import Loaded, Memory, Part, Warmed, serve
from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import ExportError, ZooError
from torchseg_zoo.files import printable

__all__ = ["ContenderProcess"]

_PATIENCE_S = 5.0


class ContenderProcess(Closing):
    """A process that runs one artefact; use it as a context manager.

    A script that starts one needs the guard ``if __name__ == "__main__":``. Every method raises
    what the runtime raises there, as a ``ZooError``, and ``ExportError`` if the process died.

    Args:
        assignment: what it runs.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, assignment), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process closes the pipe

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.terminate()
        self._process.join(_PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return self._process.pid

    def load(self) -> Loaded:
        """Loads the artefact."""
        found: Loaded = self._ask("load")
        return found

    def warm(self, part: Part, pictures: np.ndarray, calls: int) -> Warmed:
        """Makes the first call for (N, H, W, 3) pictures, and ``calls`` more."""
        found: Warmed = self._ask("warm", part, pictures, calls)
        return found

    def turn(self, calls: int) -> list[float]:
        """Milliseconds of each of so many calls, on what ``warm`` was given last."""
        found: list[float] = self._ask("turn", calls)
        return found

    def label(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) → (H, W) uint8."""
        found: np.ndarray = self._ask("label", picture)
        return found

    def memory(self) -> Memory:
        """What the process has held so far."""
        found: Memory = self._ask("memory")
        return found

    def _ask(self, method: str, *arguments: object) -> Any:
        try:
            self._pipe.send((method, arguments))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, ZooError):
            raise answer
        return answer

    def _died(self) -> ExportError:
        self._process.join(_PATIENCE_S)
        code = self._process.exitcode
        try:
            how = f"was ended by {signal.Signals(-(code or 0)).name}"
        except ValueError:
            how = f"ended with code {code}"
        return ExportError(
            f"its process {how}",
            where=printable(self.assignment.file),
            why=f"while {self.assignment.runtime} ran it",
            fix="try smaller pictures or a smaller batch if memory ran out",
        )
