"""``torchseg-zoo weights list``: what is released, and what may be used for what."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from typing import Any

from torchseg_zoo.cli._checkpoints import add_commercial, named, only_commercial
from torchseg_zoo.weights import terms
from torchseg_zoo.weights.manifest import STATUSES, Checkpoint

__all__ = ["add_parsers", "record", "show", "size_text"]

_HEAD = (
    "name",
    "status",
    "use",
    "size",
    "sha256",
    "preprocess",
    "mIoU",
    "repository",
    "weights",
    "data set",
)
_LONGEST = 40  # characters of the weights' licence in a table

_LEGEND = {
    "status": "; ".join(f"{name}: {what}" for name, what in terms.STATUS_MEANINGS.items()),
    "use": f"{terms.HOW_DECIDED}. non-commercial: a term says so; not stated: ask the owners first",
    "sha256": "what is published of the file's digest: full, prefix (8 digits), or none (then that "
    "of the first download is pinned)",
    "preprocess": "unverified: not all of its numbers are published",
    "repository": "this and the next two: the licences; `weights info` has them in full",
}


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``list``."""
    parser = verbs.add_parser(
        "list",
        help="checkpoints with status, licences, size, digest, preprocessing and score",
        description=f"Lists released checkpoints. With --commercial-ok: {terms.HOW_DECIDED}.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="MODEL[.TAG]", help="these only; wildcards, e.g. 'pspnet*'"
    )
    parser.add_argument("--family", metavar="NAME", help="e.g. bisenet: all models of that name")
    parser.add_argument("--dataset", metavar="NAME", help="e.g. cityscapes")
    parser.add_argument("--status", choices=STATUSES, help="e.g. scored")
    add_commercial(parser)
    parser.add_argument("--json", action="store_true", help="one JSON record a line, all fields")
    parser.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> int:
    entries = named(options.names or ["*"])
    for key, wanted in (("family", options.family), ("dataset", options.dataset)):
        if wanted:
            entries = _those(entries, key, wanted)
    if options.status:
        entries = [entry for entry in entries if entry.status == options.status]
    if options.commercial_ok:
        entries = only_commercial(entries)
    if options.json:
        for entry in entries:
            print(json.dumps(record(entry), ensure_ascii=False))
    else:
        show(entries)
    return 0


def show(entries: Sequence[Checkpoint]) -> None:
    """Prints a table with a head, a checkpoint a line, and what its columns mean."""
    if not entries:
        return
    rows = [_HEAD, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print()
    for column, meaning in _LEGEND.items():
        print(textwrap.fill(f"{column:<12}{meaning}", 100, subsequent_indent=" " * 12))


def _those(entries: list[Checkpoint], key: str, wanted: str) -> list[Checkpoint]:
    """Entries of a family or data set; one that does not exist is an error, not an empty list."""
    from torchseg_zoo.errors import ArgumentError

    known = sorted({_key(entry, key) for entry in named(["*"])})
    if wanted not in known:
        raise ArgumentError(
            f"there is no {wanted!r}", where=f"--{key}", fix=f"choose one of {', '.join(known)}"
        )
    return [entry for entry in entries if _key(entry, key) == wanted]


def _key(entry: Checkpoint, key: str) -> str:
    return entry.dataset if key == "dataset" else entry.model.partition("_")[0]


def _row(entry: Checkpoint) -> tuple[str, ...]:
    score = entry.metric()
    return (
        entry.name,
        entry.status,
        terms.use(entry),
        size_text(entry.size_bytes),
        terms.hash_kind(entry),
        "known" if terms.preprocessing_known(entry) else "unverified",
        f"{score.miou_percent:.2f}" if score else "-",
        entry.licenses.get("code", "not stated"),
        textwrap.shorten(entry.licenses.get("weights", "not stated"), _LONGEST, placeholder=" …"),
        entry.licenses.get("dataset", "not stated"),
    )


def size_text(size_bytes: int | None) -> str:
    """Megabytes, or that the size is not published."""
    return "unknown" if size_bytes is None else f"{size_bytes / 1e6:.1f} MB"


def record(entry: Checkpoint) -> dict[str, Any]:
    """All that a script may want to know of an entry, JSON-able."""
    return {
        "name": entry.name,
        "aliases": list(entry.names[1:]),
        "model": entry.model,
        "dataset": entry.dataset,
        "status": entry.status,
        "use": terms.use(entry),
        "commercial_ok": entry.commercial_ok,
        "licenses": {part: entry.licenses.get(part, "not stated") for part in terms.PARTS},
        "size_bytes": entry.size_bytes,
        "sha256": entry.sha256,
        "hash_kind": terms.hash_kind(entry),
        "preprocessing_known": terms.preprocessing_known(entry),
        "unverified": list(entry.unverified),
        "sources": [source.url or source.location for source in entry.sources],
        "layout": entry.layout,
        "metrics": [
            {
                "dataset": metric.dataset,
                "split": metric.split,
                "mode": metric.mode,
                "miou_percent": metric.miou_percent,
                "protocol": metric.protocol,
                "source": metric.source,
            }
            for metric in entry.metrics
        ],
        "origin": entry.origin,
        "note": entry.note,
    }
