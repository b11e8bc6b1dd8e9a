"""The code blocks, links and headings of Markdown pages."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
)

_FENCE = re.compile(
    r"(?:^<!-- not run(?P<reason>(?:(?!-->).)*)-->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FOLDER = re.compile(r"<!-- folder: (.*?) -->")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_INK = re.compile(r"[^\n]")
_HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """One line of a shell, with what it printed where the page shows that."""

    words: tuple[str, ...]
    output: str | None = None


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: path from the root.
        line: of its first line, from 1.
        section: the heading above it, as links name it.
        language: ``python``, ``console``, ``sh`` (also where nothing is said), or what is no code.
        text: as it stands.
        not_run: why it cannot be run; ``None`` if it is to be run.
    """

    page: str
    line: int
    section: str
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[Command]:
        """The commands of a shell's block; those of ``a && b`` are two."""
        text = self.text.replace("\\\n", " ")
        if self.language != "console":
            return [Command(words) for line in text.splitlines() for words in _divided(line)]
        found = []
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found += [Command(words, output) for words in _divided(line)]
        return found


def _divided(line: str) -> list[tuple[str, ...]]:
    words = shlex.split(line, comments=True)
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [tuple(one) for one in found if one]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    """A page's fenced blocks, from the top."""
    text = text_of(page)
    blank = _FENCE.sub(lambda fence: _INK.sub(" ", fence[0]), text)  # comments are no headings
    headings = [(match.start(), _slug(match[1])) for match in _HEADING.finditer(blank)]
    found = []
    for match in _FENCE.finditer(text):
        above = [slug for start, slug in headings if start < match.start()]
        reason = match["reason"]
        found.append(
            Block(
                page,
                text.count("\n", 0, match.start("text")) + 1,
                above[-1] if above else "",
                match["language"] or "sh",
                match["text"],
                None if reason is None else reason.lstrip(":").strip(),
            )
        )
    return found


def folder_of(page: str) -> list[str]:
    """What the page says is in the folder where its commands are given."""
    return [name for names in _FOLDER.findall(text_of(page)) for name in names.split()]


def markers_of(page: str) -> int:
    """How many blocks the page says are not run."""
    return text_of(page).count("<!-- not run")


def prose_of(page: str) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", text_of(page))


def links_of(page: str) -> list[str]:
    """Targets of links and pictures that lead to no other machine."""
    prose = re.sub(r"`[^`\n]*`", "", prose_of(page))
    return [link for link in _LINK.findall(prose) if "://" not in link and "mailto:" not in link]


def anchors_of(path: Path) -> set[str]:
    """What a heading of the page may be called in a link."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return {_slug(heading) for heading in _HEADING.findall(text)}


def _slug(heading: str) -> str:
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")
