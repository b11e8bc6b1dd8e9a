"""Files on their way: bytes that are hashed as they are written, and can be taken up again later.

A partial file has a unique name, ``KEY.HOST.RANDOM.part``, and its writer keeps it locked. Beside
it lies a ``.json`` that says where the bytes came from, which a server must confirm before it is
asked for the rest only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from torchseg_zoo.errors import CacheError
from torchseg_zoo.files import printable
from torchseg_zoo.weights.folder import TEMPORARY, Folder, cache_error, other_folder
from torchseg_zoo.weights.lock import try_flock

__all__ = ["Partial", "Provenance", "abandoned", "collect_old", "host_token", "take_up"]

_SUFFIX = ".part"
_FRESH_S = 60.0  # a partial file touched so recently may have a living writer that we cannot see
_OLD_S = 7 * 24 * 3600.0
_SMALL_OLD_S = 3600.0  # small temporary files live for milliseconds, and locks are touched often
_SIDECAR_LIMIT = 16 * 1024
_BLOCK = 1 << 20
_MARGIN = 1 << 20  # bytes that must stay free beside the file itself
WORTH_KEEPING = 1 << 20


@dataclass(frozen=True)
class Provenance:
    """Where the bytes of a partial file come from.

    Args:
        url: or rather the ``Place.key`` of it, which tells no secrets.
        validator: a strong ETag or a Last-Modified date, for ``If-Range``; "" if none was given.
        total: length of the whole file in bytes, where the server said so.
    """

    url: str = ""
    validator: str = ""
    total: int | None = None


def host_token() -> str:
    """Eight digits that differ between machines, containers and boots."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    with suppress(OSError):
        return hashlib.sha256(f"{platform.node()} {boot.read_text()}".encode()).hexdigest()[:8]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


class Partial:
    """A file being received.

    Args:
        folder: where partial files are.
        name: of the file.
        descriptor: the open file, positioned at its end; owned by this object from now on.
    """

    def __init__(self, folder: Folder, name: str, descriptor: int) -> None:
        self.name = name
        self.got = 0
        self.provenance = Provenance()
        self.resumed = False  # whether bytes of an earlier connection or process are in it
        self._folder = folder
        self._descriptor = descriptor
        self._hash = hashlib.sha256()

    @classmethod
    def new(cls, folder: Folder, key: str) -> Partial:
        """Creates an empty one."""
        name = f"{key}.{host_token()}.{secrets.token_hex(4)}{_SUFFIX}"
        descriptor = folder.create(name)
        try_flock(descriptor)
        return cls(folder, name, descriptor)

    @property
    def path(self) -> Path:
        """Where it is, for messages."""
        return self._folder.path / self.name

    @property
    def sha256(self) -> str:
        """Digest in hex of the bytes so far."""
        return self._hash.hexdigest()

    def append(self, data: bytes | memoryview) -> None:
        """Writes and hashes more bytes.

        Raises:
            CacheError: if they cannot be written.
        """
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._descriptor, view)
                self._hash.update(view[:written])
                self.got += written
                view = view[written:]
        except OSError as error:
            raise cache_error(self.path, error, "cannot be written") from error

    def restart(self) -> None:
        """Forgets all bytes."""
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.ftruncate(self._descriptor, 0)
        except OSError as error:
            raise cache_error(self.path, error, "cannot be written") from error
        self.got, self.resumed = 0, False
        self._hash = hashlib.sha256()

    def comes_from(self, provenance: Provenance) -> None:
        """Notes where the bytes come from, before the first of them is written."""
        if provenance == self.provenance:
            return
        try:
            self._folder.write(_sidecar(self.name), json.dumps(asdict(provenance)).encode())
        except CacheError as error:
            # Taken away by a process that took this one for dead; the note is not vital.
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        self.provenance = provenance

    def make_room(self, total: int) -> None:
        """Checks that a file of ``total`` bytes fits.

        Raises:
            CacheError: if the disk has too little space.
        """
        free = self._folder.free_bytes()
        needed = total - self.got
        if free is not None and needed > 0 and free < needed + _MARGIN:
            raise CacheError(
                f"needs {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB free",
                where=printable(self._folder.path),
                fix=other_folder("free some space there"),
            )

    def flush(self) -> None:
        """Puts the bytes on the disk, and checks that nobody else has changed their number.

        Raises:
            CacheError: if the disk fails.
        """
        try:
            os.fsync(self._descriptor)
            size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise cache_error(self.path, error, "cannot be written") from error
        if size != self.got:
            what = f"was changed while it was written: {size} bytes, not {self.got}"
            raise CacheError(what, where=printable(self.path), fix=other_folder("try again"))

    def read_back(self, beat: Callable[[], None]) -> None:
        """Hashes what an earlier process has written, and goes on at its end."""
        try:
            while block := os.read(self._descriptor, _BLOCK):
                self._hash.update(block)
                self.got += len(block)
                beat()
        except OSError as error:
            raise cache_error(self.path, error, "cannot be read") from error
        self.resumed = self.got > 0

    def close(self, *, keep: bool) -> None:
        """Ends the work on it; it is removed unless it is to be taken up again."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not keep:
            self.remove_sidecar()
            with suppress(OSError):
                self._folder.unlink(self.name)

    def remove_sidecar(self) -> None:
        """Removes the note of where the bytes come from."""
        with suppress(OSError):
            self._folder.unlink(_sidecar(self.name))


def take_up(folder: Folder, key: str, *, exclusive: bool, beat: Callable[[], None]) -> Partial:
    """The partial file to go on with: what a dead process left, or a new one. Collects the rest.

    A file whose writer is certainly dead is continued in place. Where that is not certain (a frozen
    process that may wake and write on, another machine, locks that do nothing) its bytes are
    copied.

    Args:
        folder: where partial files are.
        key: which download.
        exclusive: whether locks work here, so that an unlocked file has no living writer.
        beat: called between blocks.

    Raises:
        CacheError: if one of them is not a plain file of ours, or cannot be read or written.
    """
    chosen: Partial | None = None
    everything = [name for name in folder.names() if name.startswith(key)]
    names = [name for name in everything if name.endswith(_SUFFIX)]
    for name in set(everything) - {*names, *map(_sidecar, names)}:
        if exclusive or _age_s(folder, name) > _FRESH_S:
            folder.unlink(name)
    sized = [(status.st_size, name) for name in names if (status := folder.status(name))]
    for _, name in sorted(sized, reverse=True):
        descriptor = folder.open_existing(name, write=True)
        if descriptor is None:
            continue
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            dead = try_flock(descriptor) and exclusive
            ours = name.split(".")[1:2] == [host_token()]
            if not (dead and ours) and _age_s(folder, name) < _FRESH_S:
                if chosen is None and exclusive and not dead:
                    chosen = _copied(folder, key, name, descriptor, beat)
                continue
            if chosen is None and dead and ours:
                stack.pop_all()
                chosen = Partial(folder, name, descriptor)
                chosen.provenance = _provenance_of(folder, name)
                chosen.read_back(beat)
                continue
            if chosen is None:
                chosen = _copied(folder, key, name, descriptor, beat)
            # A frozen writer that wakes finds its file gone when it comes to rename it, and looks
            # whether the work is done.
            folder.unlink(_sidecar(name))
            folder.unlink(name)
    return chosen or Partial.new(folder, key)


def abandoned(folder: Folder, name: str) -> bool:
    """Whether a partial file has no living writer, as far as can be told.

    Its lock tells, if it was made on this machine and locks work here; its age otherwise.
    """
    descriptors = []
    try:
        for _ in range(2):
            descriptor = folder.open_existing(name, write=True)
            if descriptor is None:
                return False
            descriptors.append(descriptor)
        if not try_flock(descriptors[0]):
            return False
        exclusive = not try_flock(descriptors[1])
        ours = name.split(".")[1:2] == [host_token()]
        return (exclusive and ours) or _age_s(folder, name) > _FRESH_S
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def collect_old(folders: Iterable[Folder]) -> None:
    """Removes what interrupted work of long ago has left in these folders, whatever it was of."""
    for folder in folders:
        names = folder.names()
        parts = {name for name in names if name.endswith(_SUFFIX)}
        noted = {_sidecar(name) for name in parts}
        for name in names:
            if name in parts or name in noted:
                limit_s = _OLD_S
            elif name.endswith(TEMPORARY) or folder.path.name in ("partial", "locks"):
                limit_s = _SMALL_OLD_S
            else:
                continue
            if _age_s(folder, name) > limit_s:
                with suppress(OSError):
                    folder.unlink(name)


def _age_s(folder: Folder, name: str) -> float:
    status = folder.status(name)
    return time.time() - status.st_mtime if status else 0.0


def _copied(
    folder: Folder, key: str, name: str, descriptor: int, beat: Callable[[], None]
) -> Partial:
    copy = Partial.new(folder, key)
    try:
        with suppress(OSError):
            while block := os.read(descriptor, _BLOCK):
                copy.append(block)
                beat()
        copy.resumed = copy.got > 0
        copy.comes_from(_provenance_of(folder, name))
    except BaseException:
        copy.close(keep=False)
        raise
    return copy


def _provenance_of(folder: Folder, name: str) -> Provenance:
    with suppress(ValueError, TypeError, RecursionError):
        data = folder.read(_sidecar(name), limit=_SIDECAR_LIMIT)
        if data:
            record = Provenance(**json.loads(data))
            if isinstance(record.url, str) and isinstance(record.validator, str):
                return record
    return Provenance()


def _sidecar(name: str) -> str:
    return name.removesuffix(_SUFFIX) + ".json"
