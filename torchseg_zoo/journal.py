"""What a long run has done so far, as a file of JSON lines that survives the process."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import DataError, ResumeError
from torchseg_zoo.files import atomic_write, printable

__all__ = ["Journal", "flat", "read_journal"]


class Journal(Closing):
    """A file whose first line describes the run, and each further one a thing done.

    Use it as a context manager. It is written anew with what is kept, whole or not at all, so that
    a process that dies meanwhile loses nothing, and appended to from then on.

    Args:
        path: the file; its folder exists.
        form: name and version of what the lines hold.
        run: JSON-able description of all that the results depend on.
        kept: lines of an earlier run that still hold.

    Raises:
        DataError: if it cannot be written.
    """

    def __init__(
        self, path: Path, form: str, run: Mapping[str, Any], kept: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._path = path
        head = {"format": form, "run": dict(run)}
        text = "".join(json.dumps(line) + "\n" for line in (head, *kept)).encode()
        atomic_write(path, lambda file: file.write(text))
        try:
            self._file: BinaryIO = path.open("ab", buffering=0)
        except OSError as error:
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Ends the writing; what is written stays."""
        with suppress(OSError):
            self._file.close()

    def add(self, line: Mapping[str, Any]) -> None:
        """Appends a line.

        Raises:
            DataError: if it cannot be written.
        """
        data = (json.dumps(line) + "\n").encode()
        try:
            if self._file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise _unusable(self._path, error) from error


def read_journal(path: Path, form: str, run: Mapping[str, Any], *, of: str) -> list[dict[str, Any]]:
    """The lines of a journal after the first, but such as a crash cut off; none without a file.

    Args:
        path: the file.
        form: as in ``Journal``.
        run: likewise; results of another run are not continued.
        of: what is recorded, in words for errors: "an evaluation".

    Raises:
        ResumeError: if it is of another run, and how that differs, or no such journal.
        DataError: if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unusable(path, error) from error
    lines = []
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            lines.append(json.loads(line))
    lines = [line for line in lines if isinstance(line, dict)]
    if not lines:
        return []
    if lines[0].get("format") != form or not isinstance(lines[0].get("run"), dict):
        raise ResumeError(
            f"is no record of {of} that this version can continue",
            where=printable(path),
            why=f"its format is not {form!r}",
            fix="choose another folder, or leave resume out to begin anew",
        )
    _require_same(lines[0]["run"], json.loads(json.dumps(dict(run))), path)
    return lines[1:]


def flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The values of a nested record by dotted names."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    if before == now:
        return
    recorded, asked = dict(flat(before)), dict(flat(now))
    names = [
        name for name in dict.fromkeys((*recorded, *asked)) if recorded.get(name) != asked.get(name)
    ]
    raise ResumeError(
        "was written by a run with another " + ", ".join(names),
        where=printable(path),
        why="; ".join(f"{n}: {recorded.get(n)!r}, now {asked.get(n)!r}" for n in names),
        fix="choose another folder, or leave resume out to begin anew",
    )


def _unusable(path: Path, error: OSError) -> DataError:
    return DataError(
        "the record cannot be read or written",
        where=printable(path),
        why=error.strerror,
        fix="choose a folder that you may write to, on a disk with free space; "
        "resume=True (--resume) goes on from what is recorded",
    )
