"""One GET, under our rules: who may be talked to, how long, and what may be sent on.

Built on ``http.client``, because the address that is connected to must be known, redirects must be
judged one by one, and every wait needs a limit.
"""

from __future__ import annotations

import base64
import functools
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message

from torchseg_zoo._version import __version__
from torchseg_zoo.closing import Closing
from torchseg_zoo.errors import DownloadError
from torchseg_zoo.weights import proxies
from torchseg_zoo.weights.addresses import Address, Origin, configured_origins, connect, redacted

__all__ = ["Clock", "Policy", "Reply", "Stalled", "TooSlow", "get"]

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Policy:
    """Limits of a download.

    Args:
        deadline_s: for the whole of it: all sources, retries and waits, in seconds.
        connect_s: for connecting and for the answer's headers, in seconds.
        window_s: in so many seconds at least ``min_rate`` × ``window_s`` bytes must arrive.
        min_rate: bytes per second.
        requests: most requests to one source.
        fruitless: most of them in a row that bring no bytes.
        backoff_s: first pause between two; doubled each time, and never above ``max_backoff_s``.
        max_backoff_s: longest pause, also the longest that a server may ask for, in seconds.
        stale_s: seconds without a sign of life after which another process's download is taken
            over.
        max_bytes: longest file whose length nobody has announced.
    """

    deadline_s: float = 3600.0
    connect_s: float = 20.0
    window_s: float = 20.0
    min_rate: float = 1024.0
    requests: int = 8
    fruitless: int = 5
    backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    stale_s: float = 60.0
    max_bytes: int = 8 << 30


class Clock:
    """What is left of a deadline."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._until = time.monotonic() + deadline_s

    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self._until - time.monotonic())

    def check(self, where: str) -> None:
        """Raises ``DownloadError`` once nothing is left."""
        if self.left() <= 0:
            raise DownloadError(
                f"not done within {self.deadline_s:g} s", where=where, fix="try again later"
            )


class Stalled(OSError):
    """Nothing came for too long."""


class TooSlow(OSError):
    """Bytes came, but fewer than the minimum rate asks for."""


class _Watchdog(Closing):
    """Shuts a socket down unless it is called off in time; it bounds what is read line by line."""

    def __init__(self, stream: socket.socket, seconds: float) -> None:
        self.stream = stream
        self._timer = threading.Timer(seconds, self._bite)
        self._timer.daemon = True
        self.bitten = False

    def _bite(self) -> None:
        self.bitten = True
        with suppress(OSError):
            # Not the method of an SSL socket: that one takes its state apart under the reader.
            socket.socket.shutdown(self.stream, socket.SHUT_RDWR)

    def __enter__(self) -> _Watchdog:
        self._timer.start()
        return self

    def close(self) -> None:
        """Calls it off."""
        self._timer.cancel()


class Reply(Closing):
    """The answer to a GET; use it in a ``with`` block."""

    def __init__(
        self,
        address: Address,
        response: http.client.HTTPResponse,
        connection: http.client.HTTPConnection,
        stream: socket.socket,
        policy: Policy,
        clock: Clock,
    ) -> None:
        self.address = address
        self.status = response.status
        self.headers: Message = response.headers
        self.length = response.length  # of this body in bytes; None when chunked or not announced
        self.framed = response.chunked or response.length is not None  # a cut can be told
        self._response, self._connection, self._stream = response, connection, stream
        self._policy, self._clock = policy, clock

    def close(self) -> None:
        """Ends the connection."""
        self._response.close()
        self._connection.close()
        self._stream.close()

    def blocks(self) -> Iterator[bytes]:
        """The body as it comes, up to 1 MiB at a time.

        Raises:
            DownloadError: when the deadline is over.
            Stalled: if nothing came for ``window_s``.
            TooSlow: if less came than the minimum rate asks for.
            OSError, http.client.HTTPException: as the connection breaks.
        """
        policy = self._policy
        window_start, in_window = time.monotonic(), 0
        while True:
            self._clock.check(redacted(self.address.url))
            if self._response.isclosed():  # Python 3.14 closes the socket with the last byte
                return
            self._stream.settimeout(max(0.05, min(policy.window_s, self._clock.left())))
            try:
                block = self._response.read1(_BLOCK)
            except TimeoutError as error:
                self._clock.check(redacted(self.address.url))
                raise Stalled(f"no bytes for {policy.window_s:g} s") from error
            if not block:
                return
            in_window += len(block)
            yield block
            now = time.monotonic()
            elapsed_s = now - window_start
            if elapsed_s >= policy.window_s:
                rate = in_window / elapsed_s
                # A read lasts one window at most. If much more has passed, this process was stopped
                # and woken, which is not the server's fault.
                if rate < policy.min_rate and elapsed_s < 3 * policy.window_s:
                    raise TooSlow(f"{rate:.0f} B/s, below {policy.min_rate:.0f} B/s")
                window_start, in_window = now, 0


def get(
    url: str,
    headers: Mapping[str, str],
    *,
    credentials: Mapping[str, str],
    policy: Policy,
    clock: Clock,
) -> Reply:
    """Sends a GET and follows redirects under our rules.

    Args:
        url: absolute; http only for a configured origin.
        headers: sent to every host on the way.
        credentials: headers sent to the URL's own origin only.
        policy: limits.
        clock: the deadline.

    Raises:
        DownloadError: if a host, scheme or redirect is refused, or the deadline is over.
        OSError, http.client.HTTPException: as the connection breaks.
    """
    trusted = configured_origins()
    address = Address.parse(url)
    first = address
    previous = ""
    secrets = dict(credentials)
    if address.user and "Authorization" not in secrets:
        token = base64.b64encode(address.user.encode()).decode()
        secrets["Authorization"] = f"Basic {token}"
    for _ in range(_MAX_REDIRECTS + 1):
        clock.check(redacted(url))
        address.check_scheme(trusted, redirect_from=previous)
        mine = secrets if address.origin == first.origin else {}
        reply = _get_once(address, {**headers, **mine}, trusted, previous, policy, clock)
        if reply.status not in _REDIRECTS:
            return reply
        with reply:
            location = reply.headers.get("Location")
        if not location:
            raise DownloadError("a redirect to nowhere", where=redacted(address.url))
        previous = address.url
        address = address.redirected(location)
        if address.origin != first.origin:
            secrets = {}  # and they are not sent again should the way lead back
    raise DownloadError(f"more than {_MAX_REDIRECTS} redirects", where=redacted(url))


def _get_once(
    address: Address,
    headers: Mapping[str, str],
    trusted: frozenset[Origin],
    previous: str,
    policy: Policy,
    clock: Clock,
) -> Reply:
    limit_s = max(0.05, min(policy.connect_s, clock.left()))
    stream, target, for_proxy = _connected(address, trusted, previous, limit_s)
    connection = http.client.HTTPConnection(address.host, address.port)
    try:
        with _Watchdog(stream, limit_s) as watchdog:
            try:
                stream.settimeout(limit_s)
                if address.scheme == "https":
                    # The handshake waits until the watchdog knows the new socket.
                    stream = watchdog.stream = _tls().wrap_socket(
                        stream, server_hostname=address.host, do_handshake_on_connect=False
                    )
                    stream.do_handshake()
                connection.sock = stream
                connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
                connection.putheader("Host", address.authority)
                connection.putheader("User-Agent", f"torchseg-zoo/{__version__}")
                # A compressed body would have another length and digest.
                connection.putheader("Accept-Encoding", "identity")
                for name, value in {**headers, **for_proxy}.items():
                    connection.putheader(name, value)
                connection.endheaders()
                response = connection.getresponse()
            except (OSError, http.client.HTTPException, ValueError) as error:
                if watchdog.bitten or isinstance(error, TimeoutError):
                    raise Stalled(f"no answer within {limit_s:g} s") from error
                if isinstance(error, ValueError) and not isinstance(error, OSError):
                    raise http.client.HTTPException(f"odd answer: {error}") from error
                raise
        return Reply(address, response, connection, stream, policy, clock)
    except BaseException:
        connection.close()
        stream.close()
        raise


def _connected(
    address: Address, trusted: frozenset[Origin], previous: str, limit_s: float
) -> tuple[socket.socket, str, dict[str, str]]:
    """A socket that leads to the host, the target to ask for on it, and headers for a proxy."""
    proxy = proxies.proxy_for(address)
    if proxy is None:
        stream = connect(address, trusted=trusted, timeout_s=limit_s, redirect_from=previous)
        return stream, address.target, {}
    if address.origin not in trusted:
        proxies.check_behind_proxy(address, redirect_from=previous)
    stream = connect(proxy, trusted=trusted | {proxy.origin}, timeout_s=limit_s)
    if address.scheme == "http":
        return stream, address.url, proxies.proxy_headers(proxy)
    try:
        proxies.open_tunnel(stream, address, proxies.proxy_headers(proxy))
        return stream, address.target, {}
    except BaseException:
        stream.close()
        raise


def _tls() -> ssl.SSLContext:
    return _tls_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.cache
def _tls_context(_file: str | None, _directory: str | None) -> ssl.SSLContext:
    # OpenSSL reads the two variables itself; they are arguments so that a change is noticed.
    return ssl.create_default_context()
