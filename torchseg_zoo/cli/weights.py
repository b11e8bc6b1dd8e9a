"""``torchseg-zoo weights``: released checkpoints. Its verbs are in ``weights_*``, by subject."""

from __future__ import annotations

import argparse
import importlib

__all__ = ["add_parser"]

_GROUPS = ("list", "info", "fetch", "cache", "publish")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb with its own verbs."""
    parser = verbs.add_parser(
        "weights",
        help="list, fetch, check, import, mirror and clear away released checkpoints",
        description="Released checkpoints: what there is, under which terms, and the local cache. "
        "MODEL.TAG names one checkpoint, MODEL all of a model; wildcards work, in quotes.",
    )
    inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in _GROUPS:
        importlib.import_module(f"torchseg_zoo.cli.weights_{group}").add_parsers(inner)
