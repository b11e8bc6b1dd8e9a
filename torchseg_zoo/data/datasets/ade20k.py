"""ADE20K as the scene parsing benchmark has it (Zhou et al., CVPR 2017): 150 classes.

Label maps hold 1..150, and 0 for whatever is none of these: it is ignored, the others lowered by
one.
"""

from __future__ import annotations

import os
from pathlib import Path

from torchseg_zoo.data.datasets._layout import Pairs, check_split, files_of, match, require_root

__all__ = ["MARKS", "pairs"]

MARKS = ("images/validation", "annotations/validation")
"""By what the root is known."""

_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
_ARCHIVE = "ADEChallengeData2016.zip"


def pairs(root: str | os.PathLike[str], split: str) -> Pairs:
    """Pictures and label maps of a split; the test split comes without labels.

    Args:
        root: folder ``ADEChallengeData2016`` with ``images`` and ``annotations``; for the test
            split with ``images/testing``, or ``testing`` as its own archive has it.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        ArgumentError: if there is no such split.
        DataError: if the root is another folder, or half of a pair is missing.
    """
    check_split(split, _FOLDERS, "ADE20K")
    folder = _FOLDERS[split]
    if split == "test":
        where = folder if (Path(root) / folder).is_dir() else f"images/{folder}"
        base = require_root(root, "ADE20K test", (where,), f"{folder}{os.sep} of release_test.zip")
        pictures = files_of(base / where, (".jpg",), put="the pictures of release_test.zip")
        return [(picture, None) for picture in pictures.values()]
    marks = (f"images/{folder}", f"annotations/{folder}")
    base = require_root(root, "ADE20K", marks, f"images{os.sep} and annotations{os.sep}")
    pictures = files_of(base / "images" / folder, (".jpg",), put=f"the pictures of {_ARCHIVE}")
    maps = files_of(base / "annotations" / folder, (".png",), put=f"the label maps of {_ARCHIVE}")
    return match(pictures, maps)
