"""``torchseg-zoo weights mirror``: folders that a site without network fetches from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cache_folder import blobs
from commands import Call, assert_failed
from loopback import Request, Server, content, digest
from weights_site import DATA, EMBEDDED, FOREIGN, FULL, PREFIX

from torchseg_zoo.errors import CacheError, DataError, IntegrityError
from torchseg_zoo.weights.lock import try_flock


def served(mirror: Path, server: Server) -> str:
    """The folder behind a web server; its address."""
    for path in mirror.iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o044 == 0o044, "a web server is another user"
            server.file(f"/mirror/{path.name}", path.read_bytes())
    return f"{server.url}/mirror"


def test_a_mirror_makes_a_site_usable_offline(
    call: Call, site: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "my mirror"
    done = call("weights", "mirror", FULL, PREFIX, FOREIGN, EMBEDDED, "--to", mirror)
    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()[:3]] == [
        ["fetched", name] for name in (FULL, PREFIX, FOREIGN)
    ]
    assert done.out.splitlines()[3] == (
        f"to use it: export TORCHSEG_ZOO_MIRROR=file://{tmp_path}/my%20mirror"
    )
    assert not cache.exists() or not (cache / "blobs").exists() or blobs(cache) == set()
    assert {path.name for path in mirror.iterdir()} >= {"SHA256SUMS", digest(DATA[FULL])}
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=mirror, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 3, checked.stderr
    assert f"# {FULL} licences: weights: Apache-2.0" in (mirror / "SHA256SUMS").read_text()

    asked = len(site.log)
    done = call("weights", "mirror", FULL, PREFIX, FOREIGN, "--to", mirror)
    assert done.code == 0 and len(site.log) == asked
    assert all(line.startswith("kept") for line in done.out.splitlines()[:3])

    url = served(mirror, site)
    for where, offline in ((mirror.as_uri(), "1"), (url, "")):
        shutil.rmtree(cache, ignore_errors=True)
        monkeypatch.setenv("TORCHSEG_ZOO_MIRROR", where)
        monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", offline)
        done = call("weights", "fetch", FULL, PREFIX, FOREIGN)
        assert done.code == 0, done.err
        assert len(blobs(cache)) == 3
    assert not [path for _, path, _ in site.log[asked:] if not path.startswith("/mirror/")]


def test_a_damaged_file_of_a_mirror_is_fetched_again(
    call: Call, site: Server, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    call("weights", "mirror", FULL, PREFIX, FOREIGN, "--to", mirror)
    files = [path for path in mirror.iterdir() if path.name != "SHA256SUMS"]
    before = {path: path.read_bytes() for path in files}
    for path in files:
        with path.open("r+b") as file:
            file.write(b"\0")
    done = call("weights", "mirror", FULL, PREFIX, FOREIGN, "--to", mirror)
    assert done.code == 0 and done.out.count("fetched") == 3
    assert done.err.count("is damaged; fetching it again") == 3
    assert {path: path.read_bytes() for path in files} == before
    # A source that gives another file by now does not get into a mirror that has the old one.
    next(path for path in files if path.name.startswith("url-")).write_bytes(b"")
    site.file("/p.pth", content(4000, 5))
    site.file("/x39.pth", content(4000, 5))
    done = call("weights", "mirror", PREFIX, FOREIGN, "--to", mirror)
    assert done.code == 3 and "IntegrityError" in done.err


def test_an_interrupted_mirror_goes_on_and_unreachable_sources_are_named(
    call: Call, site: Server, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    ranges: list[str] = []

    def cut(request: Request) -> None:
        ranges.append(request.headers.get("Range", ""))
        request.serve(DATA[PREFIX], cut_after=0 if ranges[-1] else 3 << 19)

    site.add("/p.pth", cut)
    done = call("weights", "mirror", PREFIX, FULL, "--to", mirror)
    assert done.code == 3
    assert f"torchseg-zoo: {PREFIX}: DownloadError: {site.url}/p.pth" in done.err
    assert [line.split()[:2] for line in done.out.splitlines()[:-1]] == [["fetched", FULL]]
    names = {path.name for path in mirror.iterdir() if not path.name.startswith(".")}
    assert names == {digest(DATA[FULL]), "SHA256SUMS"}
    site.file("/p.pth", DATA[PREFIX])
    first = len(site.log)
    done = call("weights", "mirror", PREFIX, FULL, "--to", mirror)
    assert done.code == 0
    assert [headers.get("Range") for _, _, headers in site.log[first:]] == [f"bytes={3 << 19}-"]
    assert not (mirror / ".incoming").exists()


def test_a_mirror_takes_what_the_cache_has(call: Call, site: Server, tmp_path: Path) -> None:
    call("weights", "fetch", FULL, FOREIGN)
    asked = len(site.log)
    assert call("weights", "mirror", FULL, FOREIGN, "--to", tmp_path / "mirror").code == 0
    assert len(site.log) == asked and call("weights", "verify", FULL, FOREIGN).code == 0


def test_a_mirror_believes_what_was_fetched_before(
    call: Call, site: Server, cache: Path, tmp_path: Path
) -> None:
    call("weights", "fetch", FOREIGN)
    for name in blobs(cache):
        (cache / "blobs" / name).unlink()
    site.file("/x39.pth", content(4000, 5))
    done = call("weights", "mirror", FOREIGN, "--to", tmp_path / "mirror")
    assert_failed(done, IntegrityError, "/x39.pth")
    assert not (tmp_path / "mirror" / "SHA256SUMS").exists()


def test_folders_that_cannot_be_mirrors(call: Call, site: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("weights", "mirror", FULL, "--to", tmp_path / "file")
    assert_failed(done, DataError, "cannot create the folder")
    mirror = tmp_path / "mirror"
    (mirror / ".incoming").mkdir(parents=True)
    with (mirror / ".incoming" / "lock").open("w") as file:
        assert try_flock(file.fileno())
        done = call("weights", "mirror", FULL, "--to", mirror)
        assert_failed(done, CacheError, "another process is filling this mirror")
    assert call("weights", "mirror", FULL, "--to", mirror).code == 0
