"""Many pictures: find them, label them, write the results, go on past bad ones."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from torchseg_zoo.data.image import list_images
from torchseg_zoo.errors import DataError, ZooError
from torchseg_zoo.files import make_folder
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
            found = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207
            if not found:
                raise DataError("nothing matches", where=text, fix="check the pattern")
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

    A picture that cannot be read does not stop the others.

    Args:
        model: the model.
        pictures: files.
        out: folder, created if need be; or for a single picture a file name ending in ``.png``.
        labels: also write ``<name>_labels.png``, class indices with the palette.
        confidence: also write ``<name>_confidence.png``, 255 for certain.
        progress: show a bar on stderr.

    Raises:
        DataError: if the folder cannot be written to.
    """
    out = Path(out)
    to_file = len(pictures) == 1 and out.suffix.lower() == ".png" and not out.is_dir()
    folder = make_folder(out.parent if to_file else out)
    repeated = Counter(picture.stem for picture in pictures)
    done, failed = [], []
    for picture in tqdm(pictures, desc="predict", disable=not progress):
        # Of a.jpg and a.png neither may overwrite the other's result.
        stem = picture.stem if repeated[picture.stem] == 1 else picture.name
        overlay = out if to_file else folder / f"{stem}_overlay.png"
        try:
            prediction = predict(model, picture)
            files = [prediction.save(overlay)]
            if labels:
                files.append(prediction.save_labels(folder / f"{stem}_labels.png"))
            if confidence:
                files.append(prediction.save_confidence(folder / f"{stem}_confidence.png"))
            done.append(Labelled(picture, tuple(files), prediction.to_dict()))
        except ZooError as error:
            if error.where is None:
                error.where = str(picture)
            failed.append(error)
    return BatchReport(tuple(done), tuple(failed))
