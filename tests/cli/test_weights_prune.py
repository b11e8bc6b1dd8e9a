"""``torchseg-zoo weights prune``: what of the cache may go, and what stays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cache_folder import age, blobs
from commands import Call, Done, assert_failed
from loopback import Server, content, digest
from weights_site import DATA, FOREIGN, FULL, PREFIX, source_of

import torchseg_zoo as tsz
from torchseg_zoo.errors import ArgumentError, IntegrityError
from torchseg_zoo.weights import released


def test_prune_leaves_whole_files_and_a_running_download_alone(
    call: Call, site: Server, cache: Path
) -> None:
    call("weights", "fetch", FULL)
    slow = content(3 << 20, 7)
    url = site.file("/slow", slow, rate=3e6)
    code = f"from torchseg_zoo.weights import fetch; print(fetch.fetch({url!r}, progress=False))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        partial = cache / "partial"
        until = time.monotonic() + 30
        while not any(path.stat().st_size > 100_000 for path in partial.glob("*.part")):
            assert time.monotonic() < until
            time.sleep(0.01)
        for path in cache.rglob("*"):
            age(path)
        done = call("weights", "prune")
        assert done == Done(0, "removed 0 files, 0 bytes (0.0 MB)\n", "")
        assert list(partial.glob("*.part"))
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert Path(out.strip()).read_bytes() == slow
    assert blobs(cache) == {digest(slow), digest(DATA[FULL])}


def test_prune_removes_what_a_killed_download_has_left(
    call: Call, site: Server, cache: Path
) -> None:
    data = content(3 << 20, 8)
    url = site.file("/killed", data, rate=3e6)
    code = f"from torchseg_zoo.weights import fetch; fetch.fetch({url!r}, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    partial = cache / "partial"
    until = time.monotonic() + 30
    while not any(path.stat().st_size > 100_000 for path in partial.glob("*.part")):
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    (left,) = partial.glob("*.part")
    size = sum(path.stat().st_size for path in partial.iterdir())
    done = call("weights", "prune", "--dry-run")
    assert f"would remove  {left.stat().st_size / 1e6:.1f} MB  {left}" in done.out
    assert f"would remove 2 files, {size} bytes" in done.out and left.exists()
    done = call("weights", "prune")
    assert f"removed 2 files, {size} bytes" in done.out
    assert list(partial.iterdir()) == []
    assert call("weights", "prune").out == "removed 0 files, 0 bytes (0.0 MB)\n"


def test_prune_removes_old_conversions_and_keeps_pins(
    call: Call, site: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(released, "__version__", "0.0.1")
        model = tsz.create_model(FOREIGN)
    source = source_of(cache)
    (old,) = blobs(cache) - {source}
    size = (cache / "blobs" / old).stat().st_size
    for path in (cache / "blobs").iterdir():
        age(path)
    assert call("weights", "prune").out.startswith("removed 0 files"), "a process has it mapped"
    del model
    gc.collect()
    assert f"would remove 1 files, {size} bytes" in call("weights", "prune", "--dry-run").out
    done = call("weights", "prune")
    assert f"removed 1 files, {size} bytes" in done.out and "by another version" in done.out
    assert blobs(cache) == {source}

    assert tsz.create_model(FOREIGN).num_classes == 19
    gc.collect()
    assert site.count("/x39.pth") == 1
    for path in (cache / "blobs").iterdir():
        age(path)
    assert call("weights", "prune").out.startswith("removed 0 files")
    done = call("weights", "prune", "--downloads")
    assert "whose converted form is here" in done.out and source not in blobs(cache)
    # The pin stays, and so does what is read.
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert tsz.create_model(FOREIGN).num_classes == 19
    monkeypatch.delenv("TORCHSEG_ZOO_OFFLINE")
    site.file("/x39.pth", content(5000))
    assert_failed(call("weights", "fetch", FOREIGN), IntegrityError, "pinned at the first fetch")


def test_prune_of_what_nobody_has_read(call: Call, site: Server, cache: Path) -> None:
    call("weights", "fetch", FULL, PREFIX)
    age(cache / "blobs" / digest(DATA[FULL]), 40 * 86400)
    age(cache / "blobs" / digest(DATA[PREFIX]), 20 * 86400)
    assert "not read for 40 days" in call("weights", "prune", "--unused", "30", "--dry-run").out
    assert call("weights", "prune").out.startswith("removed 0 files")
    call("weights", "prune", "--unused", "30")
    assert blobs(cache) == {digest(DATA[PREFIX])}
    for days in ("-1", "nan"):
        assert_failed(call("weights", "prune", "--unused", days), ArgumentError, "--unused")
    assert call("weights", "prune", "--unused", "many").code == 2


def test_an_empty_cache_is_left_as_it_is(call: Call, site: Server, cache: Path) -> None:
    assert call("weights", "prune").out == "removed 0 files, 0 bytes (0.0 MB)\n"
    assert call("weights", "verify").code == 0
    assert not cache.exists()
