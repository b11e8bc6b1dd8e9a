"""Where a download may lead: redirects, addresses, names, certificates and proxies."""

from __future__ import annotations

import random
import shlex
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from loopback import Server, content, digest

from torchseg_zoo.errors import DownloadError
from torchseg_zoo.weights import addresses
from torchseg_zoo.weights.fetch import fetch

pytestmark = pytest.mark.usefixtures("limits")


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "data:text/plain,boo",
        "ftp://127.0.0.1:{port}/x",
        "gopher://x/",
        "http://127.0.0.1:{port}/x",
        "https://127.0.0.1:{port}/x",
        "//127.0.0.1:{port}/x",
        "http://localhost:{port}/x",
        "https://localhost:{port}/x",
        "http://example.com/x",
    ],
)
def test_redirects_into_the_dark_are_refused(server: Server, cache: Path, target: str) -> None:
    with Server() as canary:
        canary.file("/x", content(1000))
        location = target.format(port=canary.server_address[1])
        url = server.add("/x", lambda r: r.answer(302, b"", {"Location": location}))
        with pytest.raises(DownloadError, match="refused redirect to"):
            fetch(url)
        assert canary.log == [] and server.count() == 1


SPELLINGS = (
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.01",
    "0",
    "0.0.0.0",
    "localhost",
    "localhost.",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "169.254.169.254",
    "10.0.0.1",
    "192.168.1.1",
    "172.16.0.1",
    "100.64.0.1",
    "[fe80::1]",
    "[fc00::1]",
)


@pytest.mark.parametrize("host", SPELLINGS)
def test_private_addresses_are_refused_however_spelled(
    cache: Path, clean_environment: None, host: str
) -> None:
    with Server() as canary:
        with pytest.raises(DownloadError) as caught:
            fetch(f"https://{host}:{canary.server_address[1]}/x")
        # Resolvers differ in which spellings they know at all.
        assert "not a public address" in str(caught.value) or "gaierror" in str(caught.value)
        assert canary.log == []


def test_public_addresses_are_public() -> None:
    for address in ("8.8.8.8", "2606:4700::6810:84e5", "::ffff:8.8.8.8", "64:ff9b::808:808"):
        assert addresses.is_public(address)
    for address in ("224.0.0.1", "255.255.255.255", "ff02::1", "2001:0:7f00:1::", "x", ""):
        assert not addresses.is_public(address)


def test_a_name_is_resolved_once(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer would be the canary, but nobody asks for it."""
    asked = []

    def answer(host: str, port: int, **_: object) -> list[Any]:
        asked.append(host)
        place = "93.184.215.14" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port))]

    connected = []

    def connect(_: socket.socket, place: tuple[str, int]) -> None:
        connected.append(place[0])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(addresses.socket, "getaddrinfo", answer)
    monkeypatch.setattr(addresses.socket.socket, "connect", connect)
    with pytest.raises(DownloadError, match=r"refused to connect to https://rebinding\.example"):
        fetch("https://rebinding.example/x")
    assert connected == ["93.184.215.14"]


def test_a_private_answer_among_public_ones_is_refused(
    cache: Path, clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443)) for ip in ("8.8.8.8", "10.0.0.1")
    ]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(DownloadError, match=r"10\.0\.0\.1"):
        fetch("https://two-faced.example/x")


def test_credentials_stay_with_their_host(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(1000)
    with Server() as other:
        monkeypatch.setenv("TORCHSEG_ZOO_MIRROR", other.url + "/none/")
        there = other.add("/x", lambda r: r.answer(302, b"", {"Location": server.url + "/back"}))
        server.file("/back", data)
        url = server.add("/x", lambda r: r.answer(307, b"", {"Location": there}))
        secret = url.replace("//", "//user:secret@")
        fetch(secret, sha256=digest(data))
        sent = [h.get("Authorization") for _, path, h in server.log + other.log if "x" in path]
        assert sent[0] and sent[1:] == [None]
        assert server.log[-1][1] == "/back" and "Authorization" not in server.log[-1][2]


def crafted_names(count: int) -> list[str]:
    dice = random.Random(11)
    parts = [
        "..",
        "/",
        "\\",
        "C:",
        "etc",
        "passwd",
        "%2e%2e",
        "%00",
        "a.pth",
        "~",
        "$HOME",
        "|",
        ";",
    ]
    fixed = ["../../evil", "/etc/cron.d/evil", "C:\\evil", "evil%00.pth", "....//evil", "con", "."]
    return fixed + ["".join(dice.choices(parts, k=6)) for _ in range(count - len(fixed))]


def test_names_from_outside_are_ignored(server: Server, cache: Path) -> None:
    names = crafted_names(20)
    before = {p for p in cache.parent.rglob("*") if cache not in p.parents}
    for index, name in enumerate(names):
        data = content(500, seed=index)
        path = "/" + name.lstrip("/").replace("|", "%7C")
        header = f'attachment; filename="{name}"'
        server.routes.clear()
        server.file(path, data, headers={"Content-Disposition": header})
        try:
            found = fetch(server.url + path)
            assert found == cache / "blobs" / digest(data)
        except DownloadError as error:
            assert "HTTP 404" in str(error)  # the URL was normalised on its way
    after = {p for p in cache.parent.rglob("*") if cache not in p.parents}
    assert after - before <= {cache}


def test_https_is_verified(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {shlex.quote(str(key))} -out {shlex.quote(str(certificate))}",
        shell=True,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    data = content(1 << 20)
    with Server() as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        secure.file("/x", data)
        host = f"localhost:{secure.server_address[1]}"
        monkeypatch.setenv("TORCHSEG_ZOO_MIRROR", f"https://{host}/none/")
        with pytest.raises(DownloadError, match=r"certificate cannot be verified.*SSL_CERT_FILE"):
            fetch(f"https://{host}/x")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert fetch(f"https://{host}/x").read_bytes() == data
        downgrade = server.url.replace("127.0.0.1", "localhost") + "/x"
        secure.add("/down", lambda r: r.answer(302, b"", {"Location": downgrade}))
        with pytest.raises(DownloadError, match="refused redirect to http:"):
            fetch(f"https://{host}/down")
        assert server.log == []


def test_a_proxy_is_used_and_not_asked_for_private_addresses(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy refuses all tunnels; what matters is what it is asked for."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        proxy = f"http://me:pass@127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "")
        for host in ("10.0.0.1", "0x7f000001", "[::1]", "localhost"):
            with pytest.raises(DownloadError, match="not a public address"):
                fetch(f"https://{host}/x")
        assert asked == []
        with pytest.raises(DownloadError, match="the proxy answered"):
            fetch("https://example.com/x")
        assert asked[0].startswith(b"CONNECT example.com:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic " in asked[0]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
