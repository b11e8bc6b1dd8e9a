"""Naming checkpoints on the command line; what several verbs share."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence

from torchseg_zoo.registry import known_model
from torchseg_zoo.weights import manifest, terms
from torchseg_zoo.weights.manifest import Checkpoint

__all__ = ["add_commercial", "named", "only_commercial"]

_WILD = "*?["


def named(names: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints that arguments name, each once, in the order of the arguments.

    Args:
        names: ``model.tag``; ``model`` for all of its checkpoints, which may be none; or wildcards.

    Raises:
        UnknownModelError, UnknownCheckpointError: if one names nothing.
    """
    found: dict[str, Checkpoint] = {}
    for name in names:
        model, dot, tag = name.partition(".")
        if any(mark in name for mark in _WILD):
            entries = _matching(name)
        elif dot:
            known_model(model)
            entries = [manifest.find(model, tag)]
        else:
            known_model(model)
            entries = manifest.list_checkpoints(model)
        found |= {entry.name: entry for entry in entries}
    return list(found.values())


def _matching(pattern: str) -> list[Checkpoint]:
    return [
        entry
        for entry in manifest.list_checkpoints()
        if any(fnmatch.fnmatchcase(name, pattern) for name in (entry.model, *entry.names))
    ]


def add_commercial(parser: argparse.ArgumentParser) -> None:
    """``--commercial-ok``; ``only_commercial`` does it."""
    parser.add_argument(
        "--commercial-ok",
        action="store_true",
        help="only checkpoints whose weights and data set both state a licence that allows "
        "commercial use; what is not stated is not allowed",
    )


def only_commercial(entries: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that may be used commercially; stderr says how that was decided."""
    allowed = [entry for entry in entries if entry.commercial_ok]
    print(
        f"torchseg-zoo: {len(allowed)} of {len(entries)} checkpoints: {terms.HOW_DECIDED}; "
        "this is no legal advice",
        file=sys.stderr,
    )
    return allowed
