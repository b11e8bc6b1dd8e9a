"""Many pictures: find them, label them, write the results, go on past bad ones."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from torchseg_zoo.data.image import list_images
from torchseg_zoo.errors import ArgumentError, DataError, ZooError
from torchseg_zoo.files import make_folder, printable
from torchseg_zoo.inference.predict import predict
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["BatchReport", "Labelled", "find_pictures", "predict_files"]


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


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch.

    Args:
        done: pictures that were labelled, in order.
        failed: one error per picture that could not be, each naming its file.
    """

    done: tuple[Labelled, ...]
    failed: tuple[ZooError, ...]


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


def predict_files(
    model: SegmentationModel,
    pictures: Sequence[Path],
    out: str | Path,
    *,
    labels: bool = False,
    confidence: bool = False,
    progress: bool = True,
) -> BatchReport:
    """Labels pictures and writes ``<name>_overlay.png`` for each.

    A picture that cannot be read does not stop the others. Pictures of the same name keep their
    endings, and numbers beyond that, so that no result overwrites another.

    Args:
        model: the model.
        pictures: files.
        out: folder, created if need be; or for a single picture a file name ending in ``.png``.
        labels: also write ``<name>_labels.png``, class indices with the palette.
        confidence: also write ``<name>_confidence.png``, 255 for certain.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if ``out`` is a file name for several pictures, or a result would replace a
            picture.
        DataError: if the folder cannot be written to.
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
    targets = [{kind: folder / f"{name}_{kind}.png" for kind in kinds} for name in names]
    if to_file:
        targets[0]["overlay"] = out
    _refuse_to_overwrite(pictures, targets)
    done, failed = [], []
    for picture, target in zip(
        tqdm(pictures, desc="predict", disable=not progress), targets, strict=True
    ):
        try:
            prediction = predict(model, picture)
            files = [prediction.save(target["overlay"])]
            if labels:
                files.append(prediction.save_labels(target["labels"]))
            if confidence:
                files.append(prediction.save_confidence(target["confidence"]))
            done.append(Labelled(picture, tuple(files), prediction.to_dict()))
        except ZooError as error:
            if error.where is None:
                error.where = printable(picture)
            failed.append(error)
    return BatchReport(tuple(done), tuple(failed))


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


def _refuse_to_overwrite(pictures: Sequence[Path], targets: Sequence[Mapping[str, Path]]) -> None:
    sources = {picture.resolve() for picture in pictures}
    for target in targets:
        for file in target.values():
            if file.resolve() in sources:
                raise ArgumentError(
                    "the result would replace this picture",
                    where=printable(file),
                    fix="choose another folder or name for the results",
                )
