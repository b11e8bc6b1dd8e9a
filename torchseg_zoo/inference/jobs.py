"""Pictures to label and the files that come of each, for a process, a shard or a cluster."""

from __future__ import annotations

import errno
import glob
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchseg_zoo.data.image import list_images
from torchseg_zoo.errors import ArgumentError, DataError, ZooError
from torchseg_zoo.files import make_folder, printable
from torchseg_zoo.inference.prediction import Prediction

__all__ = ["Job", "Labelled", "find_pictures", "label_job", "plan_jobs", "shard_of"]

# What will not pass with the next picture either.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Job:
    """One picture and where its results go.

    Args:
        source: the picture.
        targets: file per kind of result (``overlay``, ``labels``, ``confidence``), in this order.
    """

    source: Path
    targets: dict[str, Path]


@dataclass(frozen=True)
class Labelled:
    """One picture that was labelled.

    Args:
        source: the picture.
        files: what was written for it, the overlay first.
        summary: see ``Prediction.to_dict``.
    """

    source: Path
    files: tuple[Path, ...]
    summary: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"image": str(self.source), "files": [str(file) for file in self.files]} | (
            self.summary
        )


def find_pictures(inputs: Iterable[str | Path]) -> list[Path]:
    """Pictures that the inputs name: files as given, folders' pictures, matches of wildcards.

    Raises:
        DataError: if a folder has no pictures, or nothing matches.
    """
    pictures: dict[Path, None] = {}
    for text in map(str, inputs):
        path = Path(text)
        if path.is_dir():
            found = list_images(path)
        elif glob.has_magic(text) and not path.exists():
            matches = map(Path, glob.glob(text, recursive=True))  # noqa: PTH207
            found = sorted(match for match in matches if not match.is_dir())
            if not found:
                raise DataError("nothing matches", where=printable(text), fix="check the pattern")
        else:
            found = [path]
        pictures |= dict.fromkeys(found)
    return list(pictures)


def plan_jobs(
    pictures: Sequence[Path], out: str | Path, *, labels: bool = False, confidence: bool = False
) -> list[Job]:
    """Names the results ``<name>_<kind>.png`` and makes their folder.

    Pictures of the same name keep their endings, and numbers beyond that, so that no result
    overwrites another. The names depend on all pictures: plan first, then take a shard.

    Args:
        pictures: files.
        out: folder, created if need be; or for a single picture a file name ending in ``.png``.
        labels: also class indices with the palette.
        confidence: also the confidence, 255 for certain.

    Raises:
        ArgumentError: if ``out`` is a file name for several pictures, or a result would replace a
            picture.
        DataError: if the folder cannot be made.
    """
    out = Path(out)
    to_file = out.suffix.lower() == ".png" and not out.is_dir()
    if to_file and len(pictures) != 1:
        raise ArgumentError(
            f"one file name for {len(pictures)} pictures", where=printable(out), fix="give a folder"
        )
    folder = make_folder(out.parent if to_file else out)
    names = _result_names(pictures)
    kinds = ["overlay"] + ["labels"] * labels + ["confidence"] * confidence
    jobs = [
        Job(picture, {kind: folder / f"{name}_{kind}.png" for kind in kinds})
        for picture, name in zip(pictures, names, strict=True)
    ]
    if to_file:
        jobs[0].targets["overlay"] = out
    _refuse_to_overwrite(jobs)
    return jobs


def shard_of(jobs: Sequence[Job], shard: tuple[int, int] | None) -> list[Job]:
    """Every n-th job from the i-th on, for ``shard`` (i, n), counted from 1; all for ``None``.

    Raises:
        ArgumentError: if there is no such shard.
    """
    if shard is None:
        return list(jobs)
    index, count = shard
    if not 1 <= index <= count:
        raise ArgumentError(
            f"there is no shard {index} of {count}", where="shard", fix=f"give 1 to {count}"
        )
    return list(jobs[index - 1 :: count])


def label_job(label: Callable[[Path], Prediction], job: Job) -> Labelled | ZooError:
    """Labels one picture and writes its files, each of them whole or not at all.

    Args:
        label: makes the prediction, such as a ``Predictor``.
        job: the picture and its files.

    Returns:
        What was done; or, so that one picture does not stop the others, the error that names it.

    Raises:
        DataError: if the results' disk is full or read-only, which no other picture would mend.
    """
    try:
        prediction = label(job.source)
        save = {
            "overlay": prediction.save,
            "labels": prediction.save_labels,
            "confidence": prediction.save_confidence,
        }
        files = tuple(save[kind](target) for kind, target in job.targets.items())
        return Labelled(job.source, files, prediction.to_dict())
    except ZooError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in _DISK_FULL:
            raise
        if error.where is None:
            error.where = printable(job.source)
        return error


def _result_names(pictures: Sequence[Path]) -> list[str]:
    """One name per picture, no two the same: without ending, or with it, or with a number."""
    stems = Counter(picture.stem for picture in pictures)
    names: list[str] = []
    taken = {stem for stem, count in stems.items() if count == 1}
    for picture in pictures:
        name = picture.stem
        if stems[name] > 1:
            name, number = picture.name, 2
            while name in taken:
                name, number = f"{picture.name}-{number}", number + 1
            taken.add(name)
        names.append(name)
    return names


def _refuse_to_overwrite(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        for file in job.targets.values():
            if file.resolve() in sources:
                raise ArgumentError(
                    "the result would replace this picture",
                    where=printable(file),
                    fix="choose another folder or name for the results",
                )
