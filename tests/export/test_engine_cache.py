"""The cache of engines: what it keeps, and what it does not give out."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from torchseg_zoo.errors import CacheError
from torchseg_zoo.export.engine_cache import EngineCache, EngineKey
from torchseg_zoo.runtime.seal import Sealer

KEY = EngineKey("Some GPU (sm_90)", "580.95", "10.13.3.9", "ab" * 32, "[]")
ENGINE = np.random.default_rng(0).bytes(5000)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache", sealer=Sealer(tmp_path / "state" / "secret"))


def only_file(cache: EngineCache) -> Path:
    (path,) = (cache.root / "engines").iterdir()
    return path


def test_an_engine_is_found_by_all_that_it_depends_on(cache: EngineCache) -> None:
    assert cache.find(KEY) is None
    cache.store(KEY, ENGINE)
    assert cache.find(KEY) == ENGINE
    for name in ("gpu", "driver", "tensorrt", "graph_sha256", "options"):
        assert cache.find(replace(KEY, **{name: "other"})) is None
    cache.store(KEY, ENGINE + b"2")
    assert cache.find(KEY) == ENGINE + b"2"


def test_a_timing_cache_serves_all_graphs_of_a_machine(cache: EngineCache) -> None:
    assert cache.find_timing(KEY) == b""
    cache.store_timing(KEY, b"timings")
    assert cache.find_timing(replace(KEY, graph_sha256="cd" * 32, options="[1]")) == b"timings"
    assert cache.find_timing(replace(KEY, driver="other")) == b""
    assert cache.find(KEY) is None


def damage(cache: EngineCache, whole: bytes, seed: int) -> None:
    generator = np.random.default_rng(seed)
    changed = bytearray(whole)
    if seed % 4 == 0:
        del changed[generator.integers(len(whole)) :]
    elif seed % 4 == 1:
        changed += generator.bytes(1 + generator.integers(9))
    else:
        changed[generator.integers(len(whole))] ^= 1 << generator.integers(8)
    only_file(cache).write_bytes(changed)


def assert_damage_is_seen(cache: EngineCache, count: int) -> None:
    cache.store(KEY, ENGINE)
    whole = only_file(cache).read_bytes()
    for seed in range(count):
        damage(cache, whole, seed)
        with pytest.warns(UserWarning, match="not as it was built here"):
            assert cache.find(KEY) is None
    cache.store(KEY, ENGINE)
    assert cache.find(KEY) == ENGINE


def test_cut_and_edited_engines_are_not_given_out(cache: EngineCache) -> None:
    assert_damage_is_seen(cache, 40)


@pytest.mark.soak
def test_a_thousand_damaged_engines_are_not_given_out(cache: EngineCache) -> None:
    assert_damage_is_seen(cache, 1000)


def test_an_engine_under_another_name_is_not_given_out(cache: EngineCache) -> None:
    cache.store(KEY, ENGINE)
    other = replace(KEY, options="[1]")
    shutil.copy(only_file(cache), cache.root / "engines" / f"{other.digest()}.engine")
    with pytest.warns(UserWarning, match="not as it was built here"):
        assert cache.find(other) is None
    assert cache.find(KEY) == ENGINE


def test_a_cache_from_elsewhere_opens_nothing(cache: EngineCache, tmp_path: Path) -> None:
    cache.store(KEY, ENGINE)
    for secret in ("no secret yet", "other"):
        sealer = Sealer(tmp_path / secret / "secret")
        if secret == "other":
            sealer.seal("name", b"content")
        with pytest.warns(UserWarning, match="not as it was built here"):
            assert EngineCache(cache.root, sealer=sealer).find(KEY) is None


def test_the_secret_is_the_users_own(cache: EngineCache, tmp_path: Path) -> None:
    cache.store(KEY, ENGINE)
    secret = tmp_path / "state" / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    secret.write_bytes(secret.read_bytes()[:-1])  # cut: another one is made, nothing old holds
    with pytest.warns(UserWarning, match="not as it was built here"):
        assert cache.find(KEY) is None
    cache.store(KEY, ENGINE)
    assert cache.find(KEY) == ENGINE


def test_what_is_planted_is_not_followed(cache: EngineCache, tmp_path: Path) -> None:
    cache.store(KEY, ENGINE)
    path = only_file(cache)
    target = tmp_path / "target"
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(CacheError, match="link"):
        cache.find(KEY)
    cache.store(KEY, ENGINE + b"2")  # replaces the link, not what it points to
    assert not path.is_symlink()
    assert target.read_bytes()[64:] == ENGINE
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CacheError):
        cache.find(KEY)


def test_a_write_that_fails_leaves_the_old_engine(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store(KEY, ENGINE)

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(CacheError, match="No space left"):
            cache.store(KEY, b"new")
    assert cache.find(KEY) == ENGINE
    assert only_file(cache).suffix == ".engine"


def test_without_a_home_it_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", _no_home)
    with pytest.raises(CacheError, match="set XDG_STATE_HOME"):
        Sealer()


def _no_home(path: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")
