"""A look into a cache of checkpoints, past the package's own code."""

from __future__ import annotations

import os
import time
from pathlib import Path


def blobs(cache: Path) -> set[str]:
    """Digests that whole files are kept under."""
    return {path.name for path in (cache / "blobs").iterdir()}


def leftovers(cache: Path) -> list[str]:
    """What a download that is over should have left nothing of."""
    places = ("partial", "locks")
    return [p.name for name in places if (cache / name).exists() for p in (cache / name).iterdir()]


def age(path: Path, seconds: float = 3600) -> None:
    """Makes a file one that was last read and written so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
