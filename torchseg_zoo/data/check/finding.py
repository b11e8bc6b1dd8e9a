"""One kind of problem of a data set, as reports tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["MOST_VALUES", "Finding", "finding"]

_MOST_FILES = 3  # named per finding; the count says how many there are
MOST_VALUES = 8
"""Values or names that one sentence lists."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Args:
        kind: its name: ``"unreadable"``, ``"no_labels"``, ``"size"``, ``"exif"``, ``"colors"``,
            ``"stray"``, ``"binary"``, ``"palette"``, ``"unlabelled"``, ``"unused"``,
            ``"repeated"``, ``"duplicates"`` or ``"remark"``.
        severity: ``"error"`` if training would stop or learn what is wrong, else ``"warning"``.
        split: where it is.
        what: one sentence.
        files: a few of the files, with what is particular to each.
        num_files: how many there are.
        fix: what to do.
    """

    kind: str
    severity: Literal["error", "warning"]
    split: str
    what: str
    files: tuple[str, ...]
    num_files: int
    fix: str


def finding(
    kind: str,
    severity: Literal["error", "warning"],
    split: str,
    what: str,
    files: Sequence[str],
    fix: str,
) -> Finding:
    """A finding that names the first of ``files`` and counts all of them."""
    return Finding(kind, severity, split, what, tuple(files[:_MOST_FILES]), len(files), fix)
