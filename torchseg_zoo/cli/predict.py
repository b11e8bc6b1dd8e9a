"""``torchseg-zoo predict``: label pictures."""

from __future__ import annotations

import argparse
import json
import sys

from torchseg_zoo.cli._options import add_model, open_model
from torchseg_zoo.files import printable

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "predict",
        help="label pictures",
        description="Labels pictures and writes an overlay for each. Exit code 3 when some of "
        "several pictures could not be labelled; the others are.",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="IMAGE", help="picture, folder of pictures, or 'glob'"
    )
    add_model(parser)
    parser.add_argument(
        "-o", "--out", default=".", metavar="OUT",
        help="folder for the results, or a .png file for a single picture (default: here)",
    )  # fmt: skip
    parser.add_argument("--labels", action="store_true", help="also write class indices as PNG")
    parser.add_argument("--confidence", action="store_true", help="also write confidence as PNG")
    parser.add_argument("--json", action="store_true", help="print one JSON line per picture")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.inference.batch import find_pictures, predict_files

    pictures = find_pictures(options.inputs)
    report = predict_files(
        open_model(options),
        pictures,
        options.out,
        labels=options.labels,
        confidence=options.confidence,
        progress=len(pictures) > 1 and not options.json,
    )
    for result in report.done:
        if options.json:
            print(json.dumps(result.to_dict()))
        else:
            print(f"{printable(result.source)} -> {', '.join(map(printable, result.files))}")
    for error in report.failed:
        print(f"torchseg-zoo: {type(error).__name__}: {error}", file=sys.stderr)
    if not report.failed:
        return 0
    total = len(report.done) + len(report.failed)
    if total == 1:
        return report.failed[0].exit_code
    print(f"{len(report.failed)} of {total} pictures failed", file=sys.stderr)
    return 3
