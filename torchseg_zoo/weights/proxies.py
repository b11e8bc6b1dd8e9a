"""Going through the proxy that ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` ask for."""

from __future__ import annotations

import base64
import ipaddress
import socket
import urllib.request

from torchseg_zoo.errors import DownloadError
from torchseg_zoo.weights.addresses import Address, is_public, redacted

__all__ = ["check_behind_proxy", "open_tunnel", "proxy_for", "proxy_headers"]

_ANSWER_LIMIT = 16 * 1024


def proxy_for(address: Address) -> Address | None:
    """The proxy to use for this host, if any.

    Raises:
        DownloadError: if the proxy is of a kind that we cannot use.
    """
    # No bypass check without a proxy: on some systems it resolves the name.
    proxy = urllib.request.getproxies().get(address.scheme)
    if not proxy or urllib.request.proxy_bypass(address.host):
        return None
    found = Address.parse(proxy if "://" in proxy else f"http://{proxy}")
    if found.scheme != "http":
        raise DownloadError(
            "cannot use this proxy",
            where=redacted(proxy),
            why="only http:// proxies are known",
            fix=f"set {address.scheme.upper()}_PROXY to an http:// proxy",
        )
    return found


def proxy_headers(proxy: Address) -> dict[str, str]:
    """What the proxy itself must be told."""
    if not proxy.user:
        return {}
    return {"Proxy-Authorization": f"Basic {base64.b64encode(proxy.user.encode()).decode()}"}


def check_behind_proxy(address: Address, *, redirect_from: str) -> None:
    """Refuses what is plainly not on the internet; names are resolved by the proxy, not by us.

    Raises:
        DownloadError: if the host is a private address in any spelling, or a local name.
    """
    host = address.host.rstrip(".")
    try:
        literal = socket.inet_ntoa(socket.inet_aton(host))  # takes decimal, octal and hex spellings
    except OSError:
        literal = host
    try:
        ipaddress.ip_address(literal)
        refused = not is_public(literal)
    except ValueError:
        refused = host == "localhost" or host.endswith((".localhost", ".local", ".internal"))
    if refused:
        raise DownloadError(
            f"refused {'redirect to' if redirect_from else 'to connect to'} {address.authority}",
            where=redacted(redirect_from or address.url),
            why="it is not a public address",
        )


def open_tunnel(stream: socket.socket, address: Address, headers: dict[str, str]) -> None:
    """Has the proxy connect to a host, byte for byte.

    Raises:
        OSError: if it refuses, or answers with anything odd.
    """
    host = f"[{address.host}]" if ":" in address.host else address.host
    target = f"{host}:{address.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    answer = b""
    # Byte by byte: what comes after the blank line belongs to the tunnel.
    while not answer.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte or len(answer) > _ANSWER_LIMIT:
            raise OSError("the proxy hung up")
        answer += byte
    status = answer.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy answered {status[:100]!r}")
