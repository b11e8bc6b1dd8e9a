"""``torchseg-zoo predict``: label pictures."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

from torchseg_zoo.cli._options import add_model, open_model
from torchseg_zoo.cli._video import add_video, run_video
from torchseg_zoo.files import printable

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "predict",
        help="label pictures or a video",
        description="Labels pictures and writes an overlay for each. Exit code 3 when some of "
        "several pictures could not be labelled; the others are.",
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="IMAGE", help="picture, folder of pictures, or 'glob'"
    )
    parser.add_argument(
        "--list", metavar="FILE",
        help="label the pictures that a list names, one in a line; labels beside them are ignored",
    )  # fmt: skip
    parser.add_argument(
        "--root", metavar="DIR", help="where paths in --list start from (default: its folder)"
    )
    add_model(parser)
    parser.add_argument(
        "-o", "--out", default=".", metavar="OUT",
        help="folder for the results, or a .png file for a single picture (default: here)",
    )  # fmt: skip
    parser.add_argument("--labels", action="store_true", help="also write class indices as PNG")
    parser.add_argument("--confidence", action="store_true", help="also write confidence as PNG")
    parser.add_argument(
        "--confidence-kind", choices=("probability", "margin", "entropy"), default="probability",
        help="what it says: the chosen class's probability, its margin over the runner-up, or "
        "entropy; white is certain (default: probability)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON line per picture")
    parser.add_argument(
        "--shard", type=parse_shard, metavar="I/N",
        help="label only every N-th picture from the I-th on (1/N to N/N, each on a machine)",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true",
        help="leave out what OUT's record says is done; what failed is tried again",
    )  # fmt: skip
    add_video(parser)
    parser.set_defaults(run=partial(_run, parser))


def parse_shard(text: str) -> tuple[int, int]:
    """``3/64`` → (3, 64)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shard; give 1/N to N/N, such as 3/64")
    return int(index), int(count)


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.video is not None or options.webcam is not None:
        return run_video(parser, options)
    if options.frames is not None:
        parser.error("--frames goes with --video or --webcam")
    if not (options.inputs or options.list):
        parser.error("nothing to label: give pictures, --list FILE, --video FILE or --webcam")

    from torchseg_zoo.data.datasets import read_list
    from torchseg_zoo.inference.batch import predict_files
    from torchseg_zoo.inference.jobs import find_pictures
    from torchseg_zoo.inference.predictor import Predictor

    listed = read_list(options.list, root=options.root) if options.list else []
    pictures = find_pictures([*options.inputs, *(image for image, _ in listed)])
    model = open_model(options)
    # Preparing a model takes longer than a picture does.
    prepare = len(pictures) > 1 or options.confidence_kind != "probability"
    report = predict_files(
        Predictor(model, confidence=options.confidence_kind) if prepare else model,
        pictures,
        options.out,
        labels=options.labels,
        confidence=options.confidence,
        shard=options.shard,
        resume=options.resume,
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
