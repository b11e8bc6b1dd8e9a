"""``torchseg-zoo prepare``: write the list files of a data set."""

from __future__ import annotations

import argparse

from torchseg_zoo.files import printable

__all__ = ["add_parser"]

# The keys of ``data.prepare.PREPARED``, whose module loads numpy.
_NAMES = ("cityscapes", "voc", "ade20k", "camvid", "folder")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "prepare",
        help="write the list files of a data set",
        description="Pairs the pictures of a data set with their label maps, says what is missing, "
        "and writes train.txt and val.txt (image<TAB>label, relative to the root), test.txt with "
        "pictures alone where there are any, and for VOC with SBD train_aug.txt.",
    )
    parser.add_argument("name", choices=_NAMES, help="the data set; folder for one of your own")
    parser.add_argument("--root", required=True, metavar="DIR", help="where it was unpacked")
    parser.add_argument(
        "-o", "--out", metavar="DIR", help="folder for the lists (default: the root)"
    )
    parser.add_argument(
        "--sbd", metavar="DIR",
        help="folder of SBD, for VOC; its MATLAB masks become PNG in SegmentationClassAug beside "
        "the lists",
    )  # fmt: skip
    parser.add_argument(
        "--val-percent", type=float, default=10, metavar="P",
        help="share for validation of a folder with images and labels but no splits (default: 10)",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace lists that hold something else"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.data.prepare import prepare

    lists = prepare(
        options.name,
        options.root,
        out=options.out,
        sbd=options.sbd,
        val_percent=options.val_percent,
        overwrite=options.overwrite,
    )
    for one in lists:
        what = "pairs" if one.labelled else "pictures without labels"
        state = "" if one.changed else ", unchanged"
        print(f"{printable(one.path)}: {one.samples} {what}{state}")
    return 0
