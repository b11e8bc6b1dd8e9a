"""Data sets on disk: list files, folders, CamVid."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torchseg_zoo.data.color_map import read_color_label
from torchseg_zoo.data.datasets import cityscapes
from torchseg_zoo.data.datasets._layout import Pairs, require_root
from torchseg_zoo.data.datasets.mat import read_mat_label
from torchseg_zoo.data.image import list_images, read_image
from torchseg_zoo.data.label_map import checked_train_ids, read_label
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.sample import Sample, require_same_size
from torchseg_zoo.errors import DataError
from torchseg_zoo.files import open_regular, printable

__all__ = ["FileDataset", "camvid", "folder", "list_file", "read_list"]


class FileDataset:
    """Pictures and label maps in files; satisfies ``Dataset``.

    Args:
        pairs: picture path and label path, or ``None`` for a picture without labels.
        labels: what the label values mean; its ``raw_ids`` or ``raw_colors`` are applied when a
            map is read.
    """

    def __init__(self, pairs: Sequence[tuple[Path, Path | None]], labels: LabelSet) -> None:
        self.pairs = list(pairs)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Reads one sample.

        Raises:
            DataError: if a file cannot be read, picture and labels differ in size, or a label value
                stands for no class.
            MissingExtraError: if the labels are in a MATLAB file and scipy is not installed.
        """
        image_path, label_path = self.pairs[index]
        image, name = read_image(image_path), printable(image_path)
        if label_path is None:
            return Sample(name, image, None)
        where = printable(label_path)
        if self.labels.raw_colors is not None:
            label = read_color_label(label_path, self.labels)
            require_same_size(label, image, where=where, picture=name)
            return Sample(name, image, label)
        read = read_mat_label if label_path.suffix.lower() == ".mat" else read_label
        stored = read(label_path)
        require_same_size(stored, image, where=where, picture=name)
        return Sample(name, image, checked_train_ids(stored, self.labels, where=label_path))


def list_file(path: str | Path, labels: LabelSet, *, root: str | Path | None = None) -> FileDataset:
    """Data set of a list file: ``image<TAB>label`` per line, or ``image`` alone.

    Args:
        path: the list; see ``read_list``, also for ``root``.
        labels: what the label values mean; for the classes of Cityscapes, names that end in
            ``_labelIds.png`` or ``_labelTrainIds.png`` tell which values the files hold.
        root: folder that the paths in the list start from; the list's own folder by default.

    Raises:
        DataError: as ``read_list``; or if label files of Cityscapes are of both kinds.
    """
    pairs = read_list(path, root=root)
    return FileDataset(pairs, cityscapes.as_stored(labels, pairs, path))


def read_list(path: str | Path, *, root: str | Path | None = None) -> Pairs:
    """The files that a list names.

    Args:
        path: the list; UTF-8, blank lines are skipped.
        root: folder that the paths in the list start from; the list's own folder by default.

    Returns:
        Picture and label map per line; ``None`` for the label map in a list of pictures alone.

    Raises:
        DataError: if the list is missing, empty or malformed, or names a missing file.
    """
    path = Path(path)
    base = path.parent if root is None else Path(root)
    with open_regular(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeError as error:
        raise DataError(
            "the list is not UTF-8 text",
            where=path,
            why=str(error),
            fix="give a UTF-8 text file with image<TAB>label on each line",
        ) from error
    pairs: Pairs = []
    columns = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        fields = [part.strip() for part in line.split("\t")]
        where = f"{path} line {number}"
        columns = columns or len(fields)
        if len(fields) > 2 or not all(fields) or len(fields) != columns:
            raise DataError(
                f"expected {'image<TAB>label' if columns != 1 else 'one image path'}, "
                f"got {len(fields)} column{'s' if len(fields) != 1 else ''}",
                where=where,
                fix="separate image and label by one tab, and give every line the same columns",
            )
        files = [base / part for part in fields]
        for file in files:
            if "\0" in str(file) or not file.is_file():
                raise DataError(
                    f"no file {file}", where=where, fix="correct the line, or give root= (--root)"
                )
        pairs.append((files[0], files[1] if columns == 2 else None))
    if not pairs:
        raise DataError("the list is empty", where=path, fix="put image<TAB>label on each line")
    return pairs


def folder(images: str | Path, label_folder: str | Path | None, labels: LabelSet) -> FileDataset:
    """Data set of two folders; a picture's label map has its name without ending, and is a PNG.

    Args:
        images: folder with pictures.
        label_folder: folder with ``<name>.png`` for each, or ``None`` for pictures alone.
        labels: what the label values mean.

    Raises:
        DataError: if a folder is missing or empty, or a picture has no label map.
    """
    pictures = list_images(Path(images))
    if label_folder is None:
        return FileDataset([(picture, None) for picture in pictures], labels)
    maps = {file.stem: file for file in list_images(Path(label_folder))}
    missing = [picture for picture in pictures if picture.stem not in maps]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(pictures)} pictures have no label map, "
            f"the first is {missing[0].name}",
            where=label_folder,
            fix="name each label map like its picture",
        )
    return FileDataset([(picture, maps[picture.stem]) for picture in pictures], labels)


def camvid(root: str | Path, split: str = "val") -> FileDataset:
    """CamVid as the SegNet tutorial distributes it: 11 classes at 360×480, label 11 unlabelled.

    Args:
        root: folder with ``train.txt`` and ``val.txt`` (``image<TAB>label``), or with the
            tutorial's ``train``, ``trainannot``, ``val``, ``valannot`` folders.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        DataError: if the split is not there.
    """
    root = Path(root)
    listing = root / f"{split}.txt"
    # The tutorial's own lists separate by a space and start from another root.
    if listing.is_file() and b"\t" in listing.read_bytes():
        return list_file(listing, CAMVID)
    if not (root / split).is_dir():
        if not any((root / name).exists() for name in ("train", "val", "train.txt", "val.txt")):
            shape = "CamVid's train, trainannot, val and valannot"
            require_root(root, "CamVid", ("train", "trainannot"), shape)
        raise DataError(
            f"no split {split!r}: neither {listing.name} nor a folder {split}{os.sep}",
            where=root,
            fix="point at the folder that holds CamVid's train, trainannot, val and valannot",
        )
    return folder(root / split, root / f"{split}annot", CAMVID)
