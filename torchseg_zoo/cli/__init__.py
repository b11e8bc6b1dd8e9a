"""The command ``torchseg-zoo``. One module per verb: it parses, calls one function, prints."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from torchseg_zoo._version import __version__
from torchseg_zoo.errors import ZooError

__all__ = ["build_parser", "main"]

_VERBS = (
    "list",
    "info",
    "prepare",
    "check_data",
    "predict",
    "predict_large",
    "infer",
    "evaluate",
    "calibrate",
    "export",
    "benchmark",
    "train",
    "weights",
    "demo",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; the process's own by default.

    Returns:
        0; 2 for wrong usage; 3 when a batch had failures; an error class's ``exit_code``; or 130
        after an interruption.
    """
    options = build_parser().parse_args(arguments)
    show_as_before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except ZooError as error:
        print(f"torchseg-zoo: {type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("torchseg-zoo: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = show_as_before


def build_parser() -> argparse.ArgumentParser:
    """The command line's parser, with every verb."""
    parser = argparse.ArgumentParser(
        prog="torchseg-zoo",
        description="Semantic segmentation models: predict, evaluate, train.",
    )
    parser.add_argument("--version", action="version", version=f"torchseg-zoo {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in _VERBS:
        importlib.import_module(f"torchseg_zoo.cli.{verb}").add_parser(verbs)
    return parser


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning for people: what it says, and not which line of ours says it."""
    return f"torchseg-zoo: warning: {message}\n"
