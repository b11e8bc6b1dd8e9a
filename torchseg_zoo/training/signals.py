"""Signals that ask a run to end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Self

from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import StoppedError
from torchseg_zoo.files import printable

__all__ = ["StopSignals"]

_NAMES = ("SIGTERM", "SIGUSR1")  # schedulers announce the end of a job by one or the other


class StopSignals(Closing):
    """Notes SIGTERM and SIGUSR1 instead of dying of them; use it as a context manager.

    Outside the main thread, where Python takes no signals, it notes nothing.

    Args:
        state: file that a run goes on from, for the message.

    Attributes:
        received: the last signal that came.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                if (number := getattr(signal.Signals, name, None)) is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def close(self) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hush_workers(self) -> None:
        """Takes back the handler that a loader installed when it started its workers.

        It answers the end of a worker by raising wherever the program happens to be, in the middle
        of an update, say. The loader also finds out by itself, when it waits for a batch.
        """
        if self._before and hasattr(signal, "SIGCHLD"):
            handler = signal.signal(signal.SIGCHLD, _ignore)
            if handler is not _ignore:
                self._before[signal.SIGCHLD] = handler

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)

    def end_now(self, step: int) -> None:
        """Raises at once what ``error`` says, if a signal came; for long work between steps.

        Raises:
            StoppedError: if so.
        """
        if self.received is not None:
            raise self.error(step)

    def error(self, step: int) -> StoppedError:
        """What a run that was asked to end raises, once ``step`` steps are saved."""
        name = self.received.name if self.received else "another process's signal"
        return StoppedError(
            f"stopped by {name} after step {step}",
            where=printable(self._state),
            fix="everything so far is saved; go on with resume=True (--resume)",
        )


def _ignore(number: int, frame: FrameType | None) -> None:
    """Unlike ``SIG_IGN``, leaves ended processes for their parent to look at."""
