"""One directory of the cache, used through its descriptor, in which nothing planted is followed.

Names are looked up relative to an open directory, so exchanging a folder on the way to it for a
link changes nothing. Every file is opened without following links and without waiting (a named pipe
would wait for ever), and is looked at once it is open: it must be a plain file, with one name, of
this user or of root.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from torchseg_zoo.errors import CacheError
from torchseg_zoo.files import printable

__all__ = ["CACHE_VARIABLE", "Folder", "cache_error", "other_folder"]

CACHE_VARIABLE = "TORCHSEG_ZOO_CACHE"
TEMPORARY = ".tmp"  # how the names of files end that are about to be renamed

_SAFE = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
# Windows opens no directories and knows no dir_fd; there, names are joined to the path instead.
_BY_DESCRIPTOR = os.open in os.supports_dir_fd

_FIXES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


def other_folder(first: str = "") -> str:
    """The advice to put the cache elsewhere, after some other advice."""
    elsewhere = f"set {CACHE_VARIABLE} to a folder of your own"
    return f"{first} or {elsewhere}" if first else elsewhere


def cache_error(path: Path, error: OSError, what: str) -> CacheError:
    """The ``CacheError`` for a failed system call on a file or folder of the cache."""
    return CacheError(
        what,
        where=printable(path),
        why=error.strerror or str(error),
        fix=other_folder(_FIXES.get(error.errno or 0, "")),
    )


class Folder:
    """A directory held open.

    Args:
        path: the directory, for messages and for what must be given by path.
        descriptor: the open directory; ``None`` where the system has no such thing.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def root(cls, path: Path) -> Folder | None:
        """Opens a top directory; links on the way to it, and it itself being one, are the user's.

        Raises:
            CacheError: if it is no directory, cannot be opened, or belongs to another user.
        """
        return cls._open(path, str(path), _DIRECTORY, None)

    def sub(self, name: str) -> Folder | None:
        """Opens a directory in this one; ``None`` if there is none.

        Raises:
            CacheError: if ``name`` is a link or a file, or belongs to another user.
        """
        flags = _DIRECTORY | getattr(os, "O_NOFOLLOW", 0)
        return self._open(self.path / name, self._at(name), flags, self._descriptor)

    def make_sub(self, name: str) -> Folder:
        """Opens a directory in this one and creates it first if need be, for this user only.

        Raises:
            CacheError: as ``sub``, or if it cannot be created or may not be written to.
        """
        with suppress(FileExistsError):
            try:
                os.mkdir(self._at(name), 0o700, dir_fd=self._descriptor)
                if _BY_DESCRIPTOR:  # an odd umask may have taken bits from the mode
                    os.chmod(self._at(name), 0o700, dir_fd=self._descriptor)
            except FileExistsError:
                raise
            except OSError as error:
                raise cache_error(self.path / name, error, "cannot create the folder") from error
        folder = self.sub(name)
        if folder is None:
            raise CacheError(
                "vanished as it was made", where=printable(self.path / name), fix="try again"
            )
        try:
            folder._keep_others_out()
            return folder
        except BaseException:
            folder.close()
            raise

    @classmethod
    def _open(cls, path: Path, name: str, flags: int, within: int | None) -> Folder | None:
        try:
            if not _BY_DESCRIPTOR:
                return cls(path, None) if Path(name).is_dir() else None
            descriptor = os.open(name, flags, dir_fd=within)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                what = "is a link or a file where the cache has a folder"
                raise CacheError(
                    what, where=printable(path), fix=other_folder("remove it")
                ) from error
            raise cache_error(path, error, "cannot be opened") from error
        try:
            _check_owner(os.fstat(descriptor), path)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def _keep_others_out(self) -> None:
        if self._descriptor is None:
            return
        status = os.fstat(self._descriptor)
        if status.st_mode & 0o022 and status.st_uid == os.geteuid():
            with suppress(OSError):
                os.fchmod(self._descriptor, stat.S_IMODE(status.st_mode) & ~0o022)
        if not self.writable():
            raise CacheError(
                "is read-only and lacks the file", where=printable(self.path), fix=other_folder()
            )

    def close(self) -> None:
        """Lets go of the directory; it cannot be used afterwards."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def writable(self) -> bool:
        """Whether files can be created in it."""
        return os.access(self.path, os.W_OK | os.X_OK)

    def free_bytes(self) -> int | None:
        """What this user may still write on its disk, in bytes, where the system tells."""
        try:
            status = os.statvfs(self.path if self._descriptor is None else self._descriptor)
        except (OSError, AttributeError):
            return None
        return status.f_bavail * status.f_frsize

    def open_existing(self, name: str, *, write: bool = False) -> int | None:
        """A descriptor of a file that is there; ``None`` if there is none.

        Raises:
            CacheError: if it is anything but a plain file of ours, or cannot be opened.
        """
        try:
            return self._descriptor_of(name, os.O_RDWR if write else os.O_RDONLY)
        except FileNotFoundError:
            return None

    def open_or_create(self, name: str) -> int:
        """A descriptor, for reading and writing, of a file that is created if need be."""
        return self._descriptor_of(name, os.O_RDWR | os.O_CREAT)

    def create(self, name: str) -> int:
        """A descriptor, for reading and writing, of a file that was not there before."""
        return self._descriptor_of(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def _descriptor_of(self, name: str, flags: int) -> int:
        path = self.path / name
        try:
            descriptor = os.open(self._at(name), flags | _SAFE, 0o600, dir_fd=self._descriptor)
        except FileNotFoundError:
            if flags & os.O_CREAT:
                raise CacheError(
                    "the cache was removed while it was in use",
                    where=printable(self.path),
                    fix="try again",
                ) from None
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                what = "is a link; the cache holds plain files only"
            elif error.errno in (errno.ENXIO, errno.EISDIR, errno.ENOTDIR, errno.ENODEV):
                what = "is not a plain file, as all of the cache must be"
            else:
                raise cache_error(path, error, "cannot be opened") from error
            raise CacheError(what, where=printable(path), fix="remove it") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                what = "is not a plain file, as all of the cache must be"
                raise CacheError(what, where=printable(path), fix="remove it")
            if status.st_nlink > 1:
                what = "has another name elsewhere (a hard link), so others could change it"
                raise CacheError(what, where=printable(path), fix="remove it")
            _check_owner(status, path)
            if flags & os.O_EXCL and hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)  # an odd umask may have taken these bits
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def read(self, name: str, *, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a file; ``None`` if there is none."""
        descriptor = self.open_existing(name)
        if descriptor is None:
            return None
        try:
            return os.read(descriptor, limit)
        except OSError as error:
            raise cache_error(self.path / name, error, "cannot be read") from error
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces a small file; it is there whole or not at all.

        Raises:
            CacheError: if it cannot be written.
        """
        temporary = f"{name}.{secrets.token_hex(8)}{TEMPORARY}"
        try:
            descriptor = self.create(temporary)
            try:
                try:
                    if os.write(descriptor, data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self.rename(temporary, self, name)
            except BaseException:
                with suppress(OSError):
                    self.unlink(temporary)
                raise
        except CacheError:
            raise
        except OSError as error:
            raise cache_error(self.path / name, error, "cannot be written") from error

    def rename(self, name: str, target: Folder, new_name: str) -> None:
        """Renames a file, replacing what has the new name; raises ``OSError`` where it cannot."""
        os.replace(
            self._at(name),
            target._at(new_name),
            src_dir_fd=self._descriptor,
            dst_dir_fd=target._descriptor,
        )

    def unlink(self, name: str) -> None:
        """Removes a file, or a link itself; no matter if there is none."""
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._descriptor)

    def status(self, name: str) -> os.stat_result | None:
        """What ``lstat`` says of a name; ``None`` if there is none."""
        try:
            return os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """Everything in it, sorted."""
        if self._descriptor is None:
            return sorted(entry.name for entry in self.path.iterdir())
        return sorted(os.listdir(self._descriptor))  # noqa: PTH208 (it must be the open directory)

    def sync(self) -> None:
        """Makes renames in it survive a power cut, where the system lets folders be synced."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.fsync(self._descriptor)

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else str(self.path / name)


def _check_owner(status: os.stat_result, path: Path) -> None:
    if not hasattr(os, "geteuid") or status.st_uid in (os.geteuid(), 0):
        return
    raise CacheError(
        f"belongs to user {status.st_uid}, who could change it under you",
        where=printable(path),
        why=f"you are user {os.geteuid()}",
        fix=other_folder("change its owner"),
    )
