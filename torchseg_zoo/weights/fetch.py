"""The one door for files from elsewhere: found, downloaded once, verified, cached.

A file gets its final name, which is its digest, only when it is whole and verified. See ``cache``
for the layout, ``lock`` for how many processes share one download, ``addresses`` and ``http`` for
whom we talk to and how long, ``transfer`` for retries and resumption, ``sources`` for where bytes
come from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchseg_zoo.errors import (
    ArgumentError,
    CacheError,
    DownloadError,
    IntegrityError,
    ZooError,
    listed,
)
from torchseg_zoo.files import printable, sha256_of
from torchseg_zoo.weights import lock, sources
from torchseg_zoo.weights.cache import Cache, Pin, cache_root
from torchseg_zoo.weights.http import Clock, Policy
from torchseg_zoo.weights.partial import WORTH_KEEPING, Partial, collect_old, take_up
from torchseg_zoo.weights.progress import Bar, first_rank, say
from torchseg_zoo.weights.sources import Place
from torchseg_zoo.weights.transfer import Transfer, Wanted

__all__ = ["fetch", "import_file"]

_DEADLINE_VARIABLE = "TORCHSEG_ZOO_DEADLINE"
_SHOWN = 8
_TAKEN_AWAY = 3  # times that a download may lose its file to another process

Source = str | os.PathLike[str]


def fetch(
    url_or_urls: Source | Sequence[Source],
    *,
    sha256: str | None = None,
    size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Returns the cached, verified file behind a source, and downloads it first if need be.

    Any number of processes may ask at once: one downloads, the others wait for it. A download that
    was interrupted is resumed. The mirrors of ``TORCHSEG_ZOO_MIRROR`` are tried first, then the
    sources in the order given. With ``TORCHSEG_ZOO_OFFLINE=1`` or ``HF_HUB_OFFLINE=1`` no socket is
    opened. The whole may take ``TORCHSEG_ZOO_DEADLINE`` seconds, by default 3600.

    Args:
        url_or_urls: one source or several of the same file: ``https://…``,
            ``hf://org/repo@revision/file``, ``gdrive://ID``, ``file://…`` or a path. Plain http and
            private addresses are for hosts named in ``TORCHSEG_ZOO_MIRROR`` or ``HF_ENDPOINT``.
        sha256: the file's digest in hex: 64 digits, or the 8 that some publishers give. Where it is
            not full, the digest that is found at the first fetch is pinned in the cache, and any
            other one is an error from then on.
        size: the file's length in bytes.
        cache_dir: top directory of the cache; by default ``TORCHSEG_ZOO_CACHE``, else
            ``torchseg_zoo`` under ``XDG_CACHE_HOME`` or ``~/.cache``.
        progress: show a progress bar and waiting messages, on rank 0 only.

    Returns:
        Path of a file that nobody rewrites in place, named by its digest; or of the file in the
        Hugging Face hub's cache, where that already has it.

    Raises:
        ArgumentError: if an argument makes no sense.
        DownloadError: if no source gives the file.
        IntegrityError: if what a source gives is not the file that was announced or pinned.
        CacheError: if the cache cannot be used, is full, or holds something planted.
    """
    return _Fetch(url_or_urls, sha256, size, progress, _policy()).run(cache_root(cache_dir))


def import_file(
    path: str | os.PathLike[str],
    url_or_urls: Source | Sequence[Source],
    *,
    sha256: str | None = None,
    size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Puts a file that was fetched by hand into the cache, as if ``fetch`` had fetched it.

    Args:
        path: the file; it is copied.
        url_or_urls: the sources that it stands for.
        sha256: as for ``fetch``.
        size: as for ``fetch``.
        cache_dir: as for ``fetch``.

    Raises:
        ArgumentError, DownloadError, IntegrityError, CacheError: as ``fetch``.
    """
    work = _Fetch(url_or_urls, sha256, size, False, _policy())
    work.places = [sources.parse(Path(path))]
    try:
        return work.run(cache_root(cache_dir))
    except (DownloadError, IntegrityError) as error:
        raise type(error)(
            error.what, where=error.where, why=error.why, fix="get the file from its source again"
        ) from error


class _Fetch:
    """One call of ``fetch``: what is wanted, and from where."""

    def __init__(
        self,
        url_or_urls: Source | Sequence[Source],
        sha256: str | None,
        size: int | None,
        progress: bool,
        policy: Policy,
    ) -> None:
        self.named = _places(url_or_urls)
        self.wanted = Wanted(_digest(sha256), _size(size))
        mirrors = sources.mirror_places(self.named, self.wanted.sha256)
        self.places = [*mirrors, *self.named] if self._pinnable() else self.named
        self.policy = policy
        self.progress = progress and first_rank()
        self._local_digest = ""
        self._stated = False  # whether the source itself gives the full digest

    def run(self, root: Path) -> Path:
        """The cached file, or the downloaded one."""
        with Cache(root) as cache:
            self.cache = cache
            found = self._cached() or self._cached_by_the_hub()
            if found:
                return found
            self._stay_offline()
            self._prepare()
            held = lock.acquire(
                cache.folder("locks"),
                self._key(),
                record={
                    "process": f"process {os.getpid()} on {_node()}",
                    "work": f"the download of {self.named[0].name}",
                },
                ready=self._cached,
                progress_of=self._progress_of,
                say=say if self.progress else lambda _: None,
                stale_s=self.policy.stale_s,
            )
            if isinstance(held, Path):
                return held
            with held:
                for _ in range(_TAKEN_AWAY):
                    try:
                        return self._download(held)
                    except (FileNotFoundError, DownloadError) as error:
                        # If this process was frozen, another has done its work meanwhile, and
                        # may have collected its file.
                        if found := self._cached():
                            return found
                        if isinstance(error, DownloadError):
                            raise
            raise CacheError(
                "files vanish from the cache while they are written",
                where=printable(root),
                fix="try again",
            )

    def _key(self) -> str:
        return self.wanted.sha256 if self.wanted.full else self.named[0].key

    def _pinned(self) -> Wanted:
        """What is wanted, made sharper by what an earlier fetch has found."""
        if self.wanted.full:
            return self.wanted
        pin = self.cache.pin_of(place.key for place in self._pinnable())
        # A prefix that is announced now counts for more than a pin that contradicts it.
        if pin is None or not pin.sha256.startswith(self.wanted.sha256):
            return self.wanted
        return Wanted(pin.sha256, self.wanted.size, pinned=True)

    def _pinnable(self) -> list[Place]:
        return [place for place in self.named if place.kind != "file"]

    def _cached(self) -> Path | None:
        wanted = self._pinned()
        sha256 = wanted.sha256 if wanted.full else ""
        if not sha256 and not self._pinnable() and len(self.places) == 1:
            sha256 = self._digest_of_local()
        path = self.cache.find(sha256) if sha256 else None
        if path is not None:
            wanted.check(sha256, path.stat().st_size, printable(path))
        return path

    def _digest_of_local(self) -> str:
        """The digest of the one local source; it may change between calls, so it is not pinned."""
        if not self._local_digest:
            self._local_digest = sha256_of(self.places[0].path, error=DownloadError)
        return self._local_digest

    def _cached_by_the_hub(self) -> Path | None:
        for place in self.places:
            path = sources.hub_cached(place) if place.kind == "hub" else None
            if path is None:
                continue
            # The hub names large files by their digest.
            stored = path.resolve().name
            announced = self._pinned().sha256 or (stored if len(stored) == 64 else "")
            digest = sha256_of(path, error=CacheError)
            if digest.startswith(announced):
                return path
            say(f"{printable(path)} is not the file that was announced; fetching it anew")
        return None

    def _stay_offline(self) -> None:
        variable = sources.offline()
        if not variable:
            return
        self.places = [place for place in self.places if place.kind == "file"]
        if self.places and any(place.path.exists() for place in self.places):
            return
        held = self.cache.contents()
        raise DownloadError(
            "offline, and not in the cache",
            where=self.named[0].name,
            why=f"{variable} is set; {printable(self.cache.root)} holds "
            f"{listed(held, _SHOWN) or 'nothing'}",
            fix=f"unset {variable}, or {_by_hand()}",
        )

    def _prepare(self) -> None:
        try:
            self.cache.prepare()
        except CacheError as error:
            if not self.cache.damaged:
                raise
            why = "its copy of the file is damaged" + (f", {error.why}" if error.why else "")
            raise CacheError(error.what, where=error.where, why=why, fix=error.fix) from error
        for sha256 in self.cache.damaged:
            path = printable(self.cache.root / "blobs" / sha256)
            say(f"{path} is damaged; fetching it again")

    def _download(self, held: lock.Held) -> Path:
        clock = Clock(self.policy.deadline_s)
        partials = self.cache.folder("partial")
        collect_old(self.cache.folder(name) for name in ("partial", "locks", "pins", "stamps"))
        partial = take_up(partials, self._key(), exclusive=held.excludes(), beat=held.beat)
        held.tell(partial=partial.name, total=self.wanted.size)
        bar = Bar(self.named[0].name, shown=self.progress)
        transfer = Transfer(self.policy, clock, held.beat, bar)
        keep = False
        try:
            place = self._first_good(transfer, partial)
            return self._keep(partial, place)
        except (DownloadError, KeyboardInterrupt):
            # What came is worth the next attempt's time, if a server can be asked for the rest.
            resumable = self.wanted.full or bool(partial.provenance.validator)
            worth = resumable and partial.got >= WORTH_KEEPING
            keep = worth and self._cached() is None
            raise
        finally:
            bar.close()
            partial.close(keep=keep)

    def _first_good(self, transfer: Transfer, partial: Partial) -> Place:
        failures: list[ZooError] = []
        for place in self.places:
            wanted = self._pinned()
            try:
                if place.kind == "file":
                    transfer.copy(place, partial, wanted)
                    return place
                remote = place.remote(self.policy, transfer.clock, transfer.wait)
                self._stated = bool(remote.sha256)
                if self._stated:
                    wanted = _agreed(wanted, remote, place)
                transfer.receive(place, remote, partial, wanted)
                return place
            except (DownloadError, IntegrityError) as error:
                failures.append(error)
        raise _all_failed(failures, partial)

    def _keep(self, partial: Partial, place: Place) -> Path:
        sha256 = partial.sha256
        partial.flush()
        path = self.cache.keep(
            self.cache.folder("partial"), partial.name, sha256, source=place.name
        )
        if not self.wanted.full:
            pinned = self._pinned().pinned
            for named in self._pinnable():
                self.cache.pin(named.key, Pin(named.name, sha256, partial.got))
            if self._pinnable() and not pinned and not self._stated:
                known = f"only {self.wanted.sha256}…" if self.wanted.sha256 else "no digest"
                say(
                    f"{self.named[0].name}: {known} is published; sha256 {sha256} is pinned from "
                    "now on"
                )
        return path

    def _progress_of(self, record: dict[str, Any]) -> str:
        name, total = str(record.get("partial", "")), record.get("total")
        status = self.cache.folder("partial").status(name) if name and "/" not in name else None
        if status is None:
            return ""
        of = f" of {total / 1e6:.1f}" if isinstance(total, int) else ""
        return f": {status.st_size / 1e6:.1f}{of} MB so far"


def _agreed(wanted: Wanted, remote: sources.Remote, place: Place) -> Wanted:
    """What is wanted, together with what the source states of itself."""
    if not remote.sha256.startswith(wanted.sha256):
        wanted.check(remote.sha256, remote.size or 0, place.name)
    size = wanted.size if wanted.size is not None else remote.size
    return Wanted(remote.sha256, size, pinned=wanted.pinned)


def _all_failed(failures: list[ZooError], partial: Partial) -> ZooError:
    """One error for all sources, in which a wrong file outweighs an absent one."""
    wrong = [error for error in failures if isinstance(error, IntegrityError)]
    main = wrong[-1] if wrong else failures[-1]
    others = "; ".join(str(error) for error in failures if error is not main)
    why = main.why or ""
    if partial.got >= WORTH_KEEPING:
        why += f"; {partial.got / 1e6:.0f} MB are kept for the next try"
    if others:
        why += f"; also tried: {others}"
    fixes = [main.fix] if main.fix else []
    error = type(main)(
        main.what,
        where=main.where,
        why=why.removeprefix("; ") or None,
        fix=", or ".join([*fixes, _by_hand()]),
    )
    error.__cause__ = main
    return error


def _by_hand() -> str:
    return "fetch it by hand and run: torchseg-zoo weights import FILE"


def _policy() -> Policy:
    text = os.environ.get(_DEADLINE_VARIABLE, "")
    if not text:
        return Policy()
    try:
        seconds = float(text)
        if not 0 < seconds < 1e9:
            raise ValueError
    except ValueError:
        raise ArgumentError(
            f"expected seconds, got {text!r}", where=_DEADLINE_VARIABLE, fix="e.g. 600"
        ) from None
    return Policy(deadline_s=seconds)


def _places(url_or_urls: Source | Sequence[Source]) -> list[Place]:
    if isinstance(url_or_urls, str | os.PathLike):
        return [sources.parse(url_or_urls)]
    try:
        places = [sources.parse(url) for url in url_or_urls]
    except TypeError as error:
        kind = type(url_or_urls).__name__
        raise ArgumentError(f"expected URLs or paths, got {kind}", where="url_or_urls") from error
    if not places:
        raise ArgumentError("there is nothing to fetch from", where="url_or_urls")
    return places


def _digest(sha256: str | None) -> str:
    text = sha256.lower() if isinstance(sha256, str) else ""
    if sha256 is not None and not isinstance(sha256, str):
        raise ArgumentError(f"expected hex digits, got {type(sha256).__name__}", where="sha256")
    if len(text) not in (0, 8, 64) or not set(text) <= set("0123456789abcdef"):
        raise ArgumentError(f"expected 64 or 8 hex digits, got {sha256!r}", where="sha256")
    return text


def _size(size: int | None) -> int | None:
    if size is not None and (not isinstance(size, int) or size < 0):
        raise ArgumentError(f"expected a number of bytes, got {size!r}", where="size")
    return size


def _node() -> str:
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
