"""Folders of results, as many as the disk space they are allowed; the oldest go first."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FILES", "Kept", "Pixel", "Result", "Results"]

FILES = {
    "photo": "photo.jpg",
    "overlay": "overlay.jpg",
    "confidence": "confidence.jpg",
    "labels": "labels.png",
}
"""Names of the result files."""

_LIMIT_BYTES = 1 << 30


@dataclass(frozen=True)
class Result:
    """What is known of a picture that was labelled, beside its files.

    Args:
        height, width: of the picture as displayed.
        classes: names of all classes.
        colors: (red, green, blue) of each.
        shares: class index → share of the pixels in 0..1; largest first.
        mean_confidence: in 0..1.
        seconds: from the file to the last result file.
        loading_seconds: that the model took to load before; 0 if it was there.
    """

    height: int
    width: int
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    shares: tuple[tuple[int, float], ...]
    mean_confidence: float
    seconds: float
    loading_seconds: float


@dataclass(frozen=True)
class Pixel:
    """What a model says of one pixel.

    Args:
        x, y: column and row.
        classes: (index, probability in 0..1), the most probable first.
    """

    x: int
    y: int
    classes: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Kept:
    """A result and where its files are."""

    folder: Path
    result: Result

    def file(self, kind: str) -> Path:
        """One of ``FILES``."""
        return self.folder / FILES[kind]


class Results:
    """The results of all users.

    Args:
        root: folder for them; created.
        limit_bytes: of all together; the newest one is kept in any case.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.root, self._limit_bytes = root, limit_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._guard = threading.Lock()
        root.mkdir(parents=True)

    def new_folder(self) -> Path:
        """An empty folder, whose name nobody can guess."""
        folder = self.root / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def keep(self, folder: Path, result: Result) -> Kept:
        """Counts a folder in, and removes the oldest ones beyond the limit."""
        size = sum(file.stat().st_size for file in folder.iterdir())
        with self._guard:
            self._sizes[folder.name] = size
            while len(self._sizes) > 1 and sum(self._sizes.values()) > self._limit_bytes:
                self.drop(self.root / self._sizes.popitem(last=False)[0])
        return Kept(folder, result)

    def drop(self, folder: Path) -> None:
        """Removes a folder that was not kept."""
        shutil.rmtree(folder, ignore_errors=True)
