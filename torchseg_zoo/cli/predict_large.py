"""``torchseg-zoo predict-large``: label a picture that does not fit into memory."""

from __future__ import annotations

import argparse
import sys

from torchseg_zoo.cli._options import add_model, open_model, parse_size
from torchseg_zoo.files import printable

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "predict-large",
        help="label a picture of any size, window by window",
        description="Labels a picture that is too big for memory, a row of windows at a time. TIFF "
        "and .npy files are read and written in parts; others are decoded whole, once. A bound on "
        "the memory needed is printed first.",
    )
    parser.add_argument("image", metavar="IMAGE", help=".tif, .npy or any picture file")
    add_model(parser)
    parser.add_argument(
        "-o", "--out", required=True, metavar="FILE",
        help="file for the class indices: .tif, .npy or .png",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=parse_size, metavar="HxW", help="size of the windows (default: 1024x1024)"
    )
    parser.add_argument(
        "--margin", type=int, metavar="PX",
        help="pixels at a window's inner edges that are not used (default: an eighth of its "
        "shorter side)",
    )  # fmt: skip
    parser.add_argument(
        "--blend", action="store_true", help="let neighbouring windows fade into each other"
    )
    parser.add_argument(
        "--memory-limit", type=int, metavar="MIB", help="refuse to start if more could be needed"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.inference.large import predict_large

    limit = options.memory_limit
    result = predict_large(
        open_model(options),
        options.image,
        options.out,
        window=options.window,
        margin=options.margin,
        blend=options.blend,
        memory_limit_bytes=None if limit is None else limit << 20,
        watch=lambda words: print(words, file=sys.stderr),
    )
    print(f"{printable(options.image)} -> {printable(result.target)}")
    return 0
