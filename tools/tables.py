"""What the scripts that write tables share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torchseg_zoo.files import atomic_write

__all__ = ["replaced", "rewrite", "table", "write"]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def replaced(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between ``<!-- name: … -->`` and ``<!-- /name -->``."""
    start = re.search(rf"<!-- {name}:[^>]*-->\n", text)
    end = text.find(f"<!-- /{name} -->")
    if start is None or end < start.end():
        raise SystemExit(f"the page has no markers for {name}")
    return f"{text[: start.end()]}\n{content}\n{text[end:]}"


def rewrite(path: Path, name: str, content: str) -> None:
    """Puts ``content`` between a page's markers."""
    write(path, replaced(path.read_text(encoding="utf-8"), name, content))


def write(path: Path, text: str) -> None:
    """Writes a page, whole or not at all."""
    atomic_write(path, lambda file: file.write(text.encode()))
