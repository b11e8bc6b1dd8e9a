"""The cache under rot, plants, full disks and missing rights."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_folder import blobs, leftovers
from fetch_processes import Zygote, traced
from loopback import Request, Server, content, digest

from torchseg_zoo.errors import CacheError, DownloadError, ZooError
from torchseg_zoo.weights import cache as cache_module
from torchseg_zoo.weights import partial as partial_module
from torchseg_zoo.weights.cache import Cache
from torchseg_zoo.weights.fetch import fetch

pytestmark = pytest.mark.usefixtures("limits")
DATA = content(3 << 20)
SHA = digest(DATA)


def rot(server: Server, cache: Path, count: int) -> None:
    data = content(20_000)
    url = server.file("/x", data)
    path = fetch(url, sha256=digest(data))
    dice = random.Random(3)
    for turn in range(1, count + 1):
        before = path.stat()
        with path.open("r+b") as file:
            place = dice.randrange(len(data))
            file.seek(place)
            file.write(bytes([data[place] ^ 1 << dice.randrange(8)]))
        # Even with the old time of change, the inode's own time tells.
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert fetch(url, sha256=digest(data)) == path
        assert path.read_bytes() == data
        assert server.count() == turn + 1
        fetch(url, sha256=digest(data))
        assert server.count() == turn + 1


def test_a_rotted_file_is_fetched_again_once(server: Server, cache: Path) -> None:
    rot(server, cache, 10)


@pytest.mark.soak
def test_a_rotted_file_is_fetched_again_once_200_times(server: Server, cache: Path) -> None:
    rot(server, cache, 200)


def test_rot_is_told_and_the_damaged_file_is_never_given(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.file("/x", DATA)
    path = fetch(url)
    path.write_bytes(DATA[:-1])
    server.routes.clear()
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(url)
    assert "is damaged; fetching it again" in capsys.readouterr().err
    server.file("/x", DATA)
    assert fetch(url).read_bytes() == DATA


def test_hashing_is_skipped_only_while_stat_is_the_same(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.file("/x", DATA)
    path = fetch(url, sha256=SHA)
    hashed: list[int] = []
    original = cache_module.hashlib.file_digest

    def counting(*args: object) -> object:
        hashed.append(1)
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module.hashlib, "file_digest", counting)
    fetch(url, sha256=SHA)
    assert hashed == []
    changes: list[Callable[[], object]] = [
        lambda: os.utime(path),
        lambda: path.chmod(0o400),
        lambda: (shutil.copy(path, path.with_name("copy")), path.with_name("copy").replace(path)),
        lambda: (cache / "stamps" / SHA).unlink(),
        lambda: (cache / "stamps" / SHA).write_text("{}"),
        lambda: (cache / "stamps" / SHA).write_text("[" * 50_000),
    ]
    for number, change in enumerate(changes, 1):
        change()
        for _ in range(2):
            assert fetch(url, sha256=SHA) == path
            assert len(hashed) == number
    assert server.count() == 1


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "fifo", "folder"])
@pytest.mark.parametrize("place", ["blobs", "stamps", "pins", "locks", "partial"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_planted_is_named_and_not_touched(
    server: Server, cache: Path, tmp_path: Path, kind: str, place: str, when: str
) -> None:
    from torchseg_zoo.weights.partial import host_token
    from torchseg_zoo.weights.sources import parse

    url = server.file("/x", DATA)
    if when == "after":
        fetch(url)
    else:
        with Cache(cache) as empty:
            empty.prepare()
    key = parse(url).key
    name = {"blobs": SHA, "stamps": SHA, "partial": f"{key}.{host_token()}.0.part"}.get(place, key)
    if place != "blobs" and when == "after":
        (cache / "blobs" / SHA).unlink()
        if place in ("stamps", "pins"):
            fetch(url)
            os.utime(cache / "blobs" / SHA)
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    before = outside.stat()
    target = cache / place / name
    target.unlink(missing_ok=True)
    if kind == "symlink":
        target.symlink_to(outside)
    elif kind == "dangling":
        target.symlink_to(tmp_path / "not-there")
    elif kind == "hardlink":
        os.link(outside, target)
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    begin = time.monotonic()
    known = SHA if place == "blobs" else None
    try:
        assert fetch(url, sha256=known).read_bytes() == DATA
        refused = False
    except CacheError as error:
        refused = str(target) in str(error)
        assert refused, error
    assert time.monotonic() - begin < 2
    # A stamp is written by renaming, which replaces a link and follows none.
    assert refused or (place == "stamps" and when == "before")
    assert outside.read_bytes() == b"secret" and not (tmp_path / "not-there").exists()
    assert outside.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("place", ["blobs", "stamps", "pins", "locks", "partial"])
def test_a_folder_that_is_a_link_is_refused(server: Server, cache: Path, place: str) -> None:
    url = server.file("/x", DATA)
    outside = cache.parent / "outside"
    outside.mkdir()
    cache.mkdir()
    (cache / place).symlink_to(outside)
    with pytest.raises(CacheError, match=f"{cache / place}: is a link"):
        fetch(url)
    assert list(outside.iterdir()) == []


def test_the_cache_itself_may_be_a_link(server: Server, cache: Path) -> None:
    (cache.parent / "scratch").mkdir()
    cache.symlink_to(cache.parent / "scratch")
    assert fetch(server.file("/x", DATA)) == cache / "blobs" / SHA


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["", "blobs", f"blobs/{SHA}", f"stamps/{SHA}"])
def test_what_belongs_to_somebody_else_is_refused(server: Server, cache: Path, what: str) -> None:
    url = server.file("/x", DATA)
    fetch(url, sha256=SHA)
    os.chown(cache / what, 12345, -1)
    with pytest.raises(CacheError, match="belongs to user 12345"):
        fetch(url, sha256=SHA)


def test_folders_open_to_others_are_closed(server: Server, cache: Path) -> None:
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs").chmod(0o777)
    fetch(server.file("/x", DATA))
    assert stat.S_IMODE((cache / "blobs").stat().st_mode) == 0o755


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open", "ftruncate", "mkdir"])
def test_failing_system_calls_leave_the_old_state(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """The k-th call fails, for every k until the download succeeds; nothing wrong ever appears."""
    url = server.add("/x", lambda r: r.serve(DATA, cut_after=len(DATA) // 2 if r.nth % 2 else None))
    failing = _Failing(call, number)
    failures = 0
    for k in range(1, 60):
        failing.begin(k)
        shutil.rmtree(cache, ignore_errors=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                path = fetch(url, sha256=SHA, progress=False)
            except CacheError as error:
                failures += 1
                assert os.strerror(number) in str(error)
                path = None
        if path is not None:
            assert path.read_bytes() == DATA
        elif (cache / "blobs").exists():
            assert not (cache / "blobs" / SHA).exists()
        assert leftovers(cache) == []
        if failing.calls < k:
            break
    assert k < 59
    assert failures or call == "ftruncate"


class _Failing:
    """A system call that fails the k-th time; of ``open``, only what creates files counts."""

    def __init__(self, name: str, number: int) -> None:
        self._name, self._number, self._real = name, number, getattr(os, name)
        self.begin(0)

    def begin(self, k: int) -> None:
        self._k, self.calls = k, 0

    def __call__(self, *args: Any, **options: Any) -> object:
        if self._name != "open" or args[1] & os.O_CREAT:
            self.calls += 1
            if self.calls == self._k:
                raise OSError(self._number, os.strerror(self._number))
        return self._real(*args, **options)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_is_too_small_is_told_before_the_start(
    server: Server, small_disk: Path, clean_environment: None
) -> None:
    url = server.file("/x", content(10 << 20))
    with pytest.raises(CacheError, match=r"needs 10 MB, 8 MB free.*TORCHSEG_ZOO_CACHE"):
        fetch(url, cache_dir=small_disk / "cache")
    assert leftovers(small_disk / "cache") == []
    assert fetch(server.file("/small", DATA), cache_dir=small_disk / "cache").read_bytes() == DATA


def test_a_disk_that_fills_meanwhile_keeps_the_old_files(
    server: Server, small_disk: Path, clean_environment: None
) -> None:
    cache = small_disk / "cache"
    old = fetch(server.file("/old", DATA), cache_dir=cache)
    big = content(4 << 20, seed=4)

    def route(request: Request) -> None:
        request.serve(big, cut_after=1 << 20)
        (small_disk / "hog").write_bytes(bytes(2 << 20))

    with pytest.raises(CacheError, match=r"MB free|No space left"):
        fetch(server.add("/big", route), cache_dir=cache)
    assert old.read_bytes() == DATA and leftovers(cache) == []
    assert blobs(cache) == {SHA}


_CALLS = (
    "openat,mkdirat,mkdir,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,"
    "chmod,fchmod,fchmodat,utimensat,truncate,ftruncate,mknod,mknodat,flock"
)


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("stamped", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("how", ["mount", "rights"])
def test_a_read_only_cache_is_used_without_a_write(
    server: Server,
    small_disk: Path,
    tmp_path: Path,
    zygote: Zygote,
    known: bool,
    stamped: bool,
    how: str,
) -> None:
    """EROFS on a read-only mount, EACCES for a user without rights: no write is even tried."""
    cache = small_disk / "cache"
    url = server.file("/x", DATA)
    fetch(url, cache_dir=cache)
    if not stamped:
        os.utime(cache / "blobs" / SHA)
    if how == "mount":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    else:
        for path in (cache, *cache.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        for folder in (tmp_path, *tmp_path.parents):
            if folder.stat().st_mode & 0o001:
                break
            folder.chmod(0o711)
    log = tmp_path / "strace.log"
    job = {"uid": 65534} if how == "rights" else {}
    said = tmp_path / "stderr"
    pid = zygote.start(
        urls=url,
        sha256=SHA if known else None,
        cache=str(cache),
        hold=True,
        progress=True,
        stderr=str(said),
        **job,
    )
    with traced(pid, "-y", "-o", str(log), "-e", f"trace={_CALLS}"):
        outcome = zygote.join(pid)
    assert outcome.get("path") == str(cache / "blobs" / SHA), outcome
    assert said.read_text() == "" and server.count() == 1
    touching = [line for line in log.read_text().splitlines() if str(cache) in line]
    assert any(f'"{SHA}"' in line for line in touching)
    writing = ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC")
    assert [
        line for line in touching if "openat" not in line or any(flag in line for flag in writing)
    ] == []


@pytest.mark.parametrize("state", ["empty", "absent", "lacking", "rotted"])
def test_a_read_only_cache_that_lacks_the_file_names_the_variable(
    server: Server, small_disk: Path, clean_environment: None, state: str
) -> None:
    cache = small_disk / "cache"
    url = server.file("/x", DATA)
    if state != "absent":
        with Cache(cache) as made:
            made.prepare()
    if state == "lacking":
        fetch(server.file("/other", content(1000)), cache_dir=cache)
    if state == "rotted":
        fetch(url, sha256=SHA, cache_dir=cache).write_bytes(DATA[1:])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    before = server.count()
    with pytest.raises(CacheError, match="set TORCHSEG_ZOO_CACHE") as caught:
        fetch(url, sha256=SHA, cache_dir=cache)
    assert ("damaged" in str(caught.value)) == (state == "rotted")
    assert server.count() == before


def test_old_leftovers_are_collected(server: Server, cache: Path) -> None:
    with Cache(cache) as made:
        made.prepare()
    old, young = time.time() - 30 * 24 * 3600, time.time() - 300
    for name, when in (("a.b.c.part", old), ("a.b.c.json", old), ("d.e.f.part", young)):
        (cache / "partial" / name).write_bytes(b"x")
        os.utime(cache / "partial" / name, (when, when))
    for folder in ("pins", "stamps"):
        (cache / folder / "a.tmp").write_bytes(b"x")
        os.utime(cache / folder / "a.tmp", (old, old))
    (cache / "locks" / "old").touch()
    os.utime(cache / "locks" / "old", (old, old))
    fetch(server.file("/x", DATA))
    assert leftovers(cache) == ["d.e.f.part"]
    assert not list(cache.rglob("*.tmp"))


def test_a_partial_file_of_another_machine_is_copied_not_continued(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.file("/x", DATA)
    with Cache(cache) as made:
        made.prepare()
    name = cache / "partial" / f"{SHA}.otherone.0.part"
    name.write_bytes(DATA[:1000])
    fetch(url, sha256=SHA)
    assert name.exists() and "Range" not in server.log[-1][2]  # it may be alive

    (cache / "blobs" / SHA).unlink()
    os.utime(name, (time.time() - 100,) * 2)
    inode = name.stat().st_ino
    path = fetch(url, sha256=SHA)
    assert path.read_bytes() == DATA and path.stat().st_ino != inode
    assert server.log[-1][2]["Range"] == "bytes=1000-"
    assert not name.exists() and partial_module.host_token() != "otherone"


def test_wrong_bytes_in_a_partial_file_cost_one_more_request(server: Server, cache: Path) -> None:
    url = server.file("/x", DATA)
    with Cache(cache) as made:
        made.prepare()
    name = cache / "partial" / f"{SHA}.{partial_module.host_token()}.0.part"
    name.write_bytes(b"garbage" * 1000)
    assert fetch(url, sha256=SHA).read_bytes() == DATA
    assert server.count() == 2 and leftovers(cache) == []


def test_errors_are_zoo_errors_when_the_cache_cannot_be_made(
    server: Server, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "sub", Path("/proc/1/cache")):
        with pytest.raises(ZooError, match="TORCHSEG_ZOO_CACHE"):
            fetch(server.url + "/x", cache_dir=bad)
