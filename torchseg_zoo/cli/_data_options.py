"""Options that name labelled data, in the same words for every verb."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchseg_zoo.data.labels import LabelSet
    from torchseg_zoo.data.sample import Dataset
    from torchseg_zoo.export.quantize import Spread

__all__ = [
    "WHAT_DATA_IS",
    "add_calibration",
    "add_data",
    "add_own_files",
    "chosen_calibration",
    "open_data",
]

WHAT_DATA_IS = (
    "list file, folder of a data set, NAME:PATH (cityscapes, voc_aug, ade20k, hf, ...), or drawn"
)
_WHAT_CLASSES_ARE = (
    "file with one class name in a line, in the order of the label values, or what check-data "
    "proposed (default: classes.txt or classes.json beside the data)"
)


def add_data(
    parser: argparse._ActionsContainer, *, required: bool = False, purpose: str = ""
) -> None:
    """``--data``, ``--split``, ``--root`` and ``--classes``; ``open_data`` reads them.

    Args:
        parser: gets the options.
        required: whether the verb is nothing without ``--data``.
        purpose: what the data are for, where that is not the whole verb's purpose.
    """
    parser.add_argument("--data", required=required, help=f"{purpose}{WHAT_DATA_IS}")
    parser.add_argument("--split", default="val", help="train, val (default), test, or others")
    add_own_files(parser)


def add_own_files(parser: argparse._ActionsContainer, *, or_number: bool = False) -> None:
    """``--root`` and ``--classes``, which files of one's own may need.

    Args:
        parser: gets the options.
        or_number: ``--classes`` may be a number as well.
    """
    parser.add_argument("--root", metavar="DIR", help="where paths in a list file start from")
    parser.add_argument(
        "--classes",
        metavar="K|FILE" if or_number else "FILE",
        help=f"number of classes, or a {_WHAT_CLASSES_ARE}" if or_number else _WHAT_CLASSES_ARE,
    )


def open_data(options: argparse.Namespace, labels: LabelSet | None) -> Dataset:
    """The split that the options of ``add_data`` name.

    Args:
        options: of the command line; ``--data`` was given.
        labels: the model's, for files that say nothing of their classes.

    Raises:
        ArgumentError, DataError, MissingExtraError: as ``open_dataset`` and ``read_classes``.
    """
    from torchseg_zoo.data.datasets import open_dataset
    from torchseg_zoo.data.datasets.classes import read_classes

    named = read_classes(options.classes) if options.classes else None
    return open_dataset(options.data, options.split, labels, root=options.root, classes=named)


def add_calibration(parser: argparse._ActionsContainer) -> None:
    """``--calibration`` and what goes with it; ``chosen_calibration`` reads them."""
    parser.add_argument(
        "--calibration", metavar="DATA",
        help="pictures that int8 measures its ranges on: what --data takes, or a folder of "
        "pictures",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-split", default="train", metavar="SPLIT",
        help="of --calibration (default: train)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-pictures", type=int, default=128, metavar="N",
        help="how many of them, evenly spread (default: 128)",
    )  # fmt: skip


def chosen_calibration(options: argparse.Namespace, labels: LabelSet | None) -> Spread | None:
    """The pictures that the options of ``add_calibration`` name; ``None`` if none are.

    Args:
        options: of the command line.
        labels: as for ``open_data``.

    Raises:
        ArgumentError, DataError: if there are no such pictures.
    """
    from torchseg_zoo.data.datasets import open_dataset
    from torchseg_zoo.data.image import list_images
    from torchseg_zoo.errors import DataError
    from torchseg_zoo.export.quantize import CalibrationSet, Spread

    if not options.calibration:
        return None
    pictures: CalibrationSet
    try:
        pictures = list_images(options.calibration)
    except DataError:  # not a folder with pictures in it, so a data set
        pictures = open_dataset(options.calibration, options.calibration_split, labels)
    return Spread(pictures, options.calibration_pictures)
