"""The cache: verified files under their own digests.

    blobs/SHA256        a whole, verified file; never rewritten in place
    stamps/SHA256       what stat said of it when it was last verified, and where it came from
    pins/SHA256-OF-URL  the digest found at first fetch, for a source that announces none
    partial/…           downloads on their way (see ``partial``)
    locks/…             who is downloading what (see ``lock``)
    terms/SHA256        licences as they were told, so that nobody hears them twice

Looking something up writes nothing, so a read-only cache serves whoever may read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import CacheError
from torchseg_zoo.files import printable
from torchseg_zoo.weights.folder import CACHE_VARIABLE, Folder, cache_error, other_folder

__all__ = ["Cache", "Pin", "cache_root", "url_key"]

FOLDERS = ("blobs", "stamps", "pins", "partial", "locks", "terms")
_RECORD_LIMIT = 64 * 1024


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache's top directory, which need not exist.

    ``cache_dir``, else ``TORCHSEG_ZOO_CACHE``, else ``torchseg_zoo`` under ``XDG_CACHE_HOME`` or
    ``~/.cache``.

    Raises:
        CacheError: if none of these is set and the user has no home directory.
    """
    chosen = os.fspath(cache_dir) if cache_dir is not None else os.environ.get(CACHE_VARIABLE)
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
        # The XDG rules say that a relative path is to be ignored.
        base = xdg if xdg.is_absolute() else Path("~/.cache").expanduser()
    except RuntimeError as error:
        raise CacheError(
            "there is no home directory", why=str(error), fix=other_folder()
        ) from error
    return base / "torchseg_zoo"


def url_key(url: str) -> str:
    """The name under which the cache keeps what belongs to a URL."""
    return hashlib.sha256(f"url:{url}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Pin:
    """What a source without an announced digest gave when it was first fetched."""

    source: str
    sha256: str
    size: int


@dataclass(frozen=True)
class _Stamp:
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Stamp:
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Cache(Closing):
    """The cache under one directory; use it in a ``with`` block.

    Args:
        root: its top directory; created by ``prepare`` only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.damaged: set[str] = set()  # digests whose file turned out to hold something else
        self._folders: dict[str, Folder] = {}

    def close(self) -> None:
        """Lets go of the folders."""
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()

    def prepare(self) -> None:
        """Creates what is missing of the layout, for this user only.

        Raises:
            CacheError: if it cannot be created, may not be written to, or is not ours.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise cache_error(self.root, error, "cannot create the cache") from error
        root = Folder.root(self.root)
        if root is None:
            raise CacheError("is not a folder", where=printable(self.root), fix=other_folder())
        try:
            for name in FOLDERS:
                folder = root.make_sub(name)
                if name in self._folders:
                    self._folders[name].close()
                self._folders[name] = folder
        finally:
            root.close()

    def folder(self, name: str) -> Folder:
        """A directory of the layout, after ``prepare``."""
        return self._folders[name]

    def find(self, sha256: str) -> Path | None:
        """The file with this digest, if the cache has it whole.

        It is hashed unless stat says that it is the very file that was verified before.

        Raises:
            CacheError: if something else was planted in its place, or it cannot be read.
        """
        blobs = self._existing("blobs")
        descriptor = blobs.open_existing(sha256) if blobs else None
        if blobs is None or descriptor is None:
            return None
        path = blobs.path / sha256
        try:
            with os.fdopen(descriptor, "rb") as file:
                stamp = _Stamp.of(os.fstat(file.fileno()))
                record = self._record("stamps", sha256)
                if record is not None and record.get("stat") == asdict(stamp):
                    return path
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except CacheError:
            raise
        except OSError as error:
            raise cache_error(path, error, "cannot be read") from error
        if digest != sha256:
            self.damaged.add(sha256)
            return None
        self.damaged.discard(sha256)
        self._write_stamp(sha256, stamp, (record or {}).get("source", ""))
        return path

    def keep(self, partial: Folder, name: str, sha256: str, *, source: str) -> Path:
        """Gives a verified file of the partial folder its final name.

        Raises:
            FileNotFoundError: if somebody has taken it away meanwhile.
            CacheError: if it cannot be renamed.
        """
        blobs = self.folder("blobs")
        path = blobs.path / sha256
        try:
            partial.rename(name, blobs, sha256)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise cache_error(path, error, "cannot be put in place") from error
        blobs.sync()
        self.damaged.discard(sha256)
        status = blobs.status(sha256)
        if status is not None:
            self._write_stamp(sha256, _Stamp.of(status), source)
        return path

    def pin_of(self, keys: Iterable[str]) -> Pin | None:
        """The pin of the first of these sources that has one.

        Args:
            keys: of the sources, see ``url_key``.

        Raises:
            CacheError: if a pin cannot be read: to ignore it would be to forget it.
        """
        for key in keys:
            record = self._record("pins", key, strict=True)
            if record is not None:
                return Pin(str(record.get("source")), record["sha256"], record["size"])
        return None

    def pin(self, key: str, pin: Pin) -> None:
        """Remembers what a source gave."""
        self.folder("pins").write(key, json.dumps(asdict(pin), sort_keys=True).encode())

    def first_time(self, key: str, text: str) -> bool:
        """Notes that ``text`` was told under this key.

        Returns:
            ``False`` if somebody has noted it before, or if nothing can be noted here.

        Raises:
            CacheError: if something was planted in its place, or it cannot be written.
        """
        terms = self._existing("terms")
        if terms is None:
            self.prepare()
            terms = self.folder("terms")
        if not terms.writable() or terms.status(key) is not None:
            return False
        try:
            descriptor = terms.create(key)
        except CacheError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        with suppress(OSError), os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))  # for who looks; the name counts
        return True

    def contents(self) -> list[str]:
        """Where the files it holds came from, sorted; their digests where that is not known."""
        return sorted(self.source_of(sha256) or sha256 for sha256 in self.digests())

    def digests(self) -> list[str]:
        """The names of the files it holds, whole or not, sorted."""
        blobs = self._existing("blobs")
        return [name for name in blobs.names() if _is_digest(name)] if blobs else []

    def source_of(self, sha256: str) -> str:
        """Where the file with this digest came from; "" if that is not known."""
        return str((self._record("stamps", sha256) or {}).get("source") or "")

    def hash_of(self, sha256: str) -> tuple[str, int]:
        """The digest and the length that the file of this name really has.

        Raises:
            CacheError: if there is none, something was planted in its place, or it cannot be read.
        """
        blobs = self._existing("blobs")
        descriptor = blobs.open_existing(sha256) if blobs else None
        path = self.root / "blobs" / sha256
        if descriptor is None:
            raise CacheError("is gone", where=printable(path))
        try:
            with os.fdopen(descriptor, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        except OSError as error:
            raise cache_error(path, error, "cannot be read") from error

    def has(self, sha256: str) -> bool:
        """Whether there is a file of this name; it is not looked into."""
        blobs = self._existing("blobs")
        return blobs is not None and blobs.status(sha256) is not None

    def pins(self) -> Iterator[tuple[str, Pin]]:
        """Every pin that can be read, with its key."""
        pins = self._existing("pins")
        for key in pins.names() if pins else []:
            record = self._record("pins", key)
            if record is not None and _is_digest(record.get("sha256")):
                yield key, Pin(str(record.get("source")), record["sha256"], record.get("size", 0))

    def folders(self) -> dict[str, Folder]:
        """Those directories of the layout that are there."""
        return {name: folder for name in FOLDERS if (folder := self._existing(name))}

    def doubt(self, sha256: str) -> None:
        """Forgets that a file was verified, so that it is hashed before it is used again."""
        stamps = self._existing("stamps")
        if stamps is not None:
            with suppress(OSError):
                stamps.unlink(sha256)

    def _existing(self, name: str) -> Folder | None:
        if name not in self._folders:
            root = Folder.root(self.root)
            if root is None:
                return None
            try:
                folder = root.sub(name)
            finally:
                root.close()
            if folder is None:
                return None
            self._folders[name] = folder
        return self._folders[name]

    def _record(self, place: str, name: str, *, strict: bool = False) -> dict[str, Any] | None:
        folder = self._existing(place)
        data = folder.read(name, limit=_RECORD_LIMIT) if folder else None
        if folder is None or data is None:
            return None
        with suppress(ValueError, RecursionError):
            record = json.loads(data)
            if isinstance(record, dict):
                if not strict:
                    return record
                if _is_digest(record.get("sha256")) and isinstance(record.get("size"), int):
                    return record
        if strict:
            raise CacheError(
                "cannot be read, so it is not known which file was here before",
                where=printable(folder.path / name),
                fix="remove it to accept whatever the source gives now",
            )
        return None

    def _write_stamp(self, sha256: str, stamp: _Stamp, source: str) -> None:
        stamps = self._existing("stamps")
        if stamps is None or not stamps.writable():
            return
        record = json.dumps({"stat": asdict(stamp), "source": source}, sort_keys=True)
        with suppress(CacheError):  # without a stamp the next look-up hashes again, no more
            stamps.write(sha256, record.encode())


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
