"""The publication behind a family, as a record."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Paper"]


@dataclass(frozen=True)
class Paper:
    """One publication.

    Args:
        key: BibTeX key.
        title: full title.
        authors: names as "First Last", in order.
        venue: conference or journal with year, e.g. ``"ECCV 2018"``.
        url: where it can be read.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    venue: str
    url: str

    def bibtex(self) -> str:
        """A BibTeX entry."""
        name, _, year = self.venue.rpartition(" ")
        return (
            f"@inproceedings{{{self.key},\n"
            f"  title = {{{{{self.title}}}}},\n"
            f"  author = {{{' and '.join(self.authors)}}},\n"
            f"  booktitle = {{{name}}},\n"
            f"  year = {{{year}}},\n"
            f"  url = {{{self.url}}},\n"
            f"}}"
        )
