"""Cityscapes (Cordts et al., CVPR 2016): 19 classes of street scenes at 1024×2048.

Label maps hold the 34 label ids of the release (``*_labelIds.png``), or the train ids that the
release's own scripts can write beside them (``*_labelTrainIds.png``); which, their names tell.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from torchseg_zoo.data.datasets._layout import Pairs, check_split, files_of, match, require_root
from torchseg_zoo.data.label_sets import CITYSCAPES
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import DataError
from torchseg_zoo.files import printable

__all__ = ["MARKS", "as_stored", "pairs"]

MARKS = ("leftImg8bit",)
"""By what the root is known."""

_FINE, _COARSE = ("train", "val", "test"), ("train", "train_extra", "val")
_LABEL_IDS, _TRAIN_IDS = "_labelIds.png", "_labelTrainIds.png"


def pairs(root: str | os.PathLike[str], split: str, *, coarse: bool = False) -> Pairs:
    """Pictures and label maps of the released tree.

    Train ids are taken where every picture of the split has them, label ids otherwise. The test
    split comes without labels: those that are released are blank.

    Args:
        root: folder with ``leftImg8bit`` and ``gtFine`` (or ``gtCoarse``).
        split: ``"train"``, ``"val"`` or ``"test"``; coarse: ``"train"``, ``"train_extra"`` or
            ``"val"``.
        coarse: the coarse annotations.

    Raises:
        ArgumentError: if there is no such split.
        DataError: if the root is another folder, or half of a pair is missing.
    """
    truth = "gtCoarse" if coarse else "gtFine"
    check_split(split, _COARSE if coarse else _FINE, f"Cityscapes {truth}")
    marks = MARKS if split == "test" else (*MARKS, truth)
    base = require_root(root, "Cityscapes", marks, f"leftImg8bit{os.sep} and {truth}{os.sep}")
    archive = f"leftImg8bit_{'trainextra' if split == 'train_extra' else 'trainvaltest'}.zip"
    pictures = files_of(
        base / "leftImg8bit" / split,
        ("_leftImg8bit.png",),
        depth=1,
        put=f"the city folders of {archive}",
    )
    if split == "test":
        return [(picture, None) for picture in pictures.values()]
    archive = "gtCoarse.zip" if coarse else "gtFine_trainvaltest.zip"
    return match(pictures, _maps(base / truth / split, truth, pictures, archive))


def _maps(folder: Path, truth: str, pictures: Iterable[str], archive: str) -> dict[str, Path]:
    put = f"the city folders of {archive}"
    if folder.is_dir() and any(folder.glob(f"*/*_{truth}{_TRAIN_IDS}")):
        found = files_of(folder, (f"_{truth}{_TRAIN_IDS}",), depth=1, put=put)
        if found.keys() >= set(pictures):
            return found
    return files_of(folder, (f"_{truth}{_LABEL_IDS}",), depth=1, put=put)


def as_stored(labels: LabelSet, pairs: Pairs, where: object) -> LabelSet:
    """The label set that fits what the label files hold, by their names.

    Args:
        labels: any; only sets with the classes of Cityscapes are changed.
        pairs: the files.
        where: the list or folder, for the message.

    Returns:
        ``labels`` as they are if the names tell nothing.

    Raises:
        DataError: if some files hold label ids and some train ids.
    """
    if labels.classes != CITYSCAPES.classes:
        return labels
    found: dict[str, Path] = {}
    for _, path in pairs:
        ending = path and next((e for e in (_LABEL_IDS, _TRAIN_IDS) if path.name.endswith(e)), None)
        if path and ending:
            found.setdefault(ending, path)
    if len(found) > 1:
        raise DataError(
            f"{found[_LABEL_IDS].name} holds label ids, {found[_TRAIN_IDS].name} train ids",
            where=printable(where),
            fix="name label files of one kind only",
        )
    if _TRAIN_IDS in found:
        return dataclasses.replace(labels, raw_ids=None)
    if _LABEL_IDS in found:
        return dataclasses.replace(labels, raw_ids=CITYSCAPES.raw_ids)
    return labels
