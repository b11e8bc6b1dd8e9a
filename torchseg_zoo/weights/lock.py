"""One download for any number of processes: a lock that survives death, frost and missing support.

The lock is advisory: it saves bandwidth, while correctness rests on partial files with unique names
and on renames. So where ``flock`` does nothing (some network file systems) every process downloads
for itself and all are right. The kernel frees the lock of a process that dies. A holder that shows
no sign of life for a while (a stopped process) has its lock file taken away: whoever creates and
locks the next one goes on.

A holder that gives up writes the reason into the lock file: those who waited for that attempt fail
with it, and do not try one after the other for as long again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from torchseg_zoo import errors
from torchseg_zoo.errors import ZooError
from torchseg_zoo.weights.folder import Folder

if os.name == "posix":
    import fcntl

__all__ = ["Held", "acquire", "try_flock"]

_Done = TypeVar("_Done")
_RECORD_LIMIT = 16 * 1024
_POLL_S = (0.01, 0.1)  # shortest and longest pause between looks
_POLL_SHARE = 1 / 8  # of the time waited so far: what a look may come too late, at most
_LOOK_S = 1.0  # between looks for the work itself, while its owner is at it
_BEAT_S = 1.0
_FIRST_MESSAGE_S, _MESSAGE_S = 1.0, 10.0


def try_flock(descriptor: int) -> bool:
    """Locks an open file if nobody else has; also true where the system has no such locks."""
    if os.name != "posix":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # ENOLCK, ENOTSUP: this file system does not lock
        return True
    return True


class Held:
    """The lock, held; use it in a ``with`` block, and ``beat`` at least every few seconds."""

    def __init__(self, folder: Folder, name: str, descriptor: int, record: dict[str, Any]) -> None:
        self._folder, self._name, self._descriptor = folder, name, descriptor
        self._record = record
        self._beaten = time.monotonic()
        self._write(record)

    def beat(self) -> None:
        """Shows those who wait that this process is alive."""
        now = time.monotonic()
        if now - self._beaten >= _BEAT_S:
            self._beaten = now
            with suppress(OSError):
                if os.utime in os.supports_fd:
                    os.utime(self._descriptor)

    def tell(self, **facts: Any) -> None:
        """Puts facts into the record that those who wait read."""
        self._record.update(facts)
        self._write(self._record)

    def excludes(self) -> bool:
        """Whether locks mean anything here: a second lock on the same file must be refused."""
        if os.name != "posix":
            return False
        descriptor = self._folder.open_existing(self._name, write=True)
        if descriptor is None:
            return False
        try:
            same = os.fstat(descriptor).st_ino == os.fstat(self._descriptor).st_ino
            return same and not try_flock(descriptor)
        finally:
            os.close(descriptor)

    def __enter__(self) -> Held:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, ZooError):
                failure = [type(error).__name__, error.what, error.where, error.why, error.fix]
                self.tell(failure=failure)
            if _same_file(self._folder, self._name, self._descriptor):
                self._folder.unlink(self._name)
        except (OSError, ZooError):
            pass  # a lock file left behind is free, and the next download takes it up
        finally:
            os.close(self._descriptor)

    def _write(self, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode()[:_RECORD_LIMIT]
        with suppress(OSError):  # a full disk must not stop what needs no disk
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, data)
            os.ftruncate(self._descriptor, len(data))


@dataclass
class _Watch:
    """What a waiting process has seen of the holder."""

    seen: tuple[int, int] = (-1, -1)
    idle_s: float = 0.0
    waited_s: float = 0.0
    next_look_s: float = _LOOK_S
    next_message_s: float = _FIRST_MESSAGE_S

    def look(self, status: os.stat_result, elapsed_s: float) -> None:
        signs = (status.st_mtime_ns, status.st_size)
        # Time in which this process was itself stopped says nothing of the holder.
        elapsed_s = min(elapsed_s, 1.0)
        self.idle_s = self.idle_s + elapsed_s if signs == self.seen else 0.0
        self.waited_s += elapsed_s
        self.seen = signs


def acquire(
    folder: Folder,
    name: str,
    *,
    record: dict[str, Any],
    ready: Callable[[], _Done | None],
    progress_of: Callable[[dict[str, Any]], str],
    say: Callable[[str], None],
    stale_s: float,
) -> Held | _Done:
    """Waits until the lock is ours or the work is done by somebody else.

    Args:
        folder: where lock files are.
        name: of the lock.
        record: who we are and what we do: ``process`` and ``work`` in words, for those who wait.
        ready: looks whether the work is done; what it returns ends the wait.
        progress_of: how far the holder with that record is, in words.
        say: prints a line.
        stale_s: after so many seconds without a sign of life the holder's lock is taken away.

    Raises:
        ZooError: the holder's failure, if it gave up while we waited.
        CacheError: if the lock file is not a plain file of ours.
    """
    while True:
        descriptor = folder.open_or_create(name)
        try:
            if not _wait(folder, name, descriptor, ready, progress_of, say, stale_s):
                done = ready()
                if done is not None:
                    return done
                continue
            done = ready()
            if done is None:
                held = Held(folder, name, descriptor, record)
                descriptor = -1
                return held
            # It was done between the last look and our lock, and its file may be one we made anew.
            if _same_file(folder, name, descriptor):
                folder.unlink(name)
            return done
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _wait(
    folder: Folder,
    name: str,
    descriptor: int,
    ready: Callable[[], object | None],
    progress_of: Callable[[dict[str, Any]], str],
    say: Callable[[str], None],
    stale_s: float,
) -> bool:
    """Whether we have the lock now; otherwise this lock file is history."""
    watch = _Watch()
    last = time.monotonic()
    while not try_flock(descriptor):
        status = os.fstat(descriptor)
        if status.st_nlink == 0:  # locked by one who waited like us, and who will see the same
            _raise_failure(_record_of(descriptor))
            return False
        watch.look(status, time.monotonic() - last)
        last = time.monotonic()
        # A file that has just got its name has no stamp yet: to look for it sooner than its owner
        # lets go is to hash it, in every one of those who wait.
        if watch.waited_s >= watch.next_look_s:
            watch.next_look_s += _LOOK_S
            if ready() is not None:
                return False
        if watch.idle_s > stale_s:
            holder = _record_of(descriptor)
            say(
                f"{holder.get('process', 'another process')} has not moved for {stale_s:.0f} s; "
                f"taking over {holder.get('work', 'its work')}"
            )
            # Should the file be another one by now, we wait for that one's owner.
            if _same_file(folder, name, descriptor):
                folder.unlink(name)
            return False
        if watch.waited_s >= watch.next_message_s:
            watch.next_message_s += _MESSAGE_S
            holder = _record_of(descriptor)
            say(
                f"waiting for {holder.get('process', 'another process')}, which does "
                f"{holder.get('work', 'the same')}{progress_of(holder)}"
            )
        time.sleep(min(max(watch.waited_s * _POLL_SHARE, _POLL_S[0]), _POLL_S[1]))
    if _same_file(folder, name, descriptor):
        return True
    # Its owner has finished and removed it. If it failed, we waited for that very attempt.
    _raise_failure(_record_of(descriptor))
    return False


def _same_file(folder: Folder, name: str, descriptor: int) -> bool:
    status = folder.status(name)
    mine = os.fstat(descriptor)
    return status is not None and (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)


def _record_of(descriptor: int) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        record = json.loads(os.read(descriptor, _RECORD_LIMIT))
        if isinstance(record, dict):
            return record
    return {}


def _raise_failure(record: dict[str, Any]) -> None:
    failure = record.get("failure")
    if not isinstance(failure, list) or len(failure) != 5:
        return
    kind, what, where, why, fix = (None if part is None else str(part) for part in failure)
    error = getattr(errors, kind or "", ZooError)
    if isinstance(error, type) and issubclass(error, ZooError):
        raise error(what or "", where=where, why=why, fix=fix)
