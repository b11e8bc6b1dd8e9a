"""Checking what is here: every file of the cache is hashed anew, whatever its stamp says."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchseg_zoo.errors import CacheError
from torchseg_zoo.files import sha256_of
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.cache import Cache, cache_root
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.released import is_embedded, native_digest, source_digest

__all__ = ["Checked", "verify"]


@dataclass(frozen=True)
class Checked:
    """What one file turned out to be.

    Args:
        path: the file.
        name: ``model.tag``, or where it came from if no checkpoint is known to be in it.
        kind: ``download``, ``converted`` or ``embedded``.
        size_bytes: its length.
        damage: what is wrong with it, in words; "" if it is whole.
        fix: what to do about that.
    """

    path: Path
    name: str
    kind: str
    size_bytes: int
    damage: str = ""
    fix: str = ""


def verify(
    checkpoints: Sequence[Checkpoint] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Iterator[Checked]:
    """Hashes the cached files of checkpoints, downloaded and converted, and those of the package.

    A damaged file is never used again: its stamp, which lets look-ups skip the hashing, is removed,
    so that the next use fetches or converts it anew.

    Args:
        checkpoints: only theirs; ``None`` for everything the cache holds.
        cache_dir: as for ``fetch``.

    Raises:
        CacheError: if the cache cannot be read.
    """
    entries = manifest.list_checkpoints() if checkpoints is None else checkpoints
    yield from (_check_embedded(entry) for entry in entries if is_embedded(entry))
    with Cache(cache_root(cache_dir)) as cache:
        known = _digests(cache, entries)
        held = cache.digests()
        wanted = held if checkpoints is None else [sha256 for sha256 in held if sha256 in known]
        for sha256 in wanted:
            name, kind = known.get(sha256, (cache.source_of(sha256) or sha256, "download"))
            yield _check_cached(cache, sha256, name, kind, released=sha256 in known)


def _digests(cache: Cache, entries: Sequence[Checkpoint]) -> dict[str, tuple[str, str]]:
    """Digest → name and kind of the files that these checkpoints have in the cache."""
    found: dict[str, tuple[str, str]] = {}
    for entry in entries:
        if is_embedded(entry):
            continue
        found[native_digest(cache, entry)] = (entry.name, "converted")
        found[source_digest(cache, entry)] = (entry.name, "download")
    found.pop("", None)
    return found


def _check_cached(cache: Cache, sha256: str, name: str, kind: str, *, released: bool) -> Checked:
    path = cache.root / "blobs" / sha256
    size_bytes = 0
    damage = ""
    try:
        digest, size_bytes = cache.hash_of(sha256)
        if digest != sha256:
            damage = f"its sha256 is {digest}, not {sha256}"
    except CacheError as error:
        damage = str(error)
    if not damage:
        return Checked(path, name, kind, size_bytes)
    cache.doubt(sha256)
    if kind == "converted":
        fix = f"nothing to do: the next use of {name} converts it anew"
    elif released:
        fix = f"run: torchseg-zoo weights fetch {name}"
    else:
        fix = "fetch it again, or remove it"
    return Checked(path, name, kind, size_bytes, damage, fix)


def _check_embedded(entry: Checkpoint) -> Checked:
    from torchseg_zoo.weights.load import EMBEDDED

    path = EMBEDDED / entry.sources[0].location
    fix = "reinstall torchseg-zoo"
    try:
        digest, size_bytes = sha256_of(path, error=CacheError), path.stat().st_size
    except CacheError as error:
        return Checked(path, entry.name, "embedded", 0, error.what, fix)
    damage = "" if digest == entry.sha256 else f"its sha256 is {digest}, not {entry.sha256}"
    return Checked(path, entry.name, "embedded", size_bytes, damage, fix if damage else "")
