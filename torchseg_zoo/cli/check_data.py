"""``torchseg-zoo check-data``: what is wrong with a data set."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from torchseg_zoo.cli._data_options import WHAT_DATA_IS, add_own_files
from torchseg_zoo.files import printable

if TYPE_CHECKING:
    from torchseg_zoo.data.labels import LabelSet
    from torchseg_zoo.data.sample import Dataset

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "check-data",
        help="say what is wrong with pictures and label maps",
        description="Reads every picture and label map once and reports values that stand for no "
        "class, painted label maps, sizes and EXIF orientations that do not agree, files that "
        "cannot be read, pictures that are in two splits, and classes that never occur; proposes "
        "a mapping for values or colours, and class weights. Ends with 0 if nothing was found, 1 "
        "after warnings, 18 if training would fail or learn what is wrong.",
    )
    parser.add_argument("--data", required=True, help=WHAT_DATA_IS)
    parser.add_argument(
        "--val-data", metavar="DATA",
        help="the same for validation (default: the split val of --data)",
    )  # fmt: skip
    add_own_files(parser, or_number=True)
    parser.add_argument(
        "-o", "--out", metavar="DIR",
        help="folder for report.txt, report.json and a proposed classes.json, which --classes "
        "takes",
    )  # fmt: skip
    parser.add_argument("--save-json", metavar="FILE", help="write the report there, as JSON")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processes that read (default: one per core)",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import json

    from torchseg_zoo.cli._scoring import require_json
    from torchseg_zoo.data.check import check_data
    from torchseg_zoo.files import atomic_write

    require_json(options.save_json)
    show = _bar if sys.stderr.isatty() else None
    report = check_data(_splits(options), workers=options.workers, watch=show)
    print(report.text(), end="")
    if options.save_json:
        content = (json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()
        atomic_write(options.save_json, lambda stream: stream.write(content))
    if options.out:
        for path in report.save(options.out):
            print(f"wrote {printable(path)}")
    elif report.proposal:
        print("write the proposed mapping with -o DIR")
    return report.exit_code


def _splits(options: argparse.Namespace) -> dict[str, Dataset]:
    """The training split, and the validation split where there is one."""
    from torchseg_zoo.data.datasets import is_list, open_dataset
    from torchseg_zoo.errors import ArgumentError, DataError

    numbered, named = _classes(options.classes)

    def opened(spec: str, split: str) -> Dataset:
        dataset = open_dataset(spec, split, numbered, root=options.root, classes=named)
        if numbered is not None and dataset.labels.num_classes != numbered.num_classes:
            raise ArgumentError(
                f"--classes is {numbered.num_classes}, but this data names "
                f"{dataset.labels.num_classes} classes ({dataset.labels.name})",
                where=spec,
                fix="leave --classes out, or correct one of the two",
            )
        return dataset

    splits = {"train": opened(options.data, "train")}
    if options.val_data:
        splits["val"] = opened(options.val_data, "val")
    elif not is_list(options.data):
        try:
            splits["val"] = opened(options.data, "val")
        except DataError as error:
            print(f"torchseg-zoo: warning: no validation split: {error}", file=sys.stderr)
    return splits


def _classes(text: str | None) -> tuple[LabelSet | None, LabelSet | None]:
    """``--classes`` as so many classes without names, or as a file's."""
    from torchseg_zoo.data.datasets.classes import read_classes
    from torchseg_zoo.data.labels import generic_labels
    from torchseg_zoo.errors import ArgumentError

    if text is None:
        return None, None
    if not text.isdecimal():
        return None, read_classes(text)
    if not 1 <= int(text) <= 255:
        raise ArgumentError(f"{text} classes", where="--classes", fix="give 1 to 255, or a file")
    return generic_labels(int(text)), None


def _bar(done: int, whole: int) -> None:
    end = "\r" if done < whole else "\n"
    print(f"{done}/{whole} samples", end=end, file=sys.stderr, flush=True)
