"""Every failure that a user can meet, as one family of exceptions.

Each error says what happened, where (a file, URL or argument), why, and what to do next, in one
line. The command line prints that line and exits with the class's ``exit_code``.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArgumentError",
    "CacheError",
    "CheckpointFormatError",
    "DataError",
    "DownloadError",
    "EvaluationError",
    "ExportError",
    "InputShapeError",
    "IntegrityError",
    "MissingExtraError",
    "ResumeError",
    "StoppedError",
    "TrainError",
    "UnknownCheckpointError",
    "UnknownModelError",
    "UnsafeCheckpointError",
    "ZooError",
    "described",
    "listed",
]


class ZooError(Exception):
    """Base of all errors raised on purpose by this package.

    Args:
        what: what happened, in one clause.
        where: the file, URL or argument concerned.
        why: the cause, where it is known and not plain from ``what``.
        fix: what the user can do next.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: object | None = None,
        why: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what, where, why, fix)
        self.what = what
        self.where = None if where is None else str(where)
        self.why = why
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (data workers); keyword arguments must survive the trip.
        return _rebuild, (type(self), self.what, self.where, self.why, self.fix)

    def __str__(self) -> str:
        message = self.what if self.where is None else f"{self.where}: {self.what}"
        if self.why:
            message += f" ({self.why})"
        if self.fix:
            message += f"; {self.fix}"
        return " ".join(message.split())


def _rebuild(
    kind: type[ZooError], what: str, where: str | None, why: str | None, fix: str | None
) -> ZooError:
    return kind(what, where=where, why=why, fix=fix)


class ArgumentError(ZooError, ValueError):
    """An argument or option has a value that cannot work."""

    exit_code = 4


class UnknownModelError(ZooError, LookupError):
    """No model or backbone has this name."""

    exit_code = 10


class UnknownCheckpointError(ZooError, LookupError):
    """The model exists, but has no checkpoint with this tag."""

    exit_code = 11


class DownloadError(ZooError, OSError):
    """A file could not be fetched from any of its sources."""

    exit_code = 12


class IntegrityError(ZooError):
    """A file is not the one that was announced: its size or digest differs."""

    exit_code = 13


class UnsafeCheckpointError(ZooError):
    """A checkpoint file asks for code to be run while it is read."""

    exit_code = 14


class CheckpointFormatError(ZooError, ValueError):
    """A checkpoint cannot be read, or does not fit the model."""

    exit_code = 15


class CacheError(ZooError, OSError):
    """The cache cannot be read or written."""

    exit_code = 16


class InputShapeError(ZooError, ValueError):
    """A model cannot take a tensor of this shape."""

    exit_code = 17


class DataError(ZooError, ValueError):
    """A picture, label map, list or folder cannot be used."""

    exit_code = 18


class TrainError(ZooError, RuntimeError):
    """Training cannot go on."""

    exit_code = 19


class ResumeError(ZooError, RuntimeError):
    """A run cannot be resumed from this checkpoint."""

    exit_code = 20


class ExportError(ZooError, RuntimeError):
    """A model cannot be exported, or an artefact cannot be used."""

    exit_code = 21


class MissingExtraError(ZooError, ImportError):
    """An optional dependency is not installed."""

    exit_code = 22


class EvaluationError(ZooError, RuntimeError):
    """An evaluation cannot go on: the processes that did it are gone."""

    exit_code = 23


class StoppedError(ZooError, RuntimeError):
    """A signal asked a run to end; its state is saved."""

    exit_code = 143  # as after SIGTERM: the work is not done, and a launcher may start it again


def described(value: object) -> str:
    """What an argument is, for messages: ``a uint8 array of shape (2, 3)``, ``a str``."""
    kind = type(value).__name__
    if kind == "ndarray":
        return f"a {getattr(value, 'dtype', '')} array of shape {getattr(value, 'shape', '')}"
    return f"a {kind}"


def listed(names: Sequence[object], most: int = 5) -> str:
    """Names for messages: ``a, b, c and 4 more``, of which ``most`` are written out."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
