"""Data sets, and the one place where a command-line word becomes one."""

from __future__ import annotations

from pathlib import Path

from torchseg_zoo.data.datasets.drawn import DrawnStreets
from torchseg_zoo.data.datasets.files import FileDataset, camvid, folder, list_file
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.files import printable

__all__ = ["DrawnStreets", "FileDataset", "camvid", "folder", "list_file", "open_dataset"]

# Held-out drawn scenes use their own seed, so that no split repeats another's.
_DRAWN = {"train": (1000, 1), "val": (100, 2), "test": (100, 3)}


def open_dataset(
    spec: str, split: str, labels: LabelSet | None, *, root: str | Path | None = None
) -> Dataset:
    """The data set that ``--data`` names.

    Args:
        spec: ``"drawn"``; a list file (``.txt``); a folder with CamVid's layout or with
            ``<split>.txt``; or a folder with ``<split>/images`` and ``<split>/labels``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        labels: what the label values mean; CamVid and drawn streets bring their own, and may go
            without.
        root: where paths inside a list start; the list's own folder by default.

    Raises:
        ArgumentError: if there is no such split, or ``labels`` are needed and missing.
        DataError: if there is no such data.
    """
    if spec == "drawn":
        if split not in _DRAWN:
            raise ArgumentError(f"no split {split!r}", where="drawn", fix="use train, val or test")
        length, seed = _DRAWN[split]
        return DrawnStreets(length, seed=seed)
    path = Path(spec)
    if path.is_dir() and (path / f"{split}annot").is_dir():
        return camvid(path, split)
    if not path.exists():
        raise DataError(
            "no such file or folder",
            where=printable(spec),
            fix="give a list file, a data set's folder, or the word drawn",
        )
    if labels is None:
        raise ArgumentError(
            "files do not tell how many classes there are",
            where=printable(spec),
            fix="set num_classes, as --set num_classes=12",
        )
    if not path.is_dir():
        return list_file(path, labels, root=root)
    if (path / f"{split}.txt").is_file():
        return list_file(path / f"{split}.txt", labels, root=root)
    if (path / split / "images").is_dir():
        return folder(path / split / "images", path / split / "labels", labels)
    raise DataError(
        f"found no split {split!r}",
        where=printable(path),
        fix=f"expected {split}.txt, {split}annot/ beside {split}/, or {split}/images and "
        f"{split}/labels",
    )
