"""COCO-Stuff (Caesar et al., CVPR 2018): 171 classes, in two releases with different files.

Both number COCO's categories with gaps; the label sets fold them to 0..170. In the release of
10,000 pictures files hold 0 for unlabelled and 1..182, in that of 164,000 they hold 0..181 and 255
for unlabelled.
"""

from __future__ import annotations

import os
from pathlib import Path

from torchseg_zoo.data.datasets._layout import (
    Pairs,
    check_split,
    files_of,
    fits,
    match,
    read_names,
    require_root,
    right_root,
)
from torchseg_zoo.errors import DataError
from torchseg_zoo.files import printable

__all__ = ["MARKS_10K", "MARKS_164K", "pairs_10k", "pairs_164k"]

MARKS_10K = ("imageLists", "images", "annotations")
MARKS_164K = ("stuffthingmaps_trainval2017",)
"""By what the roots are known."""

_LISTS = {"train": "train", "val": "test", "test": "test"}
_FOLDERS = {"train": "train2017", "val": "val2017", "test": "test2017"}
_PICTURES = ("", "images/")
_MAPS = ("stuffthingmaps_trainval2017", "stuffthingmaps", "annotations")


def pairs_10k(root: str | os.PathLike[str], split: str) -> Pairs:
    """Pictures and label maps of the release of 10,000 pictures.

    Args:
        root: folder with ``imageLists``, ``images`` and ``annotations`` (``.mat``, or PNG with the
            same numbers).
        split: ``"train"`` (9,000) or ``"test"`` (1,000), which ``"val"`` names, too.

    Raises:
        ArgumentError: if there is no such split.
        DataError: if the root is another folder, or half of a pair is missing.
    """
    check_split(split, _LISTS, "COCO-Stuff 10k")
    shape = f"imageLists{os.sep}, images{os.sep} and annotations{os.sep}"
    base = require_root(root, "COCO-Stuff 10k", MARKS_10K, shape)
    archive = "cocostuff-10k-v1.1.zip"
    names = read_names(base / "imageLists" / f"{_LISTS[split]}.txt", put=f"the lists of {archive}")
    pictures = files_of(base / "images", (".jpg",), put=f"the pictures of {archive}")
    absent = [name for name in names if name not in pictures]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(names)} pictures are missing, the first is {absent[0]}.jpg",
            where=printable(base / "images"),
            fix=f"put the pictures of {archive} there",
        )
    put = f"the annotations of {archive}"
    maps = files_of(base / "annotations", (".mat", ".png"), put=put)
    return match({name: pictures[name] for name in names}, maps, extra=True)


def pairs_164k(root: str | os.PathLike[str], split: str) -> Pairs:
    """Pictures and label maps of the release of 164,000 pictures; test pictures have no labels.

    Args:
        root: folder with ``train2017`` and ``val2017`` (or these in ``images``) beside
            ``stuffthingmaps_trainval2017`` (or ``stuffthingmaps``, or ``annotations``).
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        ArgumentError: if there is no such split.
        DataError: if the root is another folder, or half of a pair is missing.
    """
    check_split(split, _FOLDERS, "COCO-Stuff 164k")
    folder = _FOLDERS[split]
    base = Path(root)
    layouts: list[tuple[str, ...]]
    if split == "test":
        layouts = [(pictures + folder,) for pictures in _PICTURES]
    else:
        layouts = [(p + folder, f"{m}/{folder}") for p in _PICTURES for m in _MAPS]
    marks = (
        next((one for one in layouts if fits(base, one)), None)
        or next((one for one in layouts if right_root(base, one)), None)
        or layouts[0]
    )
    require_root(base, "COCO-Stuff 164k", marks, f"{folder}{os.sep} and {_MAPS[0]}{os.sep}")
    pictures = files_of(base / marks[0], (".jpg",), put=f"the pictures of {folder}.zip")
    if split == "test":
        return [(picture, None) for picture in pictures.values()]
    put = "the label maps of stuffthingmaps_trainval2017.zip"
    maps = files_of(base / marks[1], (".png",), put=put)
    # Converted copies lie beside the maps in trees that other programs have used.
    maps = {name: path for name, path in maps.items() if not name.endswith("_labelTrainIds")}
    return match(pictures, maps)
