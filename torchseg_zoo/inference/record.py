"""What a batch has done so far, as a file of JSON lines that survives the process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from torchseg_zoo.errors import DataError, ResumeError, ZooError
from torchseg_zoo.files import printable
from torchseg_zoo.inference.jobs import Job, Labelled

__all__ = ["BatchRecord"]

_VERSION = 1


class BatchRecord:
    """The record of one batch, or of one shard of it; use it as a context manager.

    The first line describes the run, each further one a picture: its size and time of change, and
    its files or its error. A line that a crash cut off is not counted.

    Args:
        path: the file; its folder exists.
        run: JSON-able description of the run. Results of another run are not continued.
        resume: go on from the file if there is one; otherwise it is begun anew.

    Raises:
        ResumeError: if the file is of another run; it names the differences.
        DataError: if the file cannot be read or written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], *, resume: bool) -> None:
        self._path = path
        self._done: dict[str, dict[str, Any]] = {}
        head = {"version": _VERSION, "run": dict(run)}
        try:
            lines = _complete_lines(path) if resume else []
            if lines:
                self._read(lines, json.loads(json.dumps(head)))
            # Written anew, so that neither a cut line nor an earlier failure stays in it.
            kept = [head, *self._done.values()]
            self._file: TextIO = path.open("w", encoding="utf-8")
            self._file.write("".join(json.dumps(line) + "\n" for line in kept))
            self._file.flush()
        except OSError as error:
            raise _unusable(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._file.close()

    def finished(self, job: Job) -> Labelled | None:
        """What was done for a job, if its picture is unchanged and all its files are there."""
        line = self._done.get(str(job.source))
        if line is None or line["picture"] != _fingerprint(job.source):
            return None
        files = tuple(job.targets.values())
        if line["files"] != [str(file) for file in files] or not all(map(Path.is_file, files)):
            return None
        return Labelled(job.source, files, line["summary"])

    def add(self, job: Job, outcome: Labelled | ZooError) -> None:
        """Appends what became of a job.

        Raises:
            DataError: if the file cannot be written.
        """
        line: dict[str, Any] = {"image": str(job.source)}
        if isinstance(outcome, Labelled):
            line["picture"] = _fingerprint(job.source)
            line["files"] = [str(file) for file in outcome.files]
            line["summary"] = outcome.summary
        else:
            line["error"] = type(outcome).__name__
            line["message"] = str(outcome)
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unusable(self._path, error) from error

    def _read(self, lines: list[dict[str, Any]], head: dict[str, Any]) -> None:
        if lines[0].get("version") != _VERSION:
            raise ResumeError(
                "is no record of a batch that this version can continue",
                where=printable(self._path),
                fix="choose another folder, or leave resume out to begin anew",
            )
        before, now = lines[0].get("run", {}), head["run"]
        if before != now:
            names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
            raise ResumeError(
                "was written by a run with another " + ", ".join(names),
                where=printable(self._path),
                why="; ".join(f"{n}: {before.get(n)!r}, now {now.get(n)!r}" for n in names),
                fix="choose another folder, or leave resume out to begin anew",
            )
        # Of a picture's lines the last one counts.
        latest = {line["image"]: line for line in lines[1:] if "image" in line}
        self._done = {image: line for image, line in latest.items() if "files" in line}


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """All lines but one that was cut off; none if there is no file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def _fingerprint(picture: Path) -> list[int]:
    try:
        status = picture.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _unusable(path: Path, error: OSError) -> DataError:
    return DataError(
        "the record of the batch cannot be read or written",
        where=printable(path),
        why=error.strerror,
        fix="choose a folder that you may write to, on a disk with free space",
    )
