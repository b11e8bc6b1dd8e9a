"""Clearing away what the cache no longer needs, and nothing that a living process works on.

Whether a file is in use is told by the locks that downloads and conversions hold, and, for whole
files, by what the processes of this machine have open or mapped, where the system shows that. (A
mapped file that is removed stays whole for who has it mapped; it is left alone all the same.)
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.cache import Cache, cache_root
from torchseg_zoo.weights.folder import TEMPORARY, Folder, cache_error
from torchseg_zoo.weights.lock import try_flock
from torchseg_zoo.weights.partial import abandoned
from torchseg_zoo.weights.released import (
    conversion_key,
    is_conversion,
    is_embedded,
    native_digest,
    source_digest,
)

__all__ = ["Removable", "prune"]

_FRESH_S = 60.0  # what was touched so recently may be about to be used
_DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Removable:
    """A file that can go.

    Args:
        path: the file.
        size_bytes: its length.
        why: what it is, in words.
    """

    path: Path
    size_bytes: int
    why: str


def prune(
    *,
    downloads: bool = False,
    unused_days: float | None = None,
    dry_run: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Iterator[Removable]:
    """Removes leftovers of interrupted work and files that older versions have converted.

    Pins stay: they are what tells that a source gives another file than before.

    Args:
        downloads: also remove downloaded files whose converted form is here; it alone is read.
        unused_days: also remove files that nobody has read for so many days.
        dry_run: only say what would be removed.
        cache_dir: as for ``fetch``.

    Yields:
        What was removed, or would be.

    Raises:
        CacheError: if the cache cannot be read or written to.
    """
    with Cache(cache_root(cache_dir)) as cache:
        folders = cache.folders()
        for name in ("partial", "locks", "blobs", "stamps", "pins", "terms"):
            if name in folders:
                yield from _leftovers(folders[name], folders.get("locks"), dry_run)
        if "blobs" not in folders:
            return
        why_of = _superfluous(cache, downloads=downloads)
        busy = _busy_names()
        for sha256 in cache.digests():
            status = folders["blobs"].status(sha256)
            if status is None:
                continue
            idle_s = time.time() - max(status.st_atime, status.st_mtime)
            why = why_of.get(sha256, "")
            if not why and unused_days is not None and idle_s > unused_days * _DAY_S:
                why = f"not read for {idle_s / _DAY_S:.0f} days"
            if why and idle_s > _FRESH_S and sha256 not in busy:
                if not dry_run:
                    _remove(cache, sha256, folders)
                yield Removable(folders["blobs"].path / sha256, status.st_size, why)


def _remove(cache: Cache, sha256: str, folders: dict[str, Folder]) -> None:
    for key, pin in list(cache.pins()):
        if pin.sha256 == sha256 and is_conversion(pin.source):
            _unlink(folders["pins"], key)
    for name in ("blobs", "stamps"):
        if name in folders:
            _unlink(folders[name], sha256)


def _unlink(folder: Folder, name: str) -> None:
    try:
        folder.unlink(name)
    except OSError as error:
        raise cache_error(folder.path / name, error, "cannot be removed") from error


def _superfluous(cache: Cache, *, downloads: bool) -> dict[str, str]:
    """Digest → why the file with it is not needed."""
    keys, needed, converted = set(), set(), {}
    for entry in manifest.list_checkpoints():
        if is_embedded(entry):
            continue
        source, native = source_digest(cache, entry), native_digest(cache, entry)
        keys.add(conversion_key(entry, source))
        needed.add(native)
        if native and native != source and cache.has(native):
            converted[source] = f"download of {entry.name}, whose converted form is here"
        else:
            needed.add(source)
    found = {
        pin.sha256: f"{pin.source} by another version or for another entry"
        for key, pin in cache.pins()
        if is_conversion(pin.source) and key not in keys
    }
    if downloads:
        found |= converted
    return {sha256: why for sha256, why in found.items() if sha256 not in needed}


def _leftovers(folder: Folder, locks: Folder | None, dry_run: bool) -> Iterator[Removable]:
    """What interrupted work has left in one folder."""
    # Notes go after the partial files that they are about.
    for name in sorted(folder.names(), key=lambda name: name.endswith(".json")):
        if folder.path.name == "partial":
            gone = _left_partial(folder, name, locks)
        elif folder.path.name == "locks":
            gone = _old(folder, name) and _free(folder, name)
        else:
            gone = name.endswith(TEMPORARY) and _old(folder, name)
        status = folder.status(name) if gone else None
        if status is None:
            continue
        if not dry_run:
            _unlink(folder, name)
        yield Removable(folder.path / name, status.st_size, "left by interrupted work")


def _left_partial(folder: Folder, name: str, locks: Folder | None) -> bool:
    key = name.partition(".")[0]
    if locks is not None and not _free(locks, key):
        return False
    if name.endswith(".part"):
        return abandoned(folder, name)
    if name.endswith(".json"):
        part = f"{name.removesuffix('.json')}.part"
        return folder.status(part) is None or abandoned(folder, part)
    return _old(folder, name)


def _free(locks: Folder, name: str) -> bool:
    """Whether nobody holds this lock."""
    descriptor = locks.open_existing(name, write=True)
    if descriptor is None:
        return True
    try:
        return try_flock(descriptor)
    finally:
        os.close(descriptor)


def _old(folder: Folder, name: str) -> bool:
    status = folder.status(name)
    return status is not None and time.time() - status.st_mtime > _FRESH_S


def _busy_names() -> set[str]:
    """Names of files that processes have open or mapped, as far as this machine shows them."""
    names: set[str] = set()
    for process in _entries(Path("/proc")):
        if not process.name.isdigit():
            continue
        for link in _entries(process / "fd"):
            with suppress(OSError):
                names.add(link.readlink().name)
        with suppress(OSError):
            maps = (process / "maps").read_text(encoding="utf-8", errors="replace")
            names |= {line.rpartition("/")[2] for line in maps.splitlines() if "/" in line}
    return names


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
