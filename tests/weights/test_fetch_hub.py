"""``hf://`` through the real huggingface_hub client, against a server that speaks its protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from loopback import Request, Server, content, digest

from torchseg_zoo.errors import DownloadError, IntegrityError
from torchseg_zoo.weights.fetch import fetch

pytestmark = pytest.mark.usefixtures("limits")
DATA = content(200_000)
SHA = digest(DATA)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
URL = "hf://org/repo@main/weights/model.safetensors"


class Hub:
    """A repository: resolve gives metadata and sends large files to another host."""

    def __init__(self, server: Server, storage: Server) -> None:
        self.server, self.storage = server, storage
        self.etag, self.size = f'"{SHA}"', len(DATA)
        self.status = 200
        for revision in ("main", COMMIT):
            server.add(f"/org/repo/resolve/{revision}/weights/model.safetensors", self.resolve)
        storage.file("/blob", DATA, etag='"storage"')

    def resolve(self, request: Request) -> None:
        if self.status != 200:
            request.answer(self.status, b"", {"X-Error-Code": "GatedRepo"})
            return
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": self.etag,
            "X-Linked-Size": str(self.size),
            "ETag": self.etag,
            "Location": self.storage.url + "/blob",
        }
        request.answer(302, b"", headers)


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    with Server() as storage:
        monkeypatch.setenv("TORCHSEG_ZOO_MIRROR", storage.url + "/none/")
        yield Hub(server, storage)


def test_the_digest_comes_from_the_hub_and_the_bytes_from_its_storage(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    path = fetch(URL)
    assert path == cache / "blobs" / SHA and path.read_bytes() == DATA
    asked = [(method, path) for method, path, _ in hub.server.log if "resolve" in path]
    assert [method for method, _ in asked] == ["HEAD", "GET"] and COMMIT in asked[1][1]
    sent = {key.lower(): value for key, value in hub.server.log[-1][2].items()}
    assert sent["authorization"] == "Bearer hf_secret"
    assert "Authorization" not in hub.storage.log[-1][2]
    before = len(hub.server.log)
    assert fetch(URL) == path and len(hub.server.log) == before


def test_a_known_digest_in_the_cache_needs_no_hub(hub: Hub, cache: Path) -> None:
    fetch(hub.storage.url + "/blob", sha256=SHA)
    fetch(URL, sha256=SHA)
    assert hub.server.log == []


def test_the_hub_must_agree_with_what_was_announced(hub: Hub, cache: Path) -> None:
    with pytest.raises(IntegrityError, match=SHA):
        fetch(URL, sha256="0" * 64)
    assert hub.server.count() == 0
    hub.storage.file("/blob", content(200_000, seed=1))
    with pytest.raises(IntegrityError, match="sha256 is"):
        fetch(URL)
    assert list((cache / "blobs").iterdir()) == []


def test_a_small_file_without_sha256_is_pinned(hub: Hub, cache: Path) -> None:
    hub.etag = '"d670460b4b4aece5915caf5c68d12f560a9fe3e4"'
    assert fetch(URL).name == SHA
    assert len(list((cache / "pins").iterdir())) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "wants a login"),
        (403, "wants a login"),
        (404, "no such file"),
        (500, "cannot be reach"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, cache: Path, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(DownloadError, match=words):
        fetch(URL)
    assert hub.server.count() == 0
    good = hub.storage.url + "/blob"
    assert fetch([URL, good]).name == SHA


def test_a_gated_file_names_the_login(hub: Hub, cache: Path) -> None:
    hub.status = 403
    with pytest.raises(DownloadError, match=r"hf auth login"):
        fetch(URL)


_CLIENT = """
import json, sys
from torchseg_zoo.weights.fetch import fetch
calls = []
sys.addaudithook(lambda event, _: calls.append(event) if event.startswith("socket") else None)
paths = [str(fetch(sys.argv[1], sha256=sha256 or None)) for sha256 in sys.argv[2:]]
print(json.dumps({"paths": paths, "calls": calls}))
"""


def test_the_cache_of_the_hub_is_used_offline(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "hub_home" / "hub" / "models--org--repo"
    (store / "blobs").mkdir(parents=True)
    (store / "blobs" / SHA).write_bytes(DATA)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(COMMIT)
    snapshot = store / "snapshots" / COMMIT / "weights"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(store / "blobs" / SHA)

    def run(*digests: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT, URL, *digests], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = run("", SHA)
    assert found == {"paths": [str(snapshot / "model.safetensors")] * 2, "calls": []}
    assert not cache.exists() and hub.server.log == []

    (store / "blobs" / SHA).write_bytes(content(200_000, seed=2))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert run("")["paths"] == [str(cache / "blobs" / SHA)]
