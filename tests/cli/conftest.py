"""What the tests of the command line share: running it, and a small site of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Call, Done, model_file, run_command
from fetch_fixtures import _reading, cache, clean_environment, limits, quick, server
from foreign import save
from guard_processes import Quick
from loopback import Server, digest
from weights_site import DATA, DRIVE, EMBEDDED, FOREIGN, FULL, PREFIX, Declare, real, write_manifest

from torchseg_zoo.weights import manifest

__all__ = ["_reading", "cache", "clean_environment", "limits", "quick", "server"]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Done:
        return run_command(capsys, *arguments)

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes; tests only read it."""
    return model_file(tmp_path_factory.mktemp("model"))


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Declare]:
    """Puts a manifest of these entries in the place of the real one."""

    def put(records: list[dict[str, Any]]) -> None:
        path = write_manifest(tmp_path / "weights_manifest.json", records)
        monkeypatch.setattr(manifest, "manifest_path", lambda: path)
        manifest.load.cache_clear()

    yield put
    manifest.load.cache_clear()


@pytest.fixture(scope="session")
def foreign_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign") / "x39.pth"
    save("torchseg/bisenet_x39", path)
    return path


@pytest.fixture
def site(
    server: Server, cache: Path, limits: Callable[..., None], quick: Quick, declare: Declare,
    foreign_file: Path,
) -> Server:  # fmt: skip
    """A server with the files of a small manifest."""

    def at(path: str, data: bytes) -> list[dict[str, str]]:
        return [{"kind": "https", "location": server.file(path, data)}]

    full = {"sha256": digest(DATA[FULL]), "size_bytes": len(DATA[FULL])}
    free = {"code": "MIT", "weights": "Apache-2.0", "dataset": "CC-BY-4.0"}
    declare(
        [
            real(FOREIGN, sources=at("/x39.pth", foreign_file.read_bytes())),
            real(PREFIX, sources=at("/p.pth", DATA[PREFIX]), sha256=digest(DATA[PREFIX])[:8]),
            real(FULL, sources=at("/f.pth", DATA[FULL]), licenses=free, **full),
            real(DRIVE),
            real(EMBEDDED),
        ]
    )
    return server
