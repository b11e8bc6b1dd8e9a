"""Bringing one source's bytes into a partial file: retried, resumed, and verified at the end.

Four records meet here: a ``Place`` is a source as it was named, for messages; ``Remote`` is the
address that it led to, with credentials; ``Partial`` is the file that grows; ``Wanted`` is what it
must be in the end. ``receive`` repeats ``_attempt`` until that holds or ``_Tries`` gives up.
"""

from __future__ import annotations

import email.utils
import http.client
import random
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from torchseg_zoo.errors import DownloadError, IntegrityError, ZooError
from torchseg_zoo.files import open_regular
from torchseg_zoo.weights import pages, sources
from torchseg_zoo.weights.addresses import Address
from torchseg_zoo.weights.http import Clock, Policy, Reply, Stalled, TooSlow, get
from torchseg_zoo.weights.partial import Partial, Provenance
from torchseg_zoo.weights.sources import Place, Remote

__all__ = ["Transfer", "Wanted"]

_BLOCK = 1 << 20
_BUSY = (408, 425, 429)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_MAX_STALLS = 3


@dataclass(frozen=True)
class Wanted:
    """What is known of a file before it is fetched.

    Args:
        sha256: digest in hex: full, its first 8 digits, or "".
        size: length in bytes, where known.
        pinned: whether the digest is what an earlier fetch found, not what was announced.
    """

    sha256: str = ""
    size: int | None = None
    pinned: bool = False

    @property
    def full(self) -> bool:
        """Whether the digest decides alone."""
        return len(self.sha256) == 64

    def check(self, digest: str, size: int, where: str) -> None:
        """Raises ``IntegrityError`` unless a file of this digest and size is the one wanted."""
        if not digest.startswith(self.sha256):
            known = "pinned at the first fetch" if self.pinned else "announced"
            raise IntegrityError(
                "is not the file that was " + known,
                where=where,
                why=f"sha256 is {digest}, {known}: {self.sha256}; {size} bytes",
            )
        self.check_size(size, where)

    def check_size(self, size: int, where: str) -> None:
        """Raises ``IntegrityError`` unless the size is the announced one."""
        if self.size is not None and size != self.size:
            raise IntegrityError(
                "has not the announced size",
                where=where,
                why=f"{size} bytes, announced {self.size}",
            )


class _Bar(Protocol):
    def show(self, got: int, total: int | None) -> None: ...


class _Again(Exception):
    """The attempt failed in a way that another may not."""

    def __init__(self, why: str, *, after_s: float = 0.0, stalled: bool = False) -> None:
        super().__init__(why)
        self.after_s = after_s
        self.stalled = stalled


class _Page(Exception):
    """A web page came instead of the file."""

    def __init__(self, body: bytes, reply: Reply) -> None:
        super().__init__("a web page")
        self.body, self.status = body, reply.status
        self.url = reply.address.url
        cookies = reply.headers.get_all("Set-Cookie") or []
        self.cookie = "; ".join(cookie.partition(";")[0] for cookie in cookies)


class _Tries:
    """What the attempts at one source have come to, and whether another is worth it."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._fruitless = self._stalls = 0
        self.requests = 0

    def failed(self, *, brought_bytes: bool, stalled: bool) -> None:
        """Counts an attempt that may be repeated."""
        self._fruitless = 0 if brought_bytes else self._fruitless + 1
        self._stalls += stalled

    @property
    def used_up(self) -> bool:
        """Whether this source has had its chances."""
        return (
            self._fruitless >= self._policy.fruitless
            or self.requests >= self._policy.requests
            or self._stalls >= _MAX_STALLS
        )

    def pause_s(self) -> float:
        """Seconds to wait before the next, longer each time that nothing came."""
        pause_s = min(self._policy.backoff_s * 2**self._fruitless, self._policy.max_backoff_s)
        # Many machines that were cut off together should not come back together.
        return float(pause_s * random.uniform(0.5, 1.0))


@dataclass
class Transfer:
    """How files are brought here; ``receive`` and ``copy`` do it.

    Args:
        policy: limits.
        clock: the deadline.
        beat: called at least every second or so of work, so that waiting processes see us alive.
        bar: shown how far it is.
    """

    policy: Policy
    clock: Clock
    beat: Callable[[], None]
    bar: _Bar

    def wait(self, seconds: float) -> None:
        """Sleeps, alive."""
        until = time.monotonic() + min(seconds, self.clock.left())
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            self.beat()

    def copy(self, place: Place, partial: Partial, wanted: Wanted) -> None:
        """Copies a local file.

        Raises:
            DownloadError: if it cannot be read, or is a web page that was saved under its name.
            IntegrityError: if it is not the file wanted.
            CacheError: if the copy cannot be written.
        """
        if partial.got:
            partial.restart()
        with open_regular(place.path, error=DownloadError) as file:
            start = file.read(pages.SNIFF)
            if pages.looks_like_page(start, "", place.path.name):
                what = f"is a {pages.describe(start + file.read(pages.PAGE_LIMIT))}, not a file"
                raise DownloadError(what, where=place.name)
            partial.append(start)
            while block := file.read(_BLOCK):
                partial.append(block)
                self.bar.show(partial.got, wanted.size)
                self.beat()
        wanted.check(partial.sha256, partial.got, place.name)

    def receive(self, place: Place, remote: Remote, partial: Partial, wanted: Wanted) -> None:
        """Downloads, or goes on downloading, until the partial file is whole and verified.

        Args:
            place: the source, as messages name it.
            remote: where its bytes are.
            partial: the file that they go to; what it holds already is kept if it can be.
            wanted: what it must be.

        Raises:
            DownloadError: if it cannot be had from here.
            IntegrityError: if what comes is not the file wanted.
            CacheError: if it cannot be written.
        """
        tries = _Tries(self.policy)
        confirmed = started_over = False
        while True:
            before = partial.got
            tries.requests += 1
            try:
                self._attempt(place, remote, partial, wanted)
                wanted.check(partial.sha256, partial.got, place.name)
                return
            except IntegrityError:
                mixed = partial.resumed
                partial.restart()
                # Bytes of two connections may not belong together: once more, from the beginning.
                if not mixed or started_over:
                    raise
                started_over = True
                continue
            except _Page as page:
                link = pages.confirmation(page.body, page.url) if place.kind == "drive" else None
                if link is None or confirmed:
                    raise self._page_error(place, page) from None
                confirmed = True
                remote = _confirmed(place, remote, page, link)
                continue
            except _Again as failure:
                reason, after_s, stalled = str(failure), failure.after_s, failure.stalled
            except TooSlow as error:
                raise self._failure(place, partial, wanted, f"too slow: {error}") from error
            except ZooError:  # some of ours are OSErrors, too, and final
                raise
            except ssl.SSLCertVerificationError as error:  # time does not heal it
                raise DownloadError(
                    "the server's certificate cannot be verified",
                    where=place.name,
                    why=error.verify_message,
                    fix="set SSL_CERT_FILE to the authorities that you trust",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                reason, after_s, stalled = _words(error), 0.0, isinstance(error, Stalled)
            tries.failed(brought_bytes=partial.got > before, stalled=stalled)
            if tries.used_up:
                raise self._failure(place, partial, wanted, f"{reason}; {tries.requests} requests")
            pause_s = max(after_s, tries.pause_s())
            if after_s > self.policy.max_backoff_s or pause_s >= self.clock.left():
                why = f"{reason}; no time left to try again in {pause_s:.0f} s"
                raise self._failure(place, partial, wanted, why)
            self.wait(pause_s)

    def _attempt(self, place: Place, remote: Remote, partial: Partial, wanted: Wanted) -> None:
        """One request. What ends it early may be tried again if it is an ``_Again`` or ``OSError``.

        Bytes that are here are built upon if the digest will tell in the end whether they fit, or
        if the server confirms (``If-Range``) that they are of the file that it has now.
        """
        came_from = partial.provenance
        same = came_from.url == place.key
        if partial.got and not (wanted.full or (same and came_from.validator)):
            partial.restart()
        if partial.got and partial.got == (wanted.size or (same and came_from.total)):
            return
        headers = {"Accept": "*/*"}
        if partial.got:
            headers["Range"] = f"bytes={partial.got}-"
            if same and came_from.validator:
                headers["If-Range"] = came_from.validator
        self.beat()
        with get(
            remote.url,
            headers,
            credentials=remote.credentials,
            policy=self.policy,
            clock=self.clock,
        ) as reply:
            self._check_status(place, reply, partial)
            total = self._total(reply, partial, same=same)
            self._body(place, reply, partial, wanted, total)

    def _check_status(self, place: Place, reply: Reply, partial: Partial) -> None:
        """Returns if the body is the file, or a part of it."""
        if reply.status in (200, 206):
            coding = reply.headers.get("Content-Encoding", "identity").strip().lower()
            if coding not in ("identity", ""):
                raise DownloadError(f"came as {coding}, which was not asked for", where=place.name)
            return
        if reply.status == 416:  # our bytes are not of the file that is there now
            partial.restart()
            raise _Again("HTTP 416")
        body = _start_of(reply, 64 * 1024)
        kind = reply.headers.get("Content-Type", "")
        page = pages.looks_like_page(body[: pages.SNIFF], kind, "")
        words = pages.describe(body) if page else ""
        if (reply.status in _BUSY or reply.status >= 500) and "quota" not in words:
            after_s = _retry_after(reply.headers.get("Retry-After", ""))
            raise _Again(f"HTTP {reply.status}", after_s=after_s)
        if page:
            raise _Page(body, reply)
        reason = http.client.responses.get(reply.status, "unknown status")
        raise DownloadError(f"HTTP {reply.status} {reason}", where=place.name)

    def _total(self, reply: Reply, partial: Partial, *, same: bool) -> int | None:
        """The whole file's length, once it is sure that the body goes on where we are."""
        if reply.status == 200:
            if partial.got:
                partial.restart()
            return reply.length
        match = _RANGE.fullmatch(reply.headers.get("Content-Range", "").strip())
        known = partial.provenance
        total = int(match[3]) if match and match[3] != "*" else None
        etag = reply.headers.get("ETag", "")
        changed = (
            same and known.validator.startswith('"') and bool(etag) and etag != known.validator
        )
        other_size = same and known.total is not None and total not in (None, known.total)
        if match is None or int(match[1]) != partial.got or changed or other_size:
            partial.restart()
            raise _Again("the server sent another part than was asked for")
        partial.resumed = True
        return total if total is not None else int(match[2]) + 1

    def _body(
        self, place: Place, reply: Reply, partial: Partial, wanted: Wanted, total: int | None
    ) -> None:
        """Appends what comes; of a new file the first bytes are held back until they are judged."""
        limit = next(n for n in (wanted.size, total, self.policy.max_bytes) if n is not None)
        start, begun = b"", partial.got > 0
        if begun:
            self._begin(place, reply, partial, wanted, total)
        for block in reply.blocks():
            if begun:
                partial.append(block)
            else:
                start += block
                if len(start) < pages.SNIFF:
                    continue
                self._begin(place, reply, partial, wanted, total, start)
                begun = True
            if partial.got > limit:
                raise IntegrityError(
                    "is longer than announced",
                    where=place.name,
                    why=f"{partial.got} bytes and more, announced {limit}",
                )
            self.bar.show(partial.got, total or wanted.size)
            self.beat()
        if not begun:
            self._begin(place, reply, partial, wanted, total, start)
        whole = total if total is not None else wanted.size
        if whole is not None and partial.got < whole:
            raise _Again(f"cut at {partial.got} of {whole} bytes")
        if whole is None and not reply.framed and not wanted.full:
            raise DownloadError(
                "cannot tell whether this is the whole file",
                where=place.name,
                why="the server gives no length, and no digest is known",
            )

    def _begin(
        self,
        place: Place,
        reply: Reply,
        partial: Partial,
        wanted: Wanted,
        total: int | None,
        start: bytes = b"",
    ) -> None:
        """Judges the body by its first bytes and its length before any of it is kept."""
        path = place.parts[-1] if place.kind == "hub" else urlsplit(place.url).path
        kind = reply.headers.get("Content-Type", "")
        if start and pages.looks_like_page(start[: pages.SNIFF], kind, path):
            raise _Page(start + _start_of(reply, pages.PAGE_LIMIT), reply)
        if total is not None:
            wanted.check_size(total, place.name)
            partial.make_room(total)
        etag = reply.headers.get("ETag", "").strip()
        strong = etag if etag.startswith('"') else ""
        validator = strong or reply.headers.get("Last-Modified", "").strip()
        partial.comes_from(Provenance(place.key, validator, total))
        if start:
            partial.append(start)

    def _failure(self, place: Place, partial: Partial, wanted: Wanted, why: str) -> DownloadError:
        total = wanted.size or partial.provenance.total
        return DownloadError(
            "could not be fetched",
            where=place.name,
            why=f"{why}; got {partial.got} of {total if total else 'an unknown number of'} bytes",
        )

    def _page_error(self, place: Place, page: _Page) -> DownloadError:
        words = pages.describe(page.body, page.status)
        return DownloadError(f"{words} instead of the file", where=place.name)


def _confirmed(place: Place, remote: Remote, page: _Page, link: str) -> Remote:
    """The request behind Drive's "download anyway"."""
    to, base = Address.parse(link), Address.parse(sources.DRIVE)
    google = to.scheme == "https" and to.host.endswith((".google.com", ".googleusercontent.com"))
    if not google and to.origin != base.origin:
        raise DownloadError(
            f"refused to follow the confirmation page to {to.host}",
            where=place.name,
            why="it does not belong to Google",
        )
    same = to.origin == Address.parse(page.url).origin
    cookie = {"Cookie": page.cookie} if page.cookie and same else {}
    return Remote(to.url, cookie, remote.sha256, remote.size)


def _start_of(reply: Reply, limit: int) -> bytes:
    body = b""
    try:
        for block in reply.blocks():
            body += block
            if len(body) >= limit:
                break
    except (Stalled, TooSlow, http.client.HTTPException, ConnectionError):
        pass  # it is only needed for a message
    return body[:limit]


def _retry_after(text: str) -> float:
    """Seconds that a ``Retry-After`` header asks for; 0 if it asks for nothing intelligible."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = email.utils.parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{type(error).__name__}: {text}"
