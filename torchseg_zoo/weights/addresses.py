"""Which machines a download may talk to: public ones over https, and what the user has configured.

A redirect or a rebound name must not turn the user's machine into a client of its own network. So
plain http and non-public addresses are for configured origins only (``TORCHSEG_ZOO_MIRROR``,
``HF_ENDPOINT``), and it is the very address that is connected to which is checked.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from torchseg_zoo.errors import DownloadError
from torchseg_zoo.files import printable

__all__ = [
    "Address",
    "configured_origins",
    "connect",
    "hub_endpoint",
    "is_public",
    "mirrors",
    "redacted",
]

MIRROR_VARIABLE = "TORCHSEG_ZOO_MIRROR"
_ENDPOINT_VARIABLE = "HF_ENDPOINT"
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Origin = tuple[str, str, int]


def mirrors() -> list[str]:
    """The mirrors of ``TORCHSEG_ZOO_MIRROR``: URLs or folders, separated by blanks."""
    return os.environ.get(MIRROR_VARIABLE, "").split()


def hub_endpoint() -> str | None:
    """The hub's address where the user has set another one (``HF_ENDPOINT``)."""
    return os.environ.get(_ENDPOINT_VARIABLE, "").rstrip("/") or None


def configured_origins() -> frozenset[Origin]:
    """(scheme, host, port) of each mirror and endpoint that the user has configured."""
    found = set()
    for url in (*mirrors(), hub_endpoint() or ""):
        if url.startswith(("http://", "https://")):
            found.add(Address.parse(url).origin)
    return frozenset(found)


def redacted(url: str) -> str:
    """The URL for messages: without user, password and query, which may hold secrets."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "a malformed URL"
    return printable(urlunsplit((parts.scheme, host, parts.path, "", "")))


@dataclass(frozen=True)
class Address:
    """A parsed http(s) URL, free of credentials.

    Args:
        scheme: ``http`` or ``https``.
        host: lower case, without brackets.
        port: always given.
        target: path and query, quoted.
        user: ``user:password`` of the URL, or "".
    """

    scheme: str
    host: str
    port: int
    target: str
    user: str = ""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Reads an absolute URL.

        Raises:
            DownloadError: if it is malformed or its scheme is not http or https.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            if parts.scheme not in _PORTS:
                raise ValueError(f"scheme {parts.scheme!r} is not https")
            if not host or any(mark <= " " or mark == "\x7f" for mark in host):
                raise ValueError("it has no host")
            safe = "/%:@!$&'()*+,;=~-._"
            target = quote(parts.path or "/", safe=safe, errors="surrogatepass")
            if parts.query:
                target += "?" + quote(parts.query, safe=safe + "?", errors="surrogatepass")
        except ValueError as error:
            raise DownloadError(
                "cannot fetch this URL",
                where=redacted(url),
                why=printable(error),
                fix="check the URL",
            ) from error
        user = unquote(parts.netloc.rpartition("@")[0])
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], target, user)

    @property
    def origin(self) -> Origin:
        """(scheme, host, port): what credentials belong to."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """host[:port], as in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL again, without credentials."""
        return f"{self.scheme}://{self.authority}{self.target}"

    def redirected(self, location: str) -> Address:
        """Where a ``Location`` header leads.

        Raises:
            DownloadError: if it leads to another scheme, or is malformed.
        """
        try:
            to = Address.parse(urljoin(self.url, location))
        except (DownloadError, ValueError) as error:
            scheme = location.split(":", 1)[0][:20]
            raise DownloadError(
                f"refused redirect to {scheme}:",
                where=redacted(self.url),
                why="only https is followed",
                fix="fetch the file by other means",
            ) from error
        return replace(to, user="")

    def check_scheme(self, trusted: frozenset[Origin], *, redirect_from: str = "") -> None:
        """Refuses plain http, but for configured origins.

        Raises:
            DownloadError: if it is refused.
        """
        if self.scheme == "https" or self.origin in trusted:
            return
        raise _refused(self, "plain http can be changed on the way", redirect_from)


def _refused(address: Address, why: str, redirect_from: str) -> DownloadError:
    target = f"{address.scheme}://{address.authority}"
    return DownloadError(
        f"refused redirect to {target}" if redirect_from else f"refused to connect to {target}",
        where=redacted(redirect_from or address.url),
        why=why,
        fix=f"if this is your own server, name it in {MIRROR_VARIABLE}",
    )


def is_public(text: str) -> bool:
    """Whether an IP address, in any spelling that the resolver hands out, is on the internet."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        # Addresses of version 4 in the dress of version 6 reach the machine that they embed.
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64 or int(address) >> 32 == 0:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def connect(
    address: Address, *, trusted: frozenset[Origin], timeout_s: float, redirect_from: str = ""
) -> socket.socket:
    """Connects to the first reachable address of a host, all of which must be allowed.

    The name is resolved once, and what was checked is what is connected to: a name that answers
    differently the second time (DNS rebinding) gains nothing.

    Raises:
        DownloadError: if it leads into a private network and is not configured.
        OSError: if it cannot be resolved or reached.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # no host can have this name
        raise OSError(f"{address.host} is not a host name") from error
    if address.origin not in trusted:
        private = [str(place[0]) for *_, place in found if not is_public(str(place[0]))]
        if private:
            why = f"{address.host} is {private[0]}, not a public address"
            raise _refused(address, why, redirect_from)
    failure = OSError(f"{address.host} has no address")
    until = time.monotonic() + timeout_s
    for index, (family, kind, protocol, _, place) in enumerate(found):
        # Each gets a share: one that swallows packets (broken IPv6) must leave time for the others.
        remaining = max(0.05, (until - time.monotonic()) / (len(found) - index))
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(remaining)
            connection.connect(place)
            peer = str(connection.getpeername()[0])
            if address.origin not in trusted and not is_public(peer):
                raise _refused(address, f"connected to {peer}, not public", redirect_from)
            return connection
        except DownloadError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
    raise failure
