"""Opening files that may be anything, and writing files that are whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from torchseg_zoo.errors import ArgumentError, DataError, ZooError

__all__ = [
    "atomic_write",
    "atomic_write_all",
    "make_folder",
    "open_regular",
    "printable",
    "require_writable",
    "sha256_of",
]

_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

_WRITE_FIXES = {
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "part of the path is a file; choose another folder",
    errno.EISDIR: "it is a folder; name a file in it",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOSPC: "free some space there or choose another disk",
    errno.EDQUOT: "free some of your quota there or choose another disk",
    errno.EFBIG: "the file system or a limit (ulimit -f) does not allow files of this size",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def printable(path: object) -> str:
    """The path as text that can be printed as UTF-8, even if the name is not valid Unicode."""
    text = os.fsdecode(path) if isinstance(path, bytes | os.PathLike) else str(path)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def open_regular(
    path: str | os.PathLike[str], *, error: Callable[..., ZooError] = DataError
) -> BufferedReader:
    """Opens a regular file for reading and refuses everything else, without ever waiting.

    Opening a named pipe blocks until somebody writes to it, and opening a device can have effects;
    so the kind is looked at before the file is opened, and again afterwards in case it was swapped.

    Args:
        path: file to read; links are followed.
        error: class of the error to raise.

    Raises:
        ArgumentError: if ``path`` is neither ``str`` nor ``os.PathLike``.
        DataError: (or ``error``) if there is no such file, it may not be read, or it is a folder,
            pipe, socket or device.
    """
    where = _checked(path, error)
    try:
        _refuse_irregular(Path(path).stat().st_mode, where, error)
        # O_NONBLOCK means nothing for regular files; it is there for a pipe put in place meanwhile.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except FileNotFoundError as cause:
        if Path(path).is_symlink():
            what, fix = "the link points to nothing", "mend or remove the link"
        else:
            what, fix = "no such file", "check the path"
        raise error(what, where=where, fix=fix) from cause
    except PermissionError as cause:
        raise error("may not be read", where=where, fix="change its permissions") from cause
    except OSError as cause:
        why = cause.strerror
        raise error("cannot be opened", where=where, why=why, fix="check the path") from cause
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, where, error)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def sha256_of(path: str | os.PathLike[str], *, error: Callable[..., ZooError] = DataError) -> str:
    """The digest of a file, in hex.

    Raises:
        DataError: (or ``error``) as ``open_regular``.
    """
    with open_regular(path, error=error) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    *,
    error: Callable[..., ZooError] = DataError,
) -> None:
    """Writes a file so that other processes, and a crash, see the old one or the new one whole.

    The bytes go to a temporary file in the same folder, which is flushed to disk and then renamed.
    On any failure the temporary file is removed and an earlier file stays as it was. The new file
    gets the permissions that ``open`` would have given it (0666 less the umask).

    Args:
        path: file to create or replace; its folder must exist.
        write: called once with the open temporary file.
        error: class of the error that an ``OSError`` becomes. Other exceptions of ``write`` pass
            through as they are.

    Raises:
        ArgumentError: if ``path`` is neither ``str`` nor ``os.PathLike``.
        DataError: (or ``error``) if the file cannot be written, or ``path`` is a folder, pipe,
            socket or device.
    """
    where = _checked(path, error)
    target = Path(path)
    # The name must not grow with the target's: that one may already be as long as names can be.
    temporary = target.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        with suppress(FileNotFoundError):
            # Renaming over /dev/null or /dev/stdout would put a plain file there for everybody.
            _refuse_irregular(target.stat().st_mode, where, error)
        # Not tempfile: its files are 0600 whatever the umask says.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    except ZooError:
        raise
    except OSError as cause:
        raise _not_written(where, cause, error) from cause
    _sync_folder(target.parent)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a file that ``atomic_write`` could not write, before long work is done for it.

    Raises:
        DataError: if so.
    """
    where = _checked(path, DataError)
    target = Path(path)
    probe = target.parent / f".tmp-{secrets.token_hex(8)}"
    try:
        with suppress(FileNotFoundError):
            _refuse_irregular(target.stat().st_mode, where, DataError)
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666))
        probe.unlink()
    except OSError as cause:
        raise _not_written(where, cause, DataError) from cause


def _not_written(where: str, cause: OSError, error: Callable[..., ZooError]) -> ZooError:
    return error(
        "cannot be written",
        where=where,
        why=cause.strerror or str(cause),
        fix=_WRITE_FIXES.get(cause.errno or 0, "check the path and the disk"),
    )


def atomic_write_all(
    contents: Mapping[Path, bytes], *, error: Callable[..., ZooError] = DataError
) -> None:
    """As ``atomic_write``, for files that go together: all of them are replaced, or none.

    Only a crash between the renames, which follow each other at once, can leave new ones beside
    old ones. The last file is renamed first.

    Args:
        contents: file → bytes.
        error: class of the error that an ``OSError`` becomes.

    Raises:
        DataError: (or ``error``) as ``atomic_write``.
    """
    (path, content), *others = contents.items()

    def write(file: BinaryIO) -> None:
        file.write(content)
        if others:
            file.flush()
            os.fsync(file.fileno())  # a full disk must show before any file is replaced
            atomic_write_all(dict(others), error=error)

    atomic_write(path, write, error=error)


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, where the system lets folders be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _BINARY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_irregular(mode: int, where: str, error: Callable[..., ZooError]) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((name for test, name in _KINDS if test(mode)), "not a regular file")
    raise error(f"is {kind}, not a file", where=where, fix="give the path of a file")


def _checked(path: object, error: Callable[..., ZooError]) -> str:
    """The path in printable form, once it is known to be one that system calls take."""
    if not isinstance(path, str | os.PathLike):  # an int would pass for a file descriptor
        raise ArgumentError(
            f"expected a path, got {type(path).__name__}", where="path", fix="pass a str or Path"
        )
    where = printable(path)
    try:
        usable = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise error("no file can have this name", where=where, fix="check the path")
    return where


def make_folder(path: Path) -> Path:
    """Creates a folder and its parents if need be, and checks that it can be written to.

    Raises:
        DataError: if it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            "cannot create the folder",
            where=printable(path),
            why="a file has this name" if isinstance(error, FileExistsError) else error.strerror,
            fix=_WRITE_FIXES.get(error.errno or 0, "choose another folder"),
        ) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise DataError(
            "cannot write to the folder",
            where=printable(path),
            fix="choose a folder that you may write to",
        )
    return path
