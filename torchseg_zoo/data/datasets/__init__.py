"""Data sets, and the one place where a command-line word becomes one."""

from __future__ import annotations

from pathlib import Path

from torchseg_zoo.data.datasets.classes import find_classes
from torchseg_zoo.data.datasets.drawn import DrawnStreets
from torchseg_zoo.data.datasets.files import FileDataset, camvid, folder, list_file, read_list
from torchseg_zoo.data.datasets.hf import hugging_face
from torchseg_zoo.data.datasets.released import RELEASED, open_released, recognised
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.files import printable

__all__ = [
    "DATASET_NAMES",
    "DrawnStreets",
    "FileDataset",
    "camvid",
    "folder",
    "hugging_face",
    "is_list",
    "list_file",
    "open_dataset",
    "open_released",
    "read_list",
]

DATASET_NAMES = (*RELEASED, "camvid", "folder", "hf")
"""What may stand before the colon in ``NAME:PATH``."""

# Held-out drawn scenes use their own seed, so that no split repeats another's.
_DRAWN = {"train": (1000, 1), "val": (100, 2), "test": (100, 3)}


def open_dataset(
    spec: str,
    split: str,
    labels: LabelSet | None,
    *,
    root: str | Path | None = None,
    classes: LabelSet | None = None,
) -> Dataset:
    """The data set that a word names, as ``--data`` on the command line.

    Args:
        spec: ``"drawn"``; a list file (``.txt``); a folder: a released data set, CamVid, one with
            ``<split>.txt``, or one with ``<split>/images`` and ``<split>/labels`` or ``images/
            <split>`` and ``labels/<split>``; or ``NAME:PATH`` with a name of ``DATASET_NAMES``,
            where the path is a folder or list of that data set, and for ``hf`` whatever
            ``hugging_face`` takes.
        split: ``"train"``, ``"val"`` or ``"test"``; some released data sets have more.
        labels: what the label values mean; released data sets and drawn streets bring their own,
            folders may in ``classes.txt``, and these may go without.
        root: where paths inside a list start; the list's own folder by default.
        classes: what the label values of files of one's own mean, whatever lies beside them; data
            sets that bring their classes must bring as many.

    Raises:
        ArgumentError: if there is no such split, ``labels`` are needed and missing, or the data set
            has another number of classes than ``classes``.
        DataError: if there is no such data.
        MissingExtraError: if reading it takes a library that is not installed.
    """
    dataset = _open(spec, split, labels, root, classes)
    if classes is not None and dataset.labels.num_classes != classes.num_classes:
        raise ArgumentError(
            f"this data set has {dataset.labels.num_classes} classes of its own, "
            f"the classes file names {classes.num_classes}",
            where=printable(spec),
            fix="leave the classes file out",
        )
    return dataset


def _open(
    spec: str,
    split: str,
    labels: LabelSet | None,
    root: str | Path | None,
    classes: LabelSet | None,
) -> Dataset:
    if spec == "drawn":
        if split not in _DRAWN:
            raise ArgumentError(f"no split {split!r}", where="drawn", fix="use train, val or test")
        length, seed = _DRAWN[split]
        return DrawnStreets(length, seed=seed)
    name, place = _divided(spec)
    if name:
        return _open_named(name, place, split, labels, root, classes)
    path = Path(spec)
    if not path.exists():
        raise DataError(
            "no such file or folder",
            where=printable(spec),
            fix="give a list file, a data set's folder, the word drawn, or NAME:PATH with one of "
            + ", ".join(DATASET_NAMES),
        )
    if path.is_dir():
        if (path / f"{split}annot").is_dir():
            return camvid(path, split)
        known = recognised(path)
        if known:
            listing = path / f"{split}.txt"
            return open_released(known, listing if listing.is_file() else path, split, root=root)
    return _open_own(path, split, labels, root, classes)


def is_list(spec: str) -> bool:
    """Whether a word for ``open_dataset`` names a list file, which holds one split only."""
    name, place = _divided(spec)
    return name != "hf" and Path(place).is_file()


def _divided(spec: str) -> tuple[str, str]:
    """``NAME:PATH`` → both; anything else is a path, without a name."""
    name, colon, place = spec.partition(":")
    return (name, place) if colon and name in DATASET_NAMES else ("", spec)


def _open_named(
    name: str,
    place: str,
    split: str,
    labels: LabelSet | None,
    root: str | Path | None,
    classes: LabelSet | None,
) -> Dataset:
    if not place:
        raise ArgumentError(f"no path after {name}:", where="data", fix=f"give {name}:PATH")
    if name == "hf":
        return hugging_face(place, split, classes or labels)
    if name in RELEASED:
        return open_released(name, place, split, root=root)
    path = Path(place)
    if name == "camvid":
        return list_file(path, CAMVID, root=root) if path.is_file() else camvid(path, split)
    if not path.exists():
        raise DataError("no such file or folder", where=printable(path), fix="check the path")
    return _open_own(path, split, labels, root, classes)


def _open_own(
    path: Path,
    split: str,
    labels: LabelSet | None,
    root: str | Path | None,
    classes: LabelSet | None,
) -> FileDataset:
    """A list or folder of the user's own."""
    home = path if path.is_dir() else path.parent
    beside = classes or find_classes(home) or (find_classes(Path(root)) if root else None)
    labels = beside or labels
    if labels is None:
        raise ArgumentError(
            "files do not tell how many classes there are",
            where=printable(path),
            fix="name them in classes.txt beside them, or say how many or give such a file: "
            "num_classes= or classes= (--classes K|FILE)",
        )
    if not path.is_dir():
        return list_file(path, labels, root=root)
    if (path / f"{split}.txt").is_file():
        return list_file(path / f"{split}.txt", labels, root=root)
    for images, maps in (
        (path / split / "images", path / split / "labels"),
        (path / "images" / split, path / "labels" / split),
    ):
        if images.is_dir():
            return folder(images, maps, labels)
    raise DataError(
        f"found no split {split!r}",
        where=printable(path),
        fix=f"expected {split}.txt, {split}annot/ beside {split}/, {split}/images and "
        f"{split}/labels, or images/{split} and labels/{split}",
    )
