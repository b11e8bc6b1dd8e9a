"""Released checkpoint → native file: fetched, and converted once if it is of another project.

The converted file lies in the cache under its own digest, like everything there. What it was
converted from, and how, is its key; the key's pin names the digest. The blob is put in place first
and the pin after it, so a process that is killed anywhere leaves the old state or the new one.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from torchseg_zoo.errors import CacheError, CheckpointFormatError
from torchseg_zoo.files import printable, sha256_of
from torchseg_zoo.weights import lock
from torchseg_zoo.weights.cache import Cache, Pin, cache_root
from torchseg_zoo.weights.convert import Converted, convert
from torchseg_zoo.weights.folder import TEMPORARY, Folder, other_folder
from torchseg_zoo.weights.guard import read_foreign
from torchseg_zoo.weights.header import is_safetensors
from torchseg_zoo.weights.load import embedded_file, read_tensors
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.partial import Partial, host_token, take_up
from torchseg_zoo.weights.progress import say
from torchseg_zoo.weights.released import (
    conversion_key,
    conversion_name,
    fetch_released,
    member_of,
    source_digest,
)
from torchseg_zoo.weights.save import write_tensors_to

__all__ = ["Finish", "foreign_tensors", "native_file"]

_STALE_S = 60.0
_MARGIN = 8 << 20
_MAX_MEMBER = 4 << 30

Finish = Callable[[Converted], tuple[Mapping[str, Tensor], Mapping[str, Any]]]


def native_file(checkpoint: Checkpoint, finish: Finish) -> Path:
    """The local native file of a released checkpoint; nobody rewrites it in place.

    Args:
        checkpoint: entry of the manifest.
        finish: checks the renamed tensors of a foreign file against the model they are for, and
            returns them as they are to be kept, with the model's description.

    Raises:
        DownloadError, IntegrityError, CacheError: as ``weights.fetch``.
        UnsafeCheckpointError: if the file asks for code to be run.
        CheckpointFormatError: if it cannot be read, or is not the model it is said to be.
    """
    embedded = embedded_file(checkpoint)
    if embedded is not None:
        return embedded
    if checkpoint.layout != "native":
        return _Conversion(checkpoint, finish).run()
    return fetch_released(checkpoint)


def foreign_tensors(
    path: Path, *, scratch: Path | None = None, beat: Callable[[], object] = lambda: None
) -> dict[str, Tensor]:
    """Tensors of another project's file, be it a pickle or safetensors; see ``read_foreign``."""
    if is_safetensors(path):
        return read_tensors(path, mapped=False)
    return read_foreign(path, scratch=scratch, beat=beat)


class _Conversion:
    """One foreign checkpoint on its way to a native file."""

    def __init__(self, checkpoint: Checkpoint, finish: Finish) -> None:
        self.checkpoint, self.finish = checkpoint, finish
        self.source_sha256 = ""

    def run(self) -> Path:
        """The converted file, from the cache if it has it."""
        with Cache(cache_root()) as cache:
            # Where no digest is published, the fetcher has pinned the one it found.
            self.source_sha256 = source_digest(cache, self.checkpoint)
            if found := self._found(cache):
                return found
            source = fetch_released(self.checkpoint)
            self.source_sha256 = self.source_sha256 or _digest_of(source)
            cache.prepare()
            held = lock.acquire(
                cache.folder("locks"),
                self._key(),
                record={
                    "process": f"process {os.getpid()}",
                    "work": f"the conversion of {self.checkpoint.name}",
                },
                ready=lambda: self._found(cache),
                progress_of=lambda _: "",
                say=say,
                stale_s=_STALE_S,
            )
            if isinstance(held, Path):
                return held
            with held:
                return self._convert(cache, held, source)

    def _key(self) -> str:
        return conversion_key(self.checkpoint, self.source_sha256)

    def _found(self, cache: Cache) -> Path | None:
        if not self.source_sha256:
            return None
        pin = cache.pin_of([self._key()])
        return cache.find(pin.sha256) if pin else None

    def _convert(self, cache: Cache, held: lock.Held, source: Path) -> Path:
        say(f"converting {self.checkpoint.name}, once")
        partials, key = cache.folder("partial"), self._key()
        # What killed conversions have left is removed; nothing of it can be taken up.
        take_up(partials, key, exclusive=held.excludes(), beat=held.beat).close(keep=False)
        renamed = convert(self._tensors(partials, held, source), layout=self.checkpoint.layout)
        tensors, meta = self.finish(renamed)
        partial = Partial.new(partials, key)
        try:
            write_tensors_to(cast(Any, _Sink(partial, held)), tensors, meta)
            partial.flush()
            name = conversion_name(self.checkpoint)
            path = cache.keep(partials, partial.name, partial.sha256, source=name)
            cache.pin(key, Pin(name, partial.sha256, partial.got))
            partial.close(keep=True)
        except FileNotFoundError as error:
            if found := self._found(cache):  # done by another, who took this process for dead
                return found
            raise CacheError(
                "files vanish from the cache while they are written",
                where=printable(cache.root),
                fix="try again",
            ) from error
        finally:
            partial.close(keep=False)
        return path

    def _tensors(self, partials: Folder, held: lock.Held, source: Path) -> dict[str, Tensor]:
        size = source.stat().st_size
        free = partials.free_bytes()
        if free is not None and free < 2 * size + _MARGIN:
            raise CacheError(
                f"the conversion needs {2 * size / 1e6:.0f} MB, {free / 1e6:.0f} MB free",
                where=printable(partials.path),
                fix=other_folder("free some space there"),
            )
        member = member_of(self.checkpoint)
        if not member:
            return foreign_tensors(source, scratch=self._scratch(partials), beat=held.beat)
        unpacked = self._scratch(partials)
        try:
            _unpack(source, member, unpacked)
            return foreign_tensors(unpacked, scratch=self._scratch(partials), beat=held.beat)
        finally:
            unpacked.unlink(missing_ok=True)

    def _scratch(self, partials: Folder) -> Path:
        """An empty file that the next conversion, or time, collects if this process dies."""
        name = f"{self._key()}.{host_token()}.{secrets.token_hex(4)}{TEMPORARY}"
        os.close(partials.create(name))
        return partials.path / name


class _Sink:
    """A partial file in the guise of an open one."""

    def __init__(self, partial: Partial, held: lock.Held) -> None:
        self._partial, self._held = partial, held

    def write(self, data: bytes | memoryview) -> None:
        """Appends the bytes."""
        self._held.beat()
        self._partial.append(data)


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Streams the one member that the manifest names out of a zip; no other is looked at."""
    where = printable(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            entries = [entry for entry in file.infolist() if entry.filename == member]
            if len(entries) != 1 or entries[0].is_dir() or entries[0].file_size > _MAX_MEMBER:
                raise CheckpointFormatError(f"does not hold one {member}", where=where)
            with file.open(entries[0]) as source, target.open("wb") as out:
                # ZipFile ends at the announced length, and checks length and checksum.
                shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointFormatError(
            "the archive cannot be unpacked", where=where, why=f"{type(error).__name__}: {error}"
        ) from error
    except OSError as error:
        raise CacheError(
            "cannot be written", where=printable(target), why=error.strerror, fix=other_folder()
        ) from error


def _digest_of(path: Path) -> str:
    if path.parent.name == "blobs" and len(path.name) == 64:
        return path.name  # the cache has just verified it
    return sha256_of(path, error=CacheError)
