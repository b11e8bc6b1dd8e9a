"""Files that an evaluation writes for every picture, beside the scores."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchseg_zoo.data.datasets.files import FileDataset
from torchseg_zoo.data.image import write_png
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.files import make_folder, printable
from torchseg_zoo.inference.render import colorize

__all__ = ["Outputs", "plan_outputs"]


@dataclass(frozen=True)
class Outputs:
    """Where the files of each picture go.

    Args:
        labels: folder for predicted label maps, palette PNGs of class indices; ``None`` for none.
        pictures: folder for photo, truth and prediction side by side; ``None`` for none.
        names: file name per index; empty if the data set's sample names are to be taken.
    """

    labels: Path | None = None
    pictures: Path | None = None
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.labels is not None or self.pictures is not None

    def write(
        self, index: int, dataset: Dataset, sample: Sample, truth: np.ndarray, found: np.ndarray
    ) -> tuple[str, ...]:
        """Writes the files of one picture, each of them whole or not at all.

        Args:
            index: position in the data set.
            dataset: its labels name and colour the classes.
            sample: the picture.
            truth: (H, W) uint8 train ids.
            found: (H, W) uint8 predicted classes.

        Raises:
            DataError: if a file cannot be written.
        """
        files = iter(self.files(index, sample.name))
        if self.labels is not None:
            write_png(next(files), found, palette=dataset.labels.palette_array())
        if self.pictures is not None:
            shown = [colorize(labels, dataset.labels) for labels in (truth, found)]
            write_png(next(files), np.hstack([_at_size(sample.image, truth), *shown]))
        return self.files(index, sample.name)

    def files(self, index: int, name: str) -> tuple[str, ...]:
        """The files of one picture, given its position and its sample's name."""
        file = self.names[index] if self.names else f"{_plain(name)}.png"
        return tuple(str(one / file) for one in (self.labels, self.pictures) if one is not None)


def plan_outputs(
    dataset: Dataset,
    labels: str | os.PathLike[str] | None,
    pictures: str | os.PathLike[str] | None,
) -> Outputs:
    """Makes the folders and names the files, so that none replaces a file of the data set.

    Args:
        dataset: what will be evaluated; files are named like its pictures.
        labels: see ``Outputs``.
        pictures: likewise.

    Raises:
        ArgumentError: if both are one folder, or a file would replace a picture or label map.
        DataError: if a folder cannot be made.
    """
    if labels is None and pictures is None:
        return Outputs()
    folders = [make_folder(Path(one)) if one is not None else None for one in (labels, pictures)]
    if folders[0] and folders[1] and folders[0].resolve() == folders[1].resolve():
        raise ArgumentError(
            "label maps and pictures would replace each other",
            where=printable(folders[0]),
            fix="give two folders",
        )
    names: tuple[str, ...] = ()
    if isinstance(dataset, FileDataset):
        names = _names([picture for picture, _ in dataset.pairs])
        own = {file.resolve() for pair in dataset.pairs for file in pair if file is not None}
        for folder in filter(None, folders):
            for name in names:
                if (folder / name).resolve() in own:
                    raise ArgumentError(
                        "the result would replace this file of the data set",
                        where=printable(folder / name),
                        fix="choose another folder for the results",
                    )
    return Outputs(folders[0], folders[1], names)


def _names(pictures: list[Path]) -> tuple[str, ...]:
    """``<picture>.png``; with its number in front where several pictures have one name."""
    often = Counter(picture.stem for picture in pictures)
    width = len(str(len(pictures)))
    return tuple(
        f"{picture.stem}.png"
        if often[picture.stem] == 1
        else f"{index:0{width}}_{picture.stem}.png"
        for index, picture in enumerate(pictures)
    )


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", printable(name)).lstrip(".") or "picture"


def _at_size(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The photo at the size of the labels, which may be another."""
    if image.shape[:2] == truth.shape:
        return image
    from PIL import Image

    height, width = truth.shape
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
