"""Which pictures of a batch are done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import ZooError
from torchseg_zoo.inference.jobs import Job, Labelled
from torchseg_zoo.journal import Journal, read_journal

__all__ = ["BatchRecord"]

_FORMAT = "torchseg_zoo predictions, 1"


class BatchRecord(Closing):
    """The journal of one batch, or of one shard of it; use it as a context manager.

    A line per picture has its size and time of change, and its files or its error.

    Args:
        path: the file; its folder exists.
        run: JSON-able description of the run. Results of another run are not continued.
        resume: go on from the file if there is one; otherwise it is begun anew.

    Raises:
        ResumeError: if the file is of another run; it names the differences.
        DataError: if the file cannot be read or written.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], *, resume: bool) -> None:
        lines = read_journal(path, _FORMAT, run, of="a batch") if resume else []
        # Of a picture's lines the last one counts, and one that failed will be tried again.
        latest = {line["image"]: line for line in lines if "image" in line}
        self._done = {image: line for image, line in latest.items() if "files" in line}
        self._journal = Journal(path, _FORMAT, run, list(self._done.values()))

    def close(self) -> None:
        """Ends the writing; what is written stays."""
        self._journal.close()

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
        self._journal.add(line)


def _fingerprint(picture: Path) -> list[int]:
    try:
        status = picture.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
