"""``fetch``: what it takes, what it returns, what it remembers."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import Server, content, digest

from torchseg_zoo.errors import (
    ArgumentError,
    CacheError,
    DownloadError,
    IntegrityError,
    ZooError,
)
from torchseg_zoo.weights import sources
from torchseg_zoo.weights.cache import cache_root
from torchseg_zoo.weights.fetch import fetch, import_file

pytestmark = pytest.mark.usefixtures("limits")
DATA = content(300_000)
SHA = digest(DATA)


def names(cache: Path, folder: str) -> list[str]:
    return sorted(entry.name for entry in (cache / folder).iterdir())


def test_the_file_is_named_by_its_digest_and_asked_for_once(server: Server, cache: Path) -> None:
    url = server.file("/model.pth", DATA)
    path = fetch(url, sha256=SHA, size=len(DATA))
    assert path == cache / "blobs" / SHA
    assert path.read_bytes() == DATA
    assert fetch(url, sha256=SHA.upper()) == path
    assert server.count() == 1
    assert names(cache, "partial") == names(cache, "locks") == []


def test_only_this_user_can_enter_the_cache_whatever_the_umask(server: Server, cache: Path) -> None:
    for umask in (0o000, 0o077, 0o777):
        root = cache / f"{umask:o}"
        before = os.umask(umask)
        try:
            cache.mkdir(mode=0o700, exist_ok=True)
            if umask == 0o777:
                os.umask(0o077)
                root.mkdir()  # a parent that nobody may enter is the user's own doing
                os.umask(umask)
            path = fetch(server.file("/a", DATA), sha256=SHA, cache_dir=root)
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o600
        for folder in ("blobs", "stamps", "pins", "partial", "locks"):
            assert (root / folder).stat().st_mode & 0o777 == 0o700


def test_an_unknown_digest_is_pinned(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.file("/model.pth", DATA)
    path = fetch(url)
    assert path.name == SHA
    assert SHA in capsys.readouterr().err
    assert fetch(url) == path and server.count() == 1
    assert capsys.readouterr().err == ""

    path.unlink()
    server.file("/model.pth", content(300_000, seed=1))
    with pytest.raises(IntegrityError, match=f"pinned at the first fetch: {SHA}"):
        fetch(url)
    assert not path.exists() and names(cache, "partial") == []

    server.file("/model.pth", DATA)
    assert fetch(url) == path


def test_a_published_prefix_is_checked_and_the_rest_pinned(server: Server, cache: Path) -> None:
    url = server.file("/model-good.pth", DATA)
    assert fetch(url, sha256=SHA[:8]).name == SHA
    assert len(names(cache, "pins")) == 1
    other = server.file("/model-bad.pth", content(1000))
    with pytest.raises(IntegrityError, match=f"announced: {SHA[:8]}"):
        fetch(other, sha256=SHA[:8])
    assert names(cache, "blobs") == [SHA] and len(names(cache, "pins")) == 1


def test_a_pin_that_cannot_be_read_is_not_forgotten(server: Server, cache: Path) -> None:
    url = server.file("/model.pth", DATA)
    fetch(url)
    (pin,) = (cache / "pins").iterdir()
    pin.write_text("{")
    with pytest.raises(CacheError, match="not known which file"):
        fetch(url)


def test_the_next_source_is_tried_and_all_are_named(server: Server, cache: Path) -> None:
    good = server.file("/good", DATA)
    wrong = server.file("/wrong", content(300_000, seed=2))
    missing = server.url + "/missing"
    assert fetch([missing, wrong, good], sha256=SHA).name == SHA
    with pytest.raises(IntegrityError) as caught:
        fetch([wrong, missing], sha256=digest(b"another"))
    message = str(caught.value)
    assert "/wrong" in message and "/missing: HTTP 404" in message
    assert "torchseg-zoo weights import FILE" in message and "\n" not in message
    with pytest.raises(DownloadError, match="HTTP 404 Not Found"):
        fetch(missing)
    assert names(cache, "blobs") == [SHA] and names(cache, "partial") == []


def test_a_wrong_size_is_refused_before_the_download(server: Server, cache: Path) -> None:
    url = server.file("/model.pth", DATA)
    with pytest.raises(IntegrityError, match="300000 bytes, announced 299999"):
        fetch(url, sha256=SHA, size=299_999)
    path = fetch(url, sha256=SHA)
    with pytest.raises(IntegrityError, match="announced 5"):
        fetch(url, sha256=SHA, size=5)
    assert path.read_bytes() == DATA


def test_local_files_are_copied_and_not_pinned(cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "my model.pth"
    source.write_bytes(DATA)
    assert fetch(source, sha256=SHA).read_bytes() == DATA
    assert fetch(str(source)).name == SHA
    assert fetch(source.as_uri()).name == SHA
    other = content(1000, seed=3)
    source.write_bytes(other)
    assert fetch(source).name == digest(other)
    with pytest.raises(IntegrityError):
        fetch(source, sha256=SHA[:8])
    for bad in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(DownloadError):
            fetch(bad)
    assert names(cache, "pins") == []


def test_a_file_fetched_by_hand_stands_for_its_url(server: Server, cache: Path) -> None:
    url = server.url + "/unreachable.pth"
    for name, data in (("a", DATA), ("page", b"<html><title>Quota exceeded</title></html>")):
        (cache.parent / name).write_bytes(data)
    with pytest.raises(IntegrityError):
        import_file(cache.parent / "a", url, sha256="0" * 64)
    with pytest.raises(DownloadError, match="quota page"):
        import_file(cache.parent / "page", url)
    path = import_file(cache.parent / "a", url)
    assert fetch(url) == path and server.count() == 0
    import_file(cache.parent / "a", url)


@pytest.mark.parametrize("known", [True, False])
def test_a_mirror_is_asked_first(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, known: bool
) -> None:
    url = "https://example.invalid/model.pth"
    name = sources.mirror_name([sources.parse(url)], SHA if known else "")
    monkeypatch.setenv("TORCHSEG_ZOO_MIRROR", f"{tmp_path}/mirror {server.url}/mirror/")
    server.file(f"/mirror/{name}", DATA)
    assert fetch(url, sha256=SHA if known else None).read_bytes() == DATA
    assert server.count() == 1

    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / name).write_bytes(DATA)
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert fetch(url, sha256=SHA if known else None, cache_dir=tmp_path / "second").name == SHA
    assert server.count() == 1


@pytest.mark.parametrize(
    "source",
    [
        "ftp://a/b",
        "data:text/plain,x",
        "data://x",
        "hf://gpt2/x",
        "hf://a/b@c/../d",
        "gdrive://x/y",
        "file://host/x",
        "torchvision://resnet50",
        "https:/missing-slash",
        3,
        None,
        [],
    ],
)
def test_odd_sources_are_argument_errors(cache: Path, source: object) -> None:
    with pytest.raises(ArgumentError):
        fetch(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"sha256": "abc"}, {"sha256": "g" * 64}, {"size": -1}, {"size": "7"}, {"sha256": 7}]
)
def test_odd_options_are_argument_errors(cache: Path, options: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        fetch("https://example.invalid/x", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["https://", "https://[::1", "https://a b/c", "https://h:99999/"])
def test_malformed_urls_are_download_errors(cache: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="cannot fetch this URL"):
        fetch(url)


def test_mutated_sources_raise_nothing_else(
    cache: Path, limits: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    limits(fruitless=1)
    seeds = [
        "https://user@example.com:8443/a/b.pth?x=y#z",
        "hf://org/repo@main/weights/model.pth",
        "gdrive://1dK5v1oakTMP1UKMARfYf5kdBP15mEgiL",
        "http://[::1]:80/x",
        "https://drive.google.com/file/d/1dK5v1oak/view",
        "file:///tmp/no/such/file",
    ]
    monkeypatch.setattr(sources, "hub_cached", lambda place: None)
    monkeypatch.setattr(sources, "_ask_hub", lambda *_: sources.Remote("https://hub.invalid/x"))
    dice = random.Random(5)
    for _ in range(400):
        text = list(dice.choice(seeds))
        for _ in range(dice.randrange(1, 5)):
            place = dice.randrange(len(text))
            text[place : place + dice.randrange(2)] = dice.choice("\0\n /:@[]%.\ud800é²#?\\")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", unknown)
            with pytest.raises(ZooError) as caught:
                fetch("".join(text))
        str(caught.value).encode()


@pytest.mark.parametrize("host", ["ä..b", "a" * 70 + ".com", "."])
def test_impossible_host_names(cache: Path, limits: Callable[..., None], host: str) -> None:
    limits(fruitless=1)
    with pytest.raises(DownloadError):
        fetch(f"https://{host}/x")


def test_where_the_cache_is(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_root() == tmp_path / ".cache" / "torchseg_zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "torchseg_zoo"
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", "~/zoo")
    assert cache_root() == tmp_path / "zoo"
    assert cache_root(tmp_path / "here") == tmp_path / "here"


def test_without_a_home_the_variable_is_named(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(CacheError, match="TORCHSEG_ZOO_CACHE"):
        cache_root()


def test_secrets_of_a_url_are_not_shown(server: Server, cache: Path) -> None:
    url = server.url.replace("//", "//user:hunter2@") + "/private.pth?signature=hunter3"
    with pytest.raises(DownloadError) as caught:
        fetch(url)
    assert "hunter" not in str(caught.value)
    assert server.log[0][2]["Authorization"].startswith("Basic ")
    server.file("/private.pth", DATA)
    fetch(url)
    kept = "".join(p.read_text() for p in (cache / "stamps").iterdir())
    assert "hunter" not in kept


def test_progress_is_for_the_first_rank(
    server: Server,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = server.file("/model.pth", DATA)
    fetch(url, sha256=SHA, progress=False, cache_dir=cache / "0")
    monkeypatch.setenv("RANK", "3")
    fetch(url, cache_dir=cache / "1")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    fetch(url, sha256=SHA, cache_dir=cache / "2")
    assert "fetching" in capsys.readouterr().err


_OFFLINE = """
import json, sys, time
calls = []
sys.addaudithook(lambda event, _: calls.append(event) if event.startswith("socket") else None)
from torchseg_zoo.errors import ZooError
from torchseg_zoo.weights.fetch import fetch
found = []
for source, sha256 in json.loads(sys.argv[1]):
    begin = time.perf_counter()
    try:
        found.append(str(fetch(source, sha256=sha256)))
    except ZooError as error:
        found.append(f"{type(error).__name__}: {error}")
    found.append(time.perf_counter() - begin)
print(json.dumps({"found": found, "calls": calls, "torch": "torch" in sys.modules,
                  "hub": "huggingface_hub" in sys.modules}))
"""


@pytest.mark.parametrize("variable", ["TORCHSEG_ZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_opens_no_socket_and_imports_no_torch(
    server: Server, cache: Path, variable: str
) -> None:
    url = server.file("/model.pth", DATA)
    fetch(url)
    other = ("https://example.invalid/other.pth", None)
    cases = [(url, None), (url, SHA), other, other, other]
    result = subprocess.run(
        [sys.executable, "-c", _OFFLINE, json.dumps(cases)],
        env={**os.environ, variable: "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    outcome = json.loads(result.stdout)
    first, second, message = outcome["found"][:6:2]
    assert first == second == str(cache / "blobs" / SHA)
    assert message.startswith("DownloadError: https://example.invalid/other.pth: offline")
    assert url in message and variable in message
    assert min(outcome["found"][5::2]) <= 0.05  # of three, on a machine with other work
    assert outcome["calls"] == [] and not outcome["torch"] and not outcome["hub"]


def test_a_total_deadline_is_kept(server: Server, cache: Path, limits: Callable[..., None]) -> None:
    limits(deadline_s=1.0)
    url = server.add("/down", lambda request: request.answer(503, b"", {"Retry-After": "1"}))
    begin = time.monotonic()
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch([url, url, url])
    assert time.monotonic() - begin < 2
