"""What the tests of weights share: fetching, a hub, real processes that fetch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fetch_fixtures import _reading, cache, clean_environment, limits, quick, server
from fetch_processes import Zygote
from hub_server import HubServer, hub_of_client
from loopback import Server

__all__ = ["_reading", "cache", "clean_environment", "limits", "quick", "server"]


@pytest.fixture
def hub(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[HubServer]:
    """A hub on loopback, which the hub's own client takes for its endpoint."""
    with hub_of_client(monkeypatch, tmp_path / "hub_cache") as running:
        yield running


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
