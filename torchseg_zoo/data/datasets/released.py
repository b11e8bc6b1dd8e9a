"""The released data sets by name: their label sets, and how their trees become pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torchseg_zoo.data.datasets import ade20k, cityscapes, coco_stuff, voc
from torchseg_zoo.data.datasets._layout import Pairs, fits, right_root
from torchseg_zoo.data.datasets.files import FileDataset, list_file
from torchseg_zoo.data.label_sets import LABEL_SETS

__all__ = ["RELEASED", "Released", "open_released", "recognised"]


@dataclass(frozen=True)
class Released:
    """How a released data set is read.

    Args:
        labels: name of its label set.
        marks: entries by which its root is known.
        pairs: (root, split) → files.
    """

    labels: str
    marks: tuple[str, ...]
    pairs: Callable[[Path, str], Pairs]


def _voc_aug(root: Path, split: str) -> Pairs:
    return voc.pairs(root, "train_aug" if split == "train" else split)


# Of entries with the same marks, the first is what a folder is taken for.
RELEASED: dict[str, Released] = {
    "cityscapes": Released("cityscapes", (*cityscapes.MARKS, "gtFine"), cityscapes.pairs),
    "cityscapes_coarse": Released(
        "cityscapes", (*cityscapes.MARKS, "gtCoarse"), partial(cityscapes.pairs, coarse=True)
    ),
    "voc": Released("voc", voc.MARKS, voc.pairs),
    "voc_aug": Released("voc", voc.MARKS, _voc_aug),
    "ade20k": Released("ade20k", ade20k.MARKS, ade20k.pairs),
    "coco_stuff10k": Released("coco_stuff10k", coco_stuff.MARKS_10K, coco_stuff.pairs_10k),
    "coco_stuff164k": Released("coco_stuff164k", coco_stuff.MARKS_164K, coco_stuff.pairs_164k),
}


def recognised(root: Path) -> str | None:
    """The released data set that a folder holds, by its marks; ``None`` for any other folder."""
    return next((name for name, one in RELEASED.items() if fits(root, one.marks)), None)


def open_released(
    name: str, path: str | Path, split: str, *, root: str | Path | None = None
) -> FileDataset:
    """Opens a released data set.

    Args:
        name: one of ``RELEASED``.
        path: its root; a root with a list ``<split>.txt`` instead of the released tree; or a list.
        split: see the data set.
        root: where paths inside a list start; the list's own folder by default.

    Raises:
        ArgumentError: if there is no such split.
        DataError: if the root is another folder, or something is missing.
    """
    released, path = RELEASED[name], Path(path)
    labels = LABEL_SETS[released.labels]
    listing = path / f"{split}.txt"
    if listing.is_file() and not fits(path, released.marks):
        # Trees hold files of these names, too: a root that is off is not for a folder of lists.
        path = path if right_root(path, released.marks) else listing
    if path.is_file():
        return list_file(path, labels, root=root)
    files = released.pairs(path, split)
    return FileDataset(files, cityscapes.as_stored(labels, files, path))
