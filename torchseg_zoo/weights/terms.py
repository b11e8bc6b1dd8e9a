"""What may be done with a checkpoint, and what is known of its file, in the words of a listing.

A checkpoint has three licences: of the repository it comes from, of the weights and of the data set
it was trained on. The first covers code, which this package does not use. The verdict is taken from
the other two and leans to the safe side: what nobody states is not allowed.
"""

from __future__ import annotations

import re

from torchseg_zoo.weights.manifest import PERMISSIVE, Checkpoint

__all__ = [
    "HOW_DECIDED",
    "PARTS",
    "STATUS_MEANINGS",
    "commercial_obstacles",
    "hash_kind",
    "preprocessing_known",
    "said",
    "use",
]

# Key in the manifest → what it is the licence of.
PARTS = {"code": "repository", "weights": "weights", "dataset": "data set"}

STATUS_MEANINGS = {
    "listed": "known from a public index, never opened by this project",
    "loaded": "converted from the real file",
    "scored": "its score was measured with this package",
}

HOW_DECIDED = (
    "commercial use counts as allowed only where the licences of both weights and data set are "
    f"stated and are one of {', '.join(PERMISSIVE)}; a repository's licence covers its code only"
)

_RESEARCH_ONLY = re.compile(
    r"non-?commercial|(research|academic|education\w*)( use)? only|\bnc\b", re.IGNORECASE
)


def commercial_obstacles(entry: Checkpoint) -> list[str]:
    """What stands against commercial use, each with its terms; empty if it is allowed."""
    return [
        f"{PARTS[part]}: {terms}"
        for part in ("weights", "dataset")
        if (terms := entry.licenses.get(part) or "not stated") not in PERMISSIVE
    ]


def said(entry: Checkpoint) -> str:
    """The three licences in a line."""
    parts = ("weights", "code", "dataset")
    return "; ".join(f"{part}: {entry.licenses.get(part) or 'not stated'}" for part in parts)


def use(entry: Checkpoint) -> str:
    """The verdict in a word or two.

    Returns:
        ``commercial``; ``non-commercial`` where a term says so; ``not stated`` where the terms are
        silent or unclear, so that only the owners can tell.
    """
    obstacles = commercial_obstacles(entry)
    if not obstacles:
        return "commercial"
    said = any(_RESEARCH_ONLY.search(obstacle) for obstacle in obstacles)
    return "non-commercial" if said else "not stated"


def hash_kind(entry: Checkpoint) -> str:
    """What is published of the file's sha256: ``full``, ``prefix`` (8 digits) or ``none``."""
    return {64: "full", 8: "prefix"}.get(len(entry.sha256), "none")


def preprocessing_known(entry: Checkpoint) -> bool:
    """Whether every number of the preprocessing was read off a published source."""
    return not any(name.startswith("preprocess.") for name in entry.unverified)
