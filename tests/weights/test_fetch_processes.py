"""Many processes, killed and frozen ones, and system calls that fail."""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from fetch_processes import Zygote, traced
from loopback import Request, Server, content, digest

pytestmark = pytest.mark.usefixtures("clean_environment")
MB = 1 << 20
DATA = content(4 * MB)
SHA = digest(DATA)
CALLS = (
    "openat",
    "write",
    "fsync",
    "renameat",
    "unlinkat",
    "flock",
    "ftruncate",
    "lseek",
    "mkdirat",
    "fchmodat",
    "recvfrom",
    "sendto",
    "connect",
    "utimensat",
    "close",
)


def parts(cache: Path) -> list[Path]:
    folder = cache / "partial"
    return sorted(folder.glob("*.part")) if folder.exists() else []


def nothing_wrong(cache: Path) -> None:
    """Whatever has a final name is right, and at most one partial file is left."""
    for blob in (cache / "blobs").glob("*") if (cache / "blobs").exists() else ():
        assert blob.name == digest(blob.read_bytes())
    assert len(parts(cache)) <= 1


def clean(cache: Path) -> None:
    for name in ("partial", "locks"):
        assert list((cache / name).iterdir()) == []


def together(
    server: Server,
    zygote: Zygote,
    cache: Path,
    count: int,
    size: int,
    rate: float | None = None,
    **job: Any,
) -> tuple[float, float]:
    """Seconds that one process takes, and many at once."""
    data = content(size)
    # Hashing by those who are done would take the processor from those who are timed.
    job = {"sha256": digest(data), "size": size, "verify": False, **job}
    url = server.file("/x", data, rate=rate)
    alone = zygote.join(zygote.start(urls=url, cache=str(cache / "alone"), **job))
    server.log.clear()
    begin = time.time() + 0.02 * count
    pids = [zygote.start(urls=url, cache=str(cache / "all"), at=begin, **job) for _ in range(count)]
    outcomes = [zygote.join(pid) for pid in pids]
    final = cache / "all" / "blobs" / digest(data)
    assert [outcome.get("path") for outcome in outcomes] == [str(final)] * count, outcomes
    assert digest(final.read_bytes()) == final.name
    if job["verify"]:
        assert {outcome["sha256"] for outcome in outcomes} == {digest(data)}
    clean(cache / "all")
    return alone["seconds"], max(outcome["seconds"] for outcome in outcomes)


def test_many_processes_share_one_download(server: Server, zygote: Zygote, cache: Path) -> None:
    together(server, zygote, cache, 16, 8 * MB)
    assert server.count() == 1 and len(server.log) == 1


def test_so_they_do_when_the_digest_is_not_known(
    server: Server, zygote: Zygote, cache: Path
) -> None:
    together(server, zygote, cache, 6, MB, sha256=None)
    assert server.count() == 1


def test_locks_that_do_nothing_cost_bandwidth_only(
    server: Server, zygote: Zygote, cache: Path
) -> None:
    together(server, zygote, cache, 16, 2 * MB, no_flock=True, verify=True)
    assert 1 <= server.count() <= 16


@pytest.mark.soak
@pytest.mark.parametrize("rate", [None, 16 * MB])
def test_64_processes_share_one_download(
    server: Server, zygote: Zygote, cache: Path, rate: float | None
) -> None:
    ratios = []
    for turn in range(20):
        one, many = together(server, zygote, cache / str(turn), 64, 32 * MB, rate)
        assert server.count() == 1 and len(server.log) == 1
        ratios.append(many / one)
        shutil.rmtree(cache / str(turn))
    print(
        f"RECORD 64 processes, 32 MB, {one:.2f} s for one alone, 20 repeats: 1 GET, 64/64 right, "
        f"wall ratio median {statistics.median(ratios):.2f}, worst {max(ratios):.2f}"
    )


@pytest.mark.soak
def test_64_processes_without_locks(server: Server, zygote: Zygote, cache: Path) -> None:
    together(server, zygote, cache, 64, 4 * MB, no_flock=True, verify=True)
    print(f"RECORD 64 processes without locks: 64/64 right, {server.count()} GETs")


@pytest.mark.soak
def test_8_caches_of_8_processes(server: Server, zygote: Zygote, cache: Path) -> None:
    data = content(32 * MB)
    url = server.file("/x", data)
    pids = [
        zygote.start(
            urls=url, sha256=digest(data), cache=str(cache / str(n % 8)), at=time.time() + 1
        )
        for n in range(64)
    ]
    outcomes = [zygote.join(pid) for pid in pids]
    assert [outcome["sha256"] for outcome in outcomes] == [digest(data)] * 64
    assert server.count() == 8
    print("RECORD 8 caches × 8 processes, 32 MB: 8 GETs, 64/64 right")


def test_those_who_wait_say_for_whom(
    server: Server, zygote: Zygote, cache: Path, tmp_path: Path
) -> None:
    url = server.file("/x", DATA, rate=2 * MB)
    holder = zygote.start(urls=url, sha256=SHA, cache=str(cache))
    time.sleep(0.3)
    said = tmp_path / "said"
    waiter = zygote.start(urls=url, sha256=SHA, cache=str(cache), progress=True, stderr=str(said))
    assert zygote.join(waiter)["sha256"] == zygote.join(holder)["sha256"] == SHA
    assert f"waiting for process {holder} on " in said.read_text()
    assert f"the download of {url}: " in said.read_text() and "MB so far" in said.read_text()
    assert server.count() == 1


def test_those_who_wait_share_the_failure(server: Server, zygote: Zygote, cache: Path) -> None:
    def route(request: Request) -> None:
        time.sleep(0.2)
        request.answer(500)

    url = server.add("/x", route)
    begin = time.time() + 0.2
    pids = [zygote.start(urls=url, cache=str(cache), at=begin) for _ in range(8)]
    outcomes = [zygote.join(pid) for pid in pids]
    assert {outcome["error"] for outcome in outcomes} == {"DownloadError"}
    assert all("HTTP 500" in outcome["message"] for outcome in outcomes)
    assert server.count() <= 10  # one attempt of five, or two of a late comer; not eight
    clean(cache)


def holder_lost(
    server: Server, zygote: Zygote, cache: Path, how: int, after_s: float, stale_s: float
) -> float:
    """The holder is killed or frozen; returns the seconds until another has the file."""
    url = server.file("/x", DATA, rate=8 * MB)
    policy = {"stale_s": stale_s, "window_s": 20.0}
    job = {"urls": url, "sha256": SHA, "cache": str(cache), "policy": policy}
    holder = zygote.start(**job)
    while not parts(cache) and zygote.alive(holder):
        time.sleep(0.002)
    waiters = [zygote.start(**job) for _ in range(2)]
    time.sleep(after_s)
    if zygote.alive(holder):
        os.kill(holder, how)
    begin = time.monotonic()
    outcomes = [zygote.join(pid, limit_s=90) for pid in waiters]
    seconds = time.monotonic() - begin
    assert [outcome.get("sha256") for outcome in outcomes] == [SHA, SHA], outcomes
    if zygote.alive(holder):
        os.kill(holder, signal.SIGCONT)  # it wakes, and must do no harm
        assert zygote.join(holder)["sha256"] == SHA
    assert zygote.join(zygote.start(**job))["sha256"] == SHA
    nothing_wrong(cache)
    clean(cache)
    return seconds


@pytest.mark.parametrize("after_s", [0.0, 0.2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_holder_is_replaced(
    server: Server, zygote: Zygote, cache: Path, how: int, after_s: float
) -> None:
    assert holder_lost(server, zygote, cache, how, after_s, stale_s=1.0) < 10


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_holders_at_50_points(server: Server, zygote: Zygote, cache: Path, how: int) -> None:
    dice = random.Random(how)
    worst = 0.0
    for turn in range(50):
        stale_s = 60.0 if how == signal.SIGKILL or turn == 0 else 1.5
        seconds = holder_lost(server, zygote, cache / str(turn), how, dice.uniform(0, 0.5), stale_s)
        if turn or how == signal.SIGKILL:
            worst = max(worst, seconds)
        else:
            print(f"RECORD frozen holder, limit 60 s: taken over and done after {seconds:.1f} s")
            assert seconds < 90
    print(f"RECORD holder {signal.Signals(how).name} at 50 points: 50/50, worst {worst:.1f} s")


def killed(server: Server, zygote: Zygote, cache: Path, after_s: float) -> bool:
    """One download is killed at a moment; the next call must end well. Whether it was killed."""
    url = server.file("/x", DATA, rate=12 * MB)
    job = {"urls": url, "sha256": SHA, "cache": str(cache)}
    pid = zygote.start(**job)
    time.sleep(after_s)
    was_alive = zygote.alive(pid)
    if was_alive:
        os.kill(pid, signal.SIGKILL)
    zygote.join(pid)
    recovers(server, zygote, cache, url)
    return was_alive


def recovers(server: Server, zygote: Zygote, cache: Path, url: str) -> None:
    nothing_wrong(cache)
    had = max((part.stat().st_size for part in parts(cache)), default=0)
    done = (cache / "blobs" / SHA).exists()
    server.log.clear()
    server.file("/x", DATA)
    outcome = zygote.join(zygote.start(urls=url, sha256=SHA, cache=str(cache)))
    assert outcome.get("sha256") == SHA, outcome
    if done:  # nothing but looked up, so a lock or a note may lie there until it is old
        assert server.count() == 0 and parts(cache) == []
        return
    clean(cache)
    if had == len(DATA):
        assert server.count() == 0
    else:
        assert server.count() == 1
        expected = f"bytes={had}-" if had else None
        assert server.log[0][2].get("Range") == expected


def test_killed_downloads_are_resumed(server: Server, zygote: Zygote, cache: Path) -> None:
    dice = random.Random(1)
    kills = [killed(server, zygote, cache / str(n), dice.uniform(0, 0.45)) for n in range(10)]
    assert sum(kills) >= 5


@pytest.mark.soak
def test_200_killed_downloads(server: Server, zygote: Zygote, cache: Path) -> None:
    dice = random.Random(2)
    kills = [killed(server, zygote, cache / str(n), dice.uniform(0, 0.45)) for n in range(200)]
    print(f"RECORD SIGKILL at 200 random moments: 200/200 recovered, {sum(kills)} caught alive")


def traced_download(
    server: Server, zygote: Zygote, cache: Path, log: Path, call: str, fault: str
) -> tuple[dict[str, Any], str]:
    """A download, cut once on its way, with a fault put into one of its system calls."""
    url = server.add("/x", lambda r: r.serve(DATA, cut_after=2 * MB if r.nth == 1 else None))
    server.log.clear()
    pid = zygote.start(urls=url, sha256=SHA, cache=str(cache), hold=True, verify=False)
    with traced(pid, "-o", str(log), "-e", f"trace={call}", "-e", f"inject={call}:{fault}"):
        return zygote.join(pid), url


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize(
    ("call", "k"),
    [("mkdirat", 3), ("write", 4), ("recvfrom", 5), ("fsync", 2), ("renameat", 2), ("unlinkat", 1)],
)
def test_a_kill_at_a_system_call_is_survived(
    server: Server, zygote: Zygote, cache: Path, tmp_path: Path, call: str, k: int
) -> None:
    fault = f"signal=SIGKILL:when={k}"
    outcome, url = traced_download(server, zygote, cache, tmp_path / "log", call, fault)
    assert outcome == {}
    recovers(server, zygote, cache, url)


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_kills_at_every_system_call(
    server: Server, zygote: Zygote, cache: Path, tmp_path: Path
) -> None:
    killed_at = dict.fromkeys(CALLS, 0)
    for call in CALLS:
        for k in range(1, 61):
            here = cache / f"{call}{k}"
            fault = f"signal=SIGKILL:when={k}"
            outcome, url = traced_download(server, zygote, here, tmp_path / "log", call, fault)
            recovers(server, zygote, here, url)
            if outcome:
                break
            killed_at[call] += 1
    total = sum(killed_at.values())
    print(f"RECORD SIGKILL at each system call: {total}/{total} recovered, {killed_at}")


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO"])
def test_failures_of_every_file_system_call(
    server: Server, zygote: Zygote, cache: Path, tmp_path: Path, name: str
) -> None:
    """Calls on sockets are left out: their failures are the servers' part."""
    kinds: dict[str, int] = {}
    for call in ("openat", "write", "fsync", "renameat", "ftruncate", "mkdirat", "unlinkat"):
        for k in range(1, 61):
            here, log = cache / f"{call}{k}", tmp_path / "log"
            fault = f"error={name}:when={k}"
            outcome, url = traced_download(server, zygote, here, log, call, fault)
            if "INJECTED" not in log.read_text():
                break
            # The very last write is the report of the outcome itself.
            kind = outcome.get("error", "right") if outcome else "no report"
            kinds[kind] = kinds.get(kind, 0) + 1
            assert kind in ("right", "CacheError", "no report"), outcome
            nothing_wrong(here)
            # What cannot be removed stays, until a later download can.
            assert parts(here) == [] or call == "unlinkat"
            server.file("/x", DATA)
            again = zygote.join(zygote.start(urls=url, sha256=SHA, cache=str(here)))
            assert again["sha256"] == SHA
            assert parts(here) == []
    total = sum(kinds.values())
    print(f"RECORD {name} at each file call: {total}/{total} right or refused and mended, {kinds}")
