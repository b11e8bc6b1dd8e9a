"""The command ``torchseg-zoo``. One module per verb: it parses, calls one function, prints."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from torchseg_zoo._version import __version__
from torchseg_zoo.errors import MissingExtraError, ZooError

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


# Dependencies that a box which only runs exported files does without.
_WITH_TORCH = ("huggingface_hub", "safetensors", "timm", "torch", "torchvision", "tqdm")


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
        return _refuse(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _WITH_TORCH:
            raise
        return _refuse(_without_torch(str(error.name)))
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("torchseg-zoo: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = show_as_before


def _refuse(error: ZooError) -> int:
    print(f"torchseg-zoo: {type(error).__name__}: {error}", file=sys.stderr)
    return error.exit_code


def _without_torch(name: str) -> ZooError:
    return MissingExtraError(
        f"this command needs {name}, which is not installed",
        fix="install torchseg-zoo with its dependencies; without torch there is `torchseg-zoo "
        "infer FOLDER --onnx FILE`, for exported models",
    )


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
