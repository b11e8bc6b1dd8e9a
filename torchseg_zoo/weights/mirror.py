"""A folder that holds released files under the names a mirror has, for machines without internet.

``TORCHSEG_ZOO_MIRROR`` may name the folder itself, or the address of any static web server that
gives its files. Besides them it holds ``SHA256SUMS``, which ``sha256sum -c`` reads; a comment above
each line says which checkpoint the file is and what its licences are. ``.incoming`` holds what is
on its way.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from torchseg_zoo.errors import CacheError, DownloadError
from torchseg_zoo.files import atomic_write, make_folder, printable, sha256_of
from torchseg_zoo.weights import sources, terms
from torchseg_zoo.weights.cache import Cache, cache_root
from torchseg_zoo.weights.fetch import fetch
from torchseg_zoo.weights.lock import try_flock
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.progress import say
from torchseg_zoo.weights.released import source_digest, tell_terms, urls_of

__all__ = ["SUMS", "Mirror", "Mirrored"]

SUMS = "SHA256SUMS"
_INCOMING = ".incoming"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


@dataclass(frozen=True)
class Mirrored:
    """One file of a mirror.

    Args:
        path: in the mirror's folder.
        sha256: its digest.
        size_bytes: its length.
        new: whether it was put there just now.
    """

    path: Path
    sha256: str
    size_bytes: int
    new: bool


class Mirror:
    """The folder while it is filled, by one process at a time; ``Mirror.open`` gives it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sums = _read_sums(folder / SUMS)

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Mirror]:
        """Opens a folder, and creates it first if need be.

        Raises:
            DataError: if it cannot be created or written to.
            CacheError: if another process is filling it.
        """
        incoming = make_folder(make_folder(folder) / _INCOMING)
        with (incoming / "lock").open("ab") as file:
            if not try_flock(file.fileno()):
                raise CacheError(
                    "another process is filling this mirror",
                    where=printable(folder),
                    fix="wait for it",
                )
            yield cls(folder)
            with suppress(OSError):
                if not any((incoming / "partial").glob("*")):
                    shutil.rmtree(incoming)

    def add(self, checkpoint: Checkpoint) -> Mirrored:
        """Puts the file of a checkpoint into the folder, unless it is there and whole.

        It comes from the local cache if that has it. An interrupted download is resumed.

        Raises:
            DownloadError, IntegrityError: if no source gives it, or gives another file.
            CacheError: if the folder cannot be written to, or is full.
        """
        places = [sources.parse(url) for url in urls_of(checkpoint)]
        path = self.folder / sources.mirror_name(places, checkpoint.sha256)
        known = (
            path.name if len(checkpoint.sha256) == 64 else self._sums.get(path.name, ("", ""))[0]
        )
        known = known or checkpoint.sha256
        sha256 = sha256_of(path, error=CacheError) if path.exists() else ""
        new = not sha256 or not sha256.startswith(known)
        if new:
            if sha256:
                say(f"{printable(path)} is damaged; fetching it again")
            sha256 = self._bring(checkpoint, known, path)
            tell_terms(checkpoint)
        self._note(path.name, sha256, f"{checkpoint.name} licences: {terms.said(checkpoint)}")
        return Mirrored(path, sha256, path.stat().st_size, new)

    def _bring(self, checkpoint: Checkpoint, sha256: str, target: Path) -> str:
        """Fetches a file and gives it its final name; its digest."""
        incoming = self.folder / _INCOMING
        with Cache(cache_root()) as cache:
            # What was fetched here before counts for more than whatever the source gives now.
            pinned = source_digest(cache, checkpoint)
            sha256 = pinned if pinned.startswith(sha256) else sha256
            here = cache.find(sha256) if pinned and pinned == sha256 else None
        try:
            path = fetch(
                here or urls_of(checkpoint),
                sha256=sha256 or None,
                size=checkpoint.size_bytes,
                cache_dir=incoming,
            )
            if path.parent != incoming / "blobs":  # it lies in the hub client's cache
                path = fetch(path, cache_dir=incoming)
            path.chmod(0o644)  # a web server is another user
            path.replace(target)
        except CacheError as error:
            raise CacheError(
                error.what,
                where=error.where,
                why=error.why,
                fix="free some space there, or mirror to another folder",
            ) from error
        except OSError as error:
            if isinstance(error, DownloadError):
                raise
            raise CacheError(
                "cannot be written", where=printable(target), why=error.strerror
            ) from error
        (incoming / "stamps" / path.name).unlink(missing_ok=True)
        return path.name

    def _note(self, name: str, sha256: str, comment: str) -> None:
        if self._sums.get(name) == (sha256, comment):
            return
        self._sums[name] = (sha256, comment)
        lines = [f"# {note}\n{digest}  {file}\n" for file, (digest, note) in self._sums.items()]
        text = "".join(sorted(lines))
        atomic_write(self.folder / SUMS, lambda file: file.write(text.encode()), error=CacheError)


def _read_sums(path: Path) -> dict[str, tuple[str, str]]:
    """File name → digest, and the comment above it."""
    found, comment = {}, ""
    with suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := _LINE.fullmatch(line):
                found[match[2]] = (match[1], comment)
            comment = line.removeprefix("# ") if line.startswith("#") else ""
    return found
