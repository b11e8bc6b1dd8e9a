"""``torchseg-zoo weights info``: all that is known of a checkpoint, in words."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from torchseg_zoo.cli._checkpoints import named
from torchseg_zoo.cli.weights_list import size_text
from torchseg_zoo.weights import manifest, terms
from torchseg_zoo.weights.manifest import Checkpoint

if TYPE_CHECKING:
    from torchseg_zoo.weights.cache import Cache

__all__ = ["add_parsers"]

_WIDTH = 100
_INDENT = 15


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``info``."""
    parser = verbs.add_parser(
        "info",
        help="all that is known of a checkpoint: terms, file, preprocessing, scores",
        description="Describes checkpoints in words, and what of them is in the local cache. "
        "Nothing is fetched.",
    )
    parser.add_argument("names", nargs="+", metavar="MODEL[.TAG]", help="wildcards in quotes")
    parser.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    from torchseg_zoo.weights.cache import Cache, cache_root

    entries = named(options.names)
    with Cache(cache_root()) as cache:
        for number, entry in enumerate(entries):
            if number:
                print()
            for name, text in _facts(entry, cache):
                _print(name, text)
    absent = [one for one in manifest.unreleased() if one.model in options.names]
    for one in absent:
        _print("not to be had", f"{one.model}.{one.tag}: {one.why}. To do: {one.fix}")
    if not entries and not absent:
        print(f"{' '.join(options.names)}: no checkpoint is released; build it and train it")
    return 0


def _facts(entry: Checkpoint, cache: Cache) -> list[tuple[str, str]]:
    """Name and text of each line."""
    facts = [
        ("checkpoint", entry.name),
        ("also called", ", ".join(entry.names[1:])),
        ("status", f"{entry.status}: {terms.STATUS_MEANINGS[entry.status]}"),
        ("origin", entry.origin),
        ("trained on", entry.train_set),
        ("hard pixels", "selected in training (OHEM)" if entry.ohem else ""),
        ("classes", f"{entry.labels.num_classes} ({entry.labels.name})"),
        *(
            ("licence", f"of the {what}: {entry.licenses.get(part) or 'not stated'}")
            for part, what in terms.PARTS.items()
        ),
        ("use", _verdict(entry)),
        ("preprocessing", _preprocessing(entry)),
        ("file", f"{entry.layout} layout; size {size_text(entry.size_bytes)}"),
        ("sha256", _digest(entry)),
        *(("source", source.url or "in the package") for source in entry.sources),
        ("here", _here(entry, cache)),
    ]
    for metric in entry.metrics:
        score = f"{metric.miou_percent:.2f} % mIoU on {metric.dataset} {metric.split}, "
        score += ", ".join(text for text in (metric.mode, metric.protocol) if text)
        if "miou_percent" in metric.paper:
            score += f"; the paper has {metric.paper['miou_percent']:.2f}"
        facts.append(("score", f"{score} ({metric.source})" if metric.source else score))
    return [*facts, ("note", entry.note)]


def _verdict(entry: Checkpoint) -> str:
    obstacles = terms.commercial_obstacles(entry)
    if not obstacles:
        return f"commercial use is allowed by the stated terms ({terms.HOW_DECIDED})"
    parts = " and ".join(obstacle.partition(":")[0] for obstacle in obstacles)
    why = f"the terms of the {parts} do not state a licence that allows commercial use"
    if terms.use(entry) == "non-commercial":
        return f"non-commercial: {why}"
    return f"not stated: {why}; ask the owners"


def _preprocessing(entry: Checkpoint) -> str:
    text = entry.preprocess.describe()
    doubtful = [name.partition(".")[2] for name in entry.unverified if "preprocess." in name]
    if not doubtful:
        return text
    return f"{text}; unverified: {', '.join(doubtful)}, which nobody published"


def _digest(entry: Checkpoint) -> str:
    return {
        "full": entry.sha256,
        "prefix": f"{entry.sha256}…, all that is published; the rest is pinned at the first fetch",
        "none": "not published; that of the first fetch is pinned",
    }[terms.hash_kind(entry)]


def _here(entry: Checkpoint, cache: Cache) -> str:
    from torchseg_zoo.files import printable
    from torchseg_zoo.weights.released import is_embedded, native_digest, source_digest

    if is_embedded(entry):
        return "comes with the package"
    found = [
        f"{what} {printable(cache.root / 'blobs' / sha256)}"
        for what, sha256 in {
            "downloaded:": source_digest(cache, entry),
            "converted:": native_digest(cache, entry) if entry.layout != "native" else "",
        }.items()
        if sha256 and cache.has(sha256)
    ]
    return "; ".join(found) or f"no; torchseg-zoo weights fetch {entry.name} gets it"


def _print(name: str, text: str) -> None:
    if text:
        line = f"{name:<{_INDENT}}{text}"
        print(
            textwrap.fill(
                line,
                _WIDTH,
                subsequent_indent=" " * _INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
