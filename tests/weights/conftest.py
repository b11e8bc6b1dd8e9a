"""What the tests of fetching share: a server, an empty cache, quick limits, real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fetch_processes import QUICK, Zygote
from guard_processes import Quick
from hub_server import HubServer
from huggingface_hub import constants
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
def hub(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    """A hub on loopback, which the hub's own client takes for its endpoint."""
    # The client has read its variables when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with HubServer() as running:
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
def _forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    started = Zygote(tmp_path_factory.mktemp("outcomes"))
    yield started
    started.close()


@pytest.fixture
def zygote(_forking: Zygote, server: Server) -> Iterator[Zygote]:
    """Starts processes that fetch from ``server``."""
    _forking.environment = {"HF_ENDPOINT": server.url}
    yield _forking
    _forking.kill()


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
