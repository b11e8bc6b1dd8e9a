"""Servers that cut, stall, lie and mislead: rows 6, 7, 9, 10 and 11 of the robustness table."""

from __future__ import annotations

import random
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import Request, Server, content, digest

from torchseg_zoo.errors import DownloadError, IntegrityError, ZooError
from torchseg_zoo.weights import addresses, pages, sources
from torchseg_zoo.weights.fetch import fetch

pytestmark = pytest.mark.usefixtures("limits")
SMALL = 1 << 20
SLOW_S = 1.0


def leftovers(cache: Path) -> list[str]:
    return [p.name for name in ("partial", "locks") for p in (cache / name).iterdir()]


def first(n: int, fault: Callable[[Request], None]) -> Callable[[bytes], Callable[..., None]]:
    """A server that has a fault the first ``n`` times."""

    def make(data: bytes) -> Callable[[Request], None]:
        return lambda request: fault(request) if request.nth <= n else request.serve(data)

    return make


def reset_midway(data: bytes) -> Callable[[Request], None]:
    def route(request: Request) -> None:
        if request.nth > 3:
            request.serve(data)
            return
        request.serve(data, cut_after=len(data) // 4)
        time.sleep(0.05)
        request.reset()

    return route


def silent(request: Request) -> None:
    request.server.stop.wait(3)


def silent_midway(data: bytes) -> Callable[[Request], None]:
    def route(request: Request) -> None:
        request.serve(data, cut_after=len(data) // 2 if request.nth == 1 else None)
        if request.nth == 1:
            request.wfile.flush()
            request.server.stop.wait(3)

    return route


def changed(data: bytes) -> Callable[[Request], None]:
    """Another file under the same URL after the first cut."""
    old = content(len(data), seed=99)

    def route(request: Request) -> None:
        if request.nth == 1:
            request.serve(old, etag='"old"', cut_after=len(old) // 2)
        else:
            request.serve(data, etag='"new"')

    return route


def range_ignored(data: bytes) -> Callable[[Request], None]:
    def route(request: Request) -> None:
        cut = len(data) // 2 if request.nth == 1 else None
        request.answer(200, data[:cut], {"Content-Length": str(len(data)), "ETag": '"one"'})

    return route


def if_range_ignored(data: bytes) -> Callable[[Request], None]:
    """Gives the range of a changed file, saying so in the ETag only."""
    old = content(len(data), seed=98)

    def route(request: Request) -> None:
        if request.nth == 1:
            request.serve(old, etag='"old"', cut_after=len(old) // 2)
        elif request.headers.get("Range"):
            request.headers.replace_header("If-Range", '"new"')
            request.serve(data, etag='"new"')
        else:
            request.serve(data, etag='"new"')

    return route


def cut_each_time(parts: int) -> Callable[[bytes], Callable[[Request], None]]:
    return lambda data: lambda request: request.serve(data, cut_after=-(-len(data) // parts))


def chunked(data: bytes, *, cut: bool = False) -> Callable[[Request], None]:
    def route(request: Request) -> None:
        request.head(200, {"Transfer-Encoding": "chunked"})
        for place in range(0, len(data), 300_000):
            part = data[place : place + 300_000]
            request.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            if cut and request.nth == 1:
                return
        request.wfile.write(b"0\r\n\r\n")

    return route


def redirected(*hops: str) -> Callable[[bytes], Callable[[Request], None]]:
    def make(data: bytes) -> Callable[[Request], None]:
        def route(request: Request) -> None:
            if request.path.endswith("/end"):
                request.serve(data)
            else:
                request.server.routes["/x/end"] = route
                request.answer(302, b"", {"Location": "/x/end"})

        return route

    return make


GOOD = {
    "plain": lambda data: lambda request: request.serve(data),
    "no-etag": lambda data: lambda request: request.answer(200, data),
    "weak-etag": lambda data: lambda request: request.serve(data, etag='W/"one"'),
    "cut-once": lambda data: (
        lambda r: r.serve(data, cut_after=len(data) // 3 if r.nth == 1 else None)
    ),
    "cut-at-nothing-once": lambda data: (
        lambda r: r.serve(data, cut_after=0 if r.nth == 1 else None)
    ),
    "cut-in-quarters": cut_each_time(4),
    "cut-before-headers": first(2, lambda request: None),
    "cut-in-headers": first(2, lambda r: r.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le") and None),
    "reset-at-once": first(2, lambda request: request.reset()),
    "reset-midway": reset_midway,
    "500-twice": first(2, lambda request: request.answer(500, b"oops")),
    "502-503-504": first(3, lambda request: request.answer(501 + request.nth, b"")),
    "429-retry-after": first(1, lambda r: r.answer(429, b"", {"Retry-After": "0"})),
    "429-date": first(
        1, lambda r: r.answer(429, b"", {"Retry-After": "Mon, 01 Jan 2024 00:00:00 GMT"})
    ),
    "408-then-good": first(1, lambda request: request.answer(408, b"")),
    "silent-once": first(1, silent),
    "silent-midway": silent_midway,
    "changed-after-cut": changed,
    "range-ignored": range_ignored,
    "if-range-ignored": if_range_ignored,
    "shifted-range": lambda data: (
        lambda r: r.serve(data, shift=7, cut_after=len(data) // 2 if r.nth == 1 else None)
    ),
    "no-room-for-range": lambda data: (
        lambda r: (
            r.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            if r.headers.get("Range")
            else r.serve(data, cut_after=len(data) // 2 if r.nth == 1 else None)
        )
    ),
    "chunked": chunked,
    "chunked-cut": lambda data: chunked(data, cut=True),
    "redirect": redirected(),
}
BAD: dict[str, tuple[Callable[..., Any], type[ZooError], str]] = {
    "404": (lambda _: lambda r: r.answer(404, b"no"), DownloadError, "HTTP 404"),
    "403": (lambda _: lambda r: r.answer(403, b"no"), DownloadError, "HTTP 403"),
    "500-always": (lambda _: lambda r: r.answer(500, b"no"), DownloadError, "HTTP 500"),
    "429-for-an-hour": (
        lambda _: lambda r: r.answer(429, b"", {"Retry-After": "3600"}),
        DownloadError,
        "no time left",
    ),
    "reset-always": (lambda _: lambda r: r.reset(), DownloadError, "Connection"),
    "silent-always": (lambda _: silent, DownloadError, "no answer within"),
    "cut-at-nothing": (
        lambda data: lambda r: r.serve(data, cut_after=0),
        DownloadError,
        "got 0 of",
    ),
    "trickle": (
        lambda data: lambda r: r.serve(data, rate=200),
        DownloadError,
        "too slow",
    ),
    "wrong-bytes": (
        lambda data: lambda r: r.serve(content(len(data), seed=5)),
        IntegrityError,
        "sha256 is",
    ),
    "too-long": (lambda data: lambda r: r.serve(data + b"x"), IntegrityError, "announced"),
    "too-long-unsaid": (lambda data: chunked(data * 3), IntegrityError, "longer than announced"),
    "gzip": (
        lambda data: lambda r: r.serve(data, headers={"Content-Encoding": "gzip"}),
        DownloadError,
        "came as gzip",
    ),
    "redirect-loop": (
        lambda _: lambda r: r.answer(302, b"", {"Location": r.path}),
        DownloadError,
        "redirects",
    ),
    "redirect-to-nowhere": (lambda _: lambda r: r.answer(302), DownloadError, "nowhere"),
    "not-http": (
        lambda _: lambda r: r.wfile.write(b"SSH-2.0\r\n\r\n") and None,
        DownloadError,
        "SSH",
    ),
    "endless-headers": (
        lambda _: (
            lambda r: (
                [r.wfile.write(b"HTTP/1.1 200 OK\r\n")]
                and [r.wfile.write(b"X: y\r\n") for _ in range(200)]
                and None
            )
        ),
        DownloadError,
        "headers",
    ),
}


def run_good_route(server: Server, cache: Path, name: str, size: int) -> None:
    data = content(size, seed=len(name))
    url = server.add("/x", GOOD[name](data))
    path = fetch(url, sha256=digest(data), size=size)
    assert path.read_bytes() == data
    assert leftovers(cache) == []
    assert server.count() <= 8


def run_bad_route(server: Server, cache: Path, name: str, size: int) -> None:
    data = content(size)
    make, kind, words = BAD[name]
    url = server.add("/x", make(data))
    begin = time.monotonic()
    with pytest.raises(kind) as caught:
        fetch(url, sha256=digest(data), size=size)
    message = str(caught.value)
    assert words in message and url in message, message
    assert "weights import FILE" in message and "\n" not in message
    assert time.monotonic() - begin < 30
    assert list((cache / "blobs").iterdir()) == []
    assert leftovers(cache) == []
    assert server.count() <= (11 if name == "redirect-loop" else 8)


@pytest.mark.parametrize("name", GOOD)
def test_a_troubled_download_ends_well(server: Server, cache: Path, name: str) -> None:
    run_good_route(server, cache, name, SMALL)


@pytest.mark.parametrize("name", BAD)
def test_a_hopeless_download_says_why(
    server: Server, cache: Path, name: str, limits: Callable[..., None]
) -> None:
    limits(connect_s=0.5, window_s=0.5)
    run_bad_route(server, cache, name, SMALL)


@pytest.mark.soak
@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_all_routes_at_48_mib(server: Server, cache: Path, name: str) -> None:
    (run_good_route if name in GOOD else run_bad_route)(server, cache, name, 48 << 20)


def test_bytes_are_not_fetched_twice(server: Server, cache: Path) -> None:
    data = content(SMALL)
    url = server.add("/x", cut_each_time(4)(data))
    fetch(url, sha256=digest(data))
    ranges = [headers.get("Range") for _, _, headers in server.log]
    assert ranges == [None, *(f"bytes={SMALL * n // 4}-" for n in (1, 2, 3))]
    assert all(headers.get("If-Range") == '"one"' for _, _, headers in server.log[1:])


def test_without_validator_or_digest_nothing_is_resumed(server: Server, cache: Path) -> None:
    data = content(SMALL)

    def route(request: Request) -> None:
        cut = len(data) // 2 if request.nth == 1 else None
        request.answer(200, data[:cut], {"Content-Length": str(len(data))})

    assert fetch(server.add("/x", route)).read_bytes() == data
    assert "Range" not in server.log[1][2]


def test_without_length_or_digest_a_cut_cannot_be_told(server: Server, cache: Path) -> None:
    data = content(SMALL)

    def route(request: Request) -> None:
        request.head(200, {})
        request.wfile.write(data)

    url = server.add("/x", route)
    with pytest.raises(DownloadError, match="whole file"):
        fetch(url)
    assert fetch(url, sha256=digest(data)).read_bytes() == data


def test_a_failed_download_is_resumed_by_the_next_call(server: Server, cache: Path) -> None:
    data = content(4 << 20)

    def route(request: Request) -> None:
        if 1 < request.nth <= 6:
            request.answer(503)
        else:
            request.serve(data, cut_after=3 << 20 if request.nth == 1 else None)

    url = server.add("/x", route)
    with pytest.raises(DownloadError, match="3 MB are kept for the next try"):
        fetch(url)
    assert len(leftovers(cache)) == 2  # the bytes, and where they came from
    assert fetch(url).read_bytes() == data
    assert server.log[-1][2]["Range"] == f"bytes={3 << 20}-"
    assert leftovers(cache) == []


def test_another_mirror_gives_the_rest(server: Server, cache: Path) -> None:
    data = content(SMALL)
    dying = server.add(
        "/dying",
        lambda r: r.serve(data, cut_after=SMALL // 2) if r.nth == 1 else r.answer(500),
    )
    other = server.file("/other", data, etag='"two"')
    assert fetch([dying, other], sha256=digest(data)).read_bytes() == data
    assert server.log[-1][2]["Range"] == f"bytes={SMALL // 2}-"
    assert "If-Range" not in server.log[-1][2]


def flip_bits(server: Server, cache: Path, count: int) -> None:
    data = bytearray(content(20_000))
    sha256 = digest(bytes(data))
    dice = random.Random(7)
    refused = 0
    url = server.add("/x", lambda request: request.answer(200, bytes(data)))
    for _ in range(count):
        place, bit = dice.randrange(4, len(data)), 1 << dice.randrange(8)
        data[place] ^= bit
        with pytest.raises(IntegrityError, match=f"{digest(bytes(data))}.*{sha256}"):
            fetch(url, sha256=sha256, size=len(data))
        data[place] ^= bit
        refused += not list((cache / "blobs").iterdir()) and not leftovers(cache)
    assert refused == count


def test_single_bit_flips_are_refused(server: Server, cache: Path) -> None:
    flip_bits(server, cache, 50)


@pytest.mark.soak
def test_1000_single_bit_flips_are_refused(server: Server, cache: Path) -> None:
    flip_bits(server, cache, 1000)


# Shapes of pages as they are met in the wild, shortened; (words of the message, body).
PAGES = {
    "drive-quota": (
        "Google Drive quota page",
        "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>",
    ),
    "drive-too-many": (
        "Google Drive quota page",
        "<html><body>Too many users have viewed or downloaded this file recently.",
    ),
    "drive-json": (
        "Google Drive quota page",
        '{"error": {"errors": [{"reason": "downloadQuotaExceeded"}], "code": 403}}',
    ),
    "drive-scan": (
        "Google Drive confirmation page",
        "<!DOCTYPE html><title>Google Drive - Virus scan warning</title>",
    ),
    "google-login": (
        "login page",
        '<!doctype html><html><head><base href="https://accounts.google.com/v3/signin/">',
    ),
    "captive-portal": (
        "login page",
        "\n\n  <HTML><HEAD><TITLE>Hotel WiFi login</TITLE></HEAD>",
    ),
    "cloudflare": (
        "checks the browser",
        '<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title>',
    ),
    "captcha": (
        "asks for a captcha",
        "<html><body>Our systems have detected unusual traffic from your network",
    ),
    "s3-denied": (
        "denies access",
        '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    ),
    "not-found": (
        'the file is not there titled "404 Not Found"',
        "<html>\r\n<head><title>404 Not Found</title></head>\r\n<center>nginx</center>",
    ),
    "bom-and-comment": (
        "maintenance page",
        "\ufeff<!-- x --><html><title>Down for maintenance</title>",
    ),
    "unknown": ('web page titled "Welcome"', "<body><title>Welcome</title> to our site"),
}


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_no_checkpoint(server: Server, cache: Path, name: str, kind: str) -> None:
    words, text = PAGES[name]
    body = text.encode() + b"<p>&nbsp;</p>" * 200
    url = server.add("/x.pth", lambda r: r.answer(200, body, {"Content-Type": kind}))
    other = server.file("/other.pth", content(5000))
    with pytest.raises(DownloadError, match=words):
        fetch(url)
    assert list((cache / "blobs").iterdir()) == leftovers(cache) == []
    assert server.count() == 1
    assert fetch([url, other]).read_bytes() == content(5000)


def test_a_checkpoint_with_a_wrong_content_type_is_taken(server: Server, cache: Path) -> None:
    data = content(5000)
    url = server.file("/x.pth", data, headers={"Content-Type": "text/html"})
    assert fetch(url).read_bytes() == data
    assert not pages.looks_like_page(b"\x80\x02}q\x00(X", "text/html", "/x.pth")
    assert not pages.looks_like_page(b"<html>", "text/html", "/model_card.html")
    assert pages.looks_like_page("<html>".encode("utf-16"), "", "/x.pth")


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
    data = content(SMALL)
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


def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DRIVE", server.url)


FORM = (
    "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<form id="download-form" action="{action}" method="get">'
    '<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{id}">'
    '<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="u-1">'
    "</form></body></html>"
)
DRIVE_ID = "1dK5v1oakTMP1UKMARfYf5kdBP15mEgiL"


@pytest.mark.parametrize(
    "spelling",
    [
        f"gdrive://{DRIVE_ID}",
        f"https://drive.google.com/file/d/{DRIVE_ID}/view?usp=sharing",
        f"https://drive.google.com/uc?export=download&id={DRIVE_ID}",
    ],
)
def test_drive_asks_for_confirmation_and_gets_it(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    drive(server, monkeypatch)
    data = content(SMALL)

    def route(request: Request) -> None:
        if "uuid=u-1" in request.path:
            assert f"id={DRIVE_ID}" in request.path and "warning=yes" in request.headers["Cookie"]
            request.serve(data, cut_after=SMALL // 2 if request.nth == 2 else None)
        else:
            page = FORM.format(action="/download", id=DRIVE_ID).encode()
            request.answer(200, page, {"Set-Cookie": "warning=yes; path=/"})

    server.add("/download", route)
    assert fetch(spelling).read_bytes() == data
    assert server.count() == 3
    assert fetch(f"gdrive://{DRIVE_ID}").read_bytes() == data
    assert server.count() == 3


def test_drive_pages_that_confirm_nothing(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(server, monkeypatch)
    with Server() as canary:
        bodies = {
            "refused to follow": FORM.format(action=canary.url, id=DRIVE_ID),
            "confirmation page": FORM.format(action="/download", id=DRIVE_ID),
            "quota page": PAGES["drive-quota"][1],
        }
        for words, body in bodies.items():
            server.add("/download", lambda r, body=body: r.answer(200, body.encode()))
            with pytest.raises(DownloadError, match=words):
                fetch(f"gdrive://{DRIVE_ID}")
        assert canary.log == []


def test_older_drive_pages_have_a_link() -> None:
    page = b'<a id="uc-download-link" href="/uc?export=download&amp;confirm=Ab1&amp;id=X">go</a>'
    found = pages.confirmation(page, "https://drive.google.com/uc?id=X")
    assert found == "https://drive.google.com/uc?export=download&confirm=Ab1&id=X"
    assert pages.confirmation(b"<html>no form</html>", "https://drive.google.com/") is None


def test_retry_after_forms() -> None:
    from torchseg_zoo.weights.transfer import _retry_after

    assert _retry_after("7") == 7 and _retry_after("") == _retry_after("soon") == 0
    assert _retry_after("Mon, 01 Jan 2024 00:00:00 GMT") == 0
    assert _retry_after("Fri, 01 Jan 2100 00:00:00 GMT") > 1e9
    assert _retry_after("٣") == 0 and _retry_after("-5") == 0
