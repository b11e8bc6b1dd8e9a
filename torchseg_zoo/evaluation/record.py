"""What an evaluation has counted so far, as files of JSON lines that survive its processes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchseg_zoo.closing import Closing
from torchseg_zoo.data.datasets.files import FileDataset
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import DataError
from torchseg_zoo.evaluation.counts import Outcome, PictureCounts
from torchseg_zoo.evaluation.outputs import Outputs
from torchseg_zoo.files import make_folder, printable
from torchseg_zoo.journal import Journal, read_journal

__all__ = ["EvaluationRecord", "clear_records"]

_FORMAT = "torchseg_zoo counts, 1"


class EvaluationRecord(Closing):
    """The record of one evaluation, or of one rank's part of it; use it as a context manager.

    The first line says what the counts depend on, each further one has those of a picture. A line
    that a crash cut off costs that picture and no other.

    Args:
        folder: where records are: ``evaluate.jsonl``, ``evaluate-rank-1.jsonl`` and so on; created
            if need be.
        run: JSON-able description of all that the counts depend on, beside the files.
        dataset: its files tell whether they have changed since.
        outputs: a picture whose files are gone is not done.
        num_classes: K.
        rank: this process among others that ``torchrun`` started.
        resume: take over what all records in the folder have; otherwise this one is begun anew.

    Attributes:
        done: what was found, by index; every picture is as it was when it was counted.

    Raises:
        ResumeError: if a record is of another run; it names the differences.
        DataError: if a file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        dataset: Dataset,
        outputs: Outputs,
        *,
        num_classes: int,
        rank: int = 0,
        resume: bool = False,
    ) -> None:
        make_folder(folder)
        name = f"evaluate-rank-{rank}.jsonl" if rank else "evaluate.jsonl"
        path = folder / name
        self._dataset = dataset
        self._outputs = outputs
        self._num_classes = num_classes
        self.done: dict[int, PictureCounts] = {}
        kept: list[dict[str, Any]] = []
        for file in _records(folder) if resume else []:
            own = self._read(file, run)
            kept = own if file == path else kept
        self._journal = Journal(path, _FORMAT, run, kept)

    def close(self) -> None:
        """Ends the writing; what is written stays."""
        self._journal.close()

    def add(self, outcome: Outcome) -> None:
        """Appends a picture; a skipped one as a note, for it will be tried again.

        Raises:
            DataError: if the file cannot be written.
        """
        if isinstance(outcome, PictureCounts):
            line = {**outcome.to_dict(), "read": _fingerprint(self._dataset, outcome.index)}
        else:
            line = {"skipped": outcome.index, "message": outcome.message}
        self._journal.add(line)

    def _read(self, path: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Takes over what a record has, and returns its lines."""
        kept = []
        for line in read_journal(path, _FORMAT, run, of="an evaluation"):
            with suppress(KeyError, TypeError, ValueError, OverflowError, IndexError):
                counts = PictureCounts.from_dict(line, self._num_classes)
                if self._still_holds(counts, line["read"]):
                    self.done[counts.index] = counts
                    kept.append(line)
        return kept

    def _still_holds(self, counts: PictureCounts, read: object) -> bool:
        return (
            0 <= counts.index < len(self._dataset)
            and read == _fingerprint(self._dataset, counts.index)
            and counts.files == self._outputs.files(counts.index, counts.name)
            and all(map(Path.is_file, map(Path, counts.files)))
        )


def clear_records(folder: Path) -> None:
    """Removes the records of all ranks.

    Raises:
        DataError: if one cannot be removed.
    """
    for path in _records(folder):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                "an earlier record cannot be removed",
                where=printable(path),
                why=error.strerror,
                fix="choose another folder, or one that you may write to",
            ) from error


def _records(folder: Path) -> list[Path]:
    return sorted([*folder.glob("evaluate.jsonl"), *folder.glob("evaluate-rank-*.jsonl")])


def _fingerprint(dataset: Dataset, index: int) -> list[list[Any]]:
    """Name, size and time of change of the files of a sample; empty for one without files."""
    if not isinstance(dataset, FileDataset):
        return []
    found: list[list[Any]] = []
    for file in dataset.pairs[index]:
        if file is not None:
            with suppress(OSError):
                status = file.stat()
                found.append([printable(file), status.st_size, status.st_mtime_ns])
    return found
