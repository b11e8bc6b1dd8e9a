"""Naming checkpoints on the command line; what several verbs share."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Callable, Sequence

from torchseg_zoo.errors import ArgumentError, UnknownCheckpointError, ZooError
from torchseg_zoo.registry import known_model
from torchseg_zoo.weights import manifest, terms
from torchseg_zoo.weights.manifest import Checkpoint

__all__ = ["add_commercial", "add_names", "chosen", "each", "named", "only_commercial"]

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


def add_names(parser: argparse.ArgumentParser, *, all_of_them: bool) -> None:
    """``MODEL[.TAG] …``, and ``--all`` if that must be said; ``chosen`` reads them."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="MODEL[.TAG]",
        help="one checkpoint, all of a model, or wildcards in quotes"
        + ("" if all_of_them else "; everything that is here by default"),
    )
    if all_of_them:
        parser.add_argument("--all", action="store_true", help="every released checkpoint")


def chosen(options: argparse.Namespace) -> list[Checkpoint]:
    """The checkpoints that the arguments of ``add_names`` name.

    Raises:
        UnknownModelError, UnknownCheckpointError: as ``named``, or for a model without any.
        ArgumentError: if neither names nor ``--all`` are given, or both.
    """
    if bool(options.names) == options.all:
        raise ArgumentError(
            "give either names or --all", where="MODEL[.TAG]", fix="see: torchseg-zoo weights list"
        )
    entries = named(options.names or ["*"])
    if not entries:
        raise UnknownCheckpointError(
            "no released checkpoint has such a name",
            where=" ".join(options.names),
            fix="see: torchseg-zoo weights list",
        )
    return entries


def each(entries: Sequence[Checkpoint], work: Callable[[Checkpoint], None]) -> int:
    """Works on one after the other; those that fail are named, and the rest goes on.

    Returns:
        0, or 3 if some failed.

    Raises:
        ZooError: the failure, if there is one checkpoint only.
    """
    failed = 0
    for entry in entries:
        try:
            work(entry)
        except ZooError as error:
            if len(entries) == 1:
                raise
            failed += 1
            kind = type(error).__name__
            print(f"torchseg-zoo: {entry.name}: {kind}: {error}", file=sys.stderr, flush=True)
    if failed:
        print(f"torchseg-zoo: {failed} of {len(entries)} checkpoints failed", file=sys.stderr)
    return 3 if failed else 0


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
