"""Fixtures of the tests that fetch: a clean environment, a server, an empty cache, quick limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fetch_processes import QUICK
from guard_processes import Quick
from loopback import Server

from torchseg_zoo.weights import fetch as fetch_module
from torchseg_zoo.weights import guard
from torchseg_zoo.weights.http import Policy

_VARIABLES = (
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "TORCHSEG_ZOO_OFFLINE",
    "TORCHSEG_ZOO_MIRROR",
    "TORCHSEG_ZOO_CACHE",
    "TORCHSEG_ZOO_DEADLINE",
    "RANK",
    "LOCAL_RANK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub_home"))


@pytest.fixture
def server(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that the user has configured as endpoint, so that it may be talked to."""
    with Server() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def cache(clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Top directory of a cache that does not exist yet."""
    root = tmp_path / "cache"
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(root))
    return root


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the limits of downloads in this process."""

    def set_limits(**changes: Any) -> None:
        policy = Policy(**{**QUICK, **changes})
        monkeypatch.setattr(fetch_module, "_policy", lambda: policy)

    set_limits()
    return set_limits


@pytest.fixture(scope="session")
def _reading() -> Iterator[Quick]:
    started = Quick()
    yield started
    started.close()


@pytest.fixture
def quick(_reading: Quick, monkeypatch: pytest.MonkeyPatch) -> Quick:
    """Foreign files are read in a forked process: the same code without the import of torch."""
    monkeypatch.setattr(guard, "_run", _reading.run)
    return _reading
