"""What the readers of released data sets share: finding the root, pairing files, saying what lacks.

Released archives unpack into trees of their own. A root that is one level off, an archive that was
not unpacked and half a pair are the usual faults; each is answered with what to put where.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torchseg_zoo.data.image import IMAGE_SUFFIXES
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.files import open_regular, printable

__all__ = [
    "Pairs",
    "check_split",
    "files_of",
    "fits",
    "match",
    "read_names",
    "require_root",
    "right_root",
]

Pairs = list[tuple[Path, Path | None]]
"""Picture and label map, or ``None`` for a picture without labels."""

_NEIGHBOURS = 200  # folders looked at, at most, in search of the right root


def fits(root: Path, marks: Sequence[str]) -> bool:
    """Whether a folder has all entries by which a data set is known."""
    return all((root / mark).exists() for mark in marks)


def require_root(root: str | os.PathLike[str], name: str, marks: Sequence[str], put: str) -> Path:
    """The root of a data set, once it looks like one.

    Args:
        root: folder given by the user.
        name: the data set's, for messages.
        marks: entries that the root must have.
        put: what to put where, for the message.

    Raises:
        DataError: if it is no such root; names the right one if it is up to two levels away.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(what, where=printable(root), fix=f"give the folder of {name}, with {put}")
    if fits(root, marks):
        return root
    found = right_root(root, marks)
    if found is not None:
        place, level = found
        raise DataError(
            f"this is {level} for {name}", where=printable(root), fix=f"give {printable(place)}"
        )
    lacking = ", ".join(mark for mark in marks if not (root / mark).exists())
    raise DataError(
        f"not the folder of {name}: there is no {lacking}",
        where=printable(root),
        fix=f"give the folder that holds {put}",
    )


def right_root(root: Path, marks: Sequence[str]) -> tuple[Path, str] | None:
    """The folder up to two levels away that has all marks, and how far off ``root`` is."""
    absolute = root.resolve()
    levels = ("one level", "two levels")
    for above, level in zip(absolute.parents, levels, strict=False):
        if fits(above, marks):
            return above, f"{level} too low"
    folders = [absolute]
    for level in levels:
        folders = [child for folder in folders for child in _folders_of(folder)][:_NEIGHBOURS]
        for child in folders:
            if fits(child, marks):
                return child, f"{level} too high"
    return None


def _folders_of(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())[:_NEIGHBOURS]
    except OSError:  # a neighbour that may not be read is not the root either
        return []


def check_split(split: str, known: Iterable[str], name: str) -> None:
    """Refuses a split that the data set does not have.

    Raises:
        ArgumentError: naming those that it has.
    """
    names = list(known)
    if split not in names:
        raise ArgumentError(f"no split {split!r}", where=name, fix=f"use {' or '.join(names)}")


def files_of(
    folder: Path,
    endings: Sequence[str] = IMAGE_SUFFIXES,
    *,
    depth: int = 0,
    put: str,
    key: Callable[[str], str] | None = None,
) -> dict[str, Path]:
    """Files by what their pair has in common: by default the name without its ending.

    Args:
        folder: where they are.
        endings: what names end in, compared in lower case; cut off.
        depth: 0 for files in the folder itself, 1 for files in its subfolders.
        put: what to put where if there are none.
        key: further cuts a name, whose ending is gone already.

    Raises:
        DataError: if the folder is missing or has no such file, or two share a key.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=printable(folder), fix=f"put {put} there")
    found: dict[str, Path] = {}
    try:
        for path in sorted(folder.glob("*/*" if depth else "*")):
            lower = path.name.lower()
            ending = next((one for one in endings if lower.endswith(one.lower())), None)
            if ending is None or lower.startswith("."):
                continue
            stem = path.name[: -len(ending)]
            stem = key(stem) if key else stem
            if stem in found:
                raise DataError(
                    f"{found[stem].name} is for the same picture",
                    where=printable(path),
                    fix="remove one of the two",
                )
            found[stem] = path
    except OSError as cause:
        raise DataError(
            "cannot be listed", where=printable(folder), why=cause.strerror, fix="check permissions"
        ) from cause
    if not found:
        raise DataError(
            f"no file here ends in {' or '.join(endings)}",
            where=printable(folder),
            fix=f"put {put} there",
        )
    return found


def match(pictures: Mapping[str, Path], maps: Mapping[str, Path], *, extra: bool = False) -> Pairs:
    """Pairs pictures and label maps by their keys, in the order of the pictures.

    Args:
        pictures: see ``files_of``.
        maps: see ``files_of``.
        extra: whether there may be label maps without pictures.

    Raises:
        DataError: if a picture has no label map, or a label map no picture.
    """
    lonely = [path for name, path in pictures.items() if name not in maps]
    if lonely:
        raise _halves(lonely, len(pictures), "pictures", "label map")
    lonely = [path for name, path in maps.items() if name not in pictures]
    if lonely and not extra:
        raise _halves(lonely, len(maps), "label maps", "picture")
    return [(path, maps[name]) for name, path in pictures.items()]


def _halves(lonely: Sequence[Path], total: int, these: str, other: str) -> DataError:
    return DataError(
        f"{len(lonely)} of {total} {these} have no {other}, the first is {lonely[0].name}",
        where=printable(lonely[0].parent),
        fix="unpack both archives whole into the same root, or remove what has no partner",
    )


def read_names(path: Path, *, put: str) -> list[str]:
    """The names in an image set file, one in a line; what follows a blank is left out.

    Raises:
        DataError: if the file is missing, is not text, is empty or names something twice.
    """
    try:
        with open_regular(path) as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeError as cause:
        raise DataError(
            "the image set is not text", where=printable(path), fix=f"put {put} there again"
        ) from cause
    except DataError as cause:
        if path.exists():
            raise
        raise DataError("no such file", where=printable(path), fix=f"put {put} there") from cause
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError("the image set is empty", where=printable(path), fix=f"put {put} there")
    known = set()
    for name in names:
        if name in known or "/" in name or "\0" in name:
            what = "is there twice" if name in known else "is no picture's name"
            raise DataError(f"{name} {what}", where=printable(path), fix=f"put {put} there again")
        known.add(name)
    return names
