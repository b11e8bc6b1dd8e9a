"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015), 21 classes with the background.

``train_aug`` adds the pictures that SBD labels (Hariharan et al., ICCV 2011): 10,582 in all. VOC's
own masks are kept where there are any, and pictures of the validation split are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

from torchseg_zoo.data.datasets._layout import (
    Pairs,
    check_split,
    files_of,
    match,
    read_names,
    require_root,
)
from torchseg_zoo.errors import DataError
from torchseg_zoo.files import printable

__all__ = ["MARKS", "has_sbd", "pairs"]

MARKS = ("JPEGImages", "ImageSets/Segmentation")
"""By what the root is known."""

_SPLITS = ("train", "val", "trainval", "train_aug", "test")
_ARCHIVE = "VOCtrainval_11-May-2012.tar"
_TEST_ARCHIVE = "VOC2012test.tar"
# Where SBD's masks may lie below the folder that is given for them, or below VOC's root.
_SBD_FOLDERS = ("SegmentationClassAug", "dataset/cls", "cls", "SBD/dataset/cls", "SBD/cls")


def pairs(
    root: str | os.PathLike[str], split: str, *, sbd: str | os.PathLike[str] | None = None
) -> Pairs:
    """Pictures and masks of a split; the test split comes without masks.

    Args:
        root: folder ``VOC2012`` with ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``.
        split: ``"train"``, ``"val"``, ``"trainval"``, ``"train_aug"`` or ``"test"``.
        sbd: for ``"train_aug"``: the folder of SBD, with ``dataset/cls`` (MATLAB files), or a
            folder of masks as PNG. By default ``SegmentationClassAug`` or ``SBD`` in the root.

    Raises:
        ArgumentError: if there is no such split.
        DataError: if the root is another folder, or something is missing.
    """
    check_split(split, _SPLITS, "PASCAL VOC")
    shape = f"JPEGImages{os.sep}, SegmentationClass{os.sep} and ImageSets{os.sep}"
    base = require_root(root, "PASCAL VOC", MARKS, shape)
    archive = _TEST_ARCHIVE if split == "test" else _ARCHIVE
    pictures = files_of(base / "JPEGImages", (".jpg", ".png"), put=f"the pictures of {archive}")
    if split == "train_aug":
        train = _named(base, "train", _ARCHIVE)
        held_out = {*train, *_named(base, "val", _ARCHIVE)}
        return _with_masks(base, train, pictures) + _extra(base, held_out, pictures, sbd)
    names = _named(base, split, archive)
    if split == "test":
        return [(_picture(name, pictures, base, archive), None) for name in names]
    return _with_masks(base, names, pictures)


def _named(base: Path, split: str, archive: str) -> list[str]:
    listing = base / "ImageSets" / "Segmentation" / f"{split}.txt"
    return read_names(listing, put=f"the ImageSets of {archive}")


def _picture(name: str, pictures: dict[str, Path], base: Path, archive: str) -> Path:
    if name not in pictures:
        raise DataError(
            f"no picture {name}.jpg",
            where=printable(base / "JPEGImages"),
            fix=f"put the pictures of {archive} there",
        )
    return pictures[name]


def _with_masks(base: Path, names: list[str], pictures: dict[str, Path]) -> Pairs:
    wanted = {name: _picture(name, pictures, base, _ARCHIVE) for name in names}
    put = f"the masks of {_ARCHIVE}"
    return match(wanted, files_of(base / "SegmentationClass", (".png",), put=put), extra=True)


def _extra(
    base: Path, held_out: set[str], pictures: dict[str, Path], sbd: str | os.PathLike[str] | None
) -> Pairs:
    """What SBD adds to VOC's own training pictures."""
    folder = _sbd_folder(base, sbd)
    masks = files_of(folder, (".png", ".mat"), put="SBD's masks")
    added = {name: path for name, path in masks.items() if name not in held_out}
    if not added:
        raise DataError(
            "these masks add no picture to VOC's own",
            where=printable(folder),
            fix="put all masks of SBD there",
        )
    own = folder.parent / "img"  # SBD brings its pictures along
    if own.is_dir() and not added.keys() <= pictures.keys():
        pictures = files_of(own, (".jpg",), put="SBD's pictures") | pictures
    return match({name: pictures[name] for name in added if name in pictures}, added)


def has_sbd(folder: str | os.PathLike[str]) -> bool:
    """Whether SBD's masks are found below a folder, VOC's root or SBD's own."""
    return _find_masks(Path(folder)) is not None


def _find_masks(start: Path) -> Path | None:
    return next((start / name for name in _SBD_FOLDERS if (start / name).is_dir()), None)


def _sbd_folder(base: Path, sbd: str | os.PathLike[str] | None) -> Path:
    start = base if sbd is None else Path(sbd)
    found = _find_masks(start)
    if found is not None:
        return found
    if sbd is not None and start.is_dir() and any(start.glob("*.png")):
        return start
    if sbd is None:
        fix = (
            "put SBD (benchmark.tgz) there as SBD, so that SBD/dataset/cls holds its .mat files, "
            "or its masks as PNG into SegmentationClassAug"
        )
    else:
        fix = "give SBD's folder, which holds dataset/cls, or a folder of masks as PNG"
    raise DataError("found no masks of SBD", where=printable(start), fix=fix)
