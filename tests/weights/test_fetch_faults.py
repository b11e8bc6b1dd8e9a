"""Servers that cut, stall and lie: what is resumed, what is refused, and what is said."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cache_folder import blobs, leftovers
from loopback import Request, Server, content, digest

from torchseg_zoo.errors import DownloadError, IntegrityError, ZooError
from torchseg_zoo.weights.fetch import fetch
from torchseg_zoo.weights.transfer import _retry_after

pytestmark = pytest.mark.usefixtures("limits")
SMALL = 1 << 20


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
    assert blobs(cache) == set()
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
        refused += not blobs(cache) and not leftovers(cache)
    assert refused == count


def test_single_bit_flips_are_refused(server: Server, cache: Path) -> None:
    flip_bits(server, cache, 50)


@pytest.mark.soak
def test_1000_single_bit_flips_are_refused(server: Server, cache: Path) -> None:
    flip_bits(server, cache, 1000)


def test_retry_after_forms() -> None:
    assert _retry_after("7") == 7 and _retry_after("") == _retry_after("soon") == 0
    assert _retry_after("Mon, 01 Jan 2024 00:00:00 GMT") == 0
    assert _retry_after("Fri, 01 Jan 2100 00:00:00 GMT") > 1e9
    assert _retry_after("٣") == 0 and _retry_after("-5") == 0
