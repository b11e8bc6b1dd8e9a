"""A loopback server that speaks the Hugging Face hub's protocol: resolve, create, LFS, commit."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants
from loopback import Request, Server


def is_large(name: str) -> bool:
    """Whether the hub keeps such a file outside git."""
    return name.endswith((".safetensors", ".bin"))


def etag_of(name: str, data: bytes) -> str:
    """What the hub calls the content: sha256 of large files, git's id of small ones."""
    if is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubRequest(Request):
    """One request to the hub; bodies are read, since uploads have them."""

    server: HubServer

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        with self.server.guard:
            self.server.log.append((self.command, self.path, dict(self.headers)))
        self.close_connection = True
        self.server.answer(self)

    do_PUT = do_POST

    def do_GET(self) -> None:
        self.do_POST()

    do_HEAD = do_GET

    def reply(self, record: Any, status: int = 200) -> None:
        """An answer in JSON."""
        self.answer(status, json.dumps(record).encode(), {"Content-Type": "application/json"})


class HubServer(Server):
    """Repositories in memory: ``org/repo`` → revision → files."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = HubRequest
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.token = ""

    def put(self, repository: str, files: dict[str, bytes], *, message: str = "") -> str:
        """Commits files on top of main; the commit's id."""
        revisions = self.repositories.setdefault(repository, {"main": {}})
        whole = {**revisions["main"], **files}
        text = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in whole.items()})
        commit = hashlib.sha1(f"{text}{len(revisions)}".encode()).hexdigest()
        revisions["main"] = revisions[commit] = whole
        self.messages.append(message)
        return commit

    def head(self, repository: str, revision: str) -> str:
        """The commit that a revision is."""
        revisions = self.repositories[repository]
        return next(
            name
            for name in reversed(revisions)
            if name != "main" and revisions[name] is revisions[revision]
        )

    def answer(self, request: HubRequest) -> None:
        """One request."""
        path = unquote(request.path.partition("?")[0])
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            request.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif "/resolve/" in path:
            self._resolve(request, path)
        elif path == "/api/repos/create":
            name = json.loads(request.body)
            repository = "/".join(filter(None, (name.get("organization"), name["name"])))
            self.repositories.setdefault(repository, {"main": {}})
            request.reply({"url": f"{self.url}/{repository}"})
        elif path == "/api/validate-yaml":
            request.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(request.body)["files"]
            repository = path.removeprefix("/api/models/").partition("/preupload/")[0]
            there = self.repositories.get(repository, {}).get("main", {})
            for file in files:
                file["uploadMode"] = "lfs" if is_large(file["path"]) else "regular"
                file["shouldIgnore"] = False
                data = there.get(file["path"])
                file["oid"] = None if data is None else etag_of(file["path"], data)
            request.reply({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            wanted = json.loads(request.body)
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}}
                for item in wanted["objects"]
            ]
            request.reply({"transfer": "basic", "objects": objects})
        elif path.startswith("/lfs/"):
            self.blobs[path.rpartition("/")[2]] = request.body
            request.answer(200)
        elif "/commit/" in path:
            self._commit(request, path)
        elif path.startswith("/api/models/"):
            self._info(request, path.removeprefix("/api/models/"))
        else:
            request.answer(404, b"{}")

    def _info(self, request: HubRequest, path: str) -> None:
        repository, _, revision = path.partition("/revision/")
        if repository not in self.repositories:
            request.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            return
        request.reply({"id": repository, "sha": self.head(repository, revision or "main")})

    def _resolve(self, request: HubRequest, path: str) -> None:
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        revisions = self.repositories.get(repository)
        if revisions is None or revision not in revisions:
            code = "RepoNotFound" if revisions is None else "RevisionNotFound"
            request.answer(404, b"", {"X-Error-Code": code})
            return
        data = revisions[revision].get(name)
        if data is None:
            request.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = etag_of(name, data)
        headers = {"X-Repo-Commit": self.head(repository, revision), "ETag": f'"{etag}"'}
        if is_large(name):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        request.serve(data, etag=f'"{etag}"', headers=headers)

    def _commit(self, request: HubRequest, path: str) -> None:
        repository = path.removeprefix("/api/models/").partition("/commit/")[0]
        files, message = {}, ""
        for line in request.body.splitlines():
            record = json.loads(line)
            value = record["value"]
            if record["key"] == "header":
                message = value["summary"]
            elif record["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif record["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        commit = self.put(repository, files, message=message)
        url = f"{self.url}/{repository}/commit/{commit}"
        request.reply({"success": True, "commitOid": commit, "commitUrl": url})


@contextmanager
def hub_of_client(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """A hub that this process's hub client takes for the hub; it caches in ``cache``."""
    # The client has read its variables when it was imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with HubServer() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
