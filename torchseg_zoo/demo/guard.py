"""What reaches the page's server: the routes that the page uses, and no file but uploads."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

__all__ = ["Guard"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

# Gradio has many more: it would fetch addresses for anybody, draw flow charts of the program, edit
# it by a language model, and log in to a hub.
_ROUTES = (
    ("GET", r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/pwa_icon(/\d+)?"),
    ("GET", r"/(static|assets|svelte)/.*"),
    ("GET", r"/gradio_api/(theme\.css|app_id|info|startup-events|upload_progress|queue/data)/?"),
    ("GET", r"/gradio_api/heartbeat/\w+"),
    ("GET", r"/gradio_api/file=.*"),
    ("POST", r"/gradio_api/(upload|queue/join|cancel|reset)/?"),
)
_ALLOWED = [(method, re.compile(pattern)) for method, pattern in _ROUTES]
_FILE = "/gradio_api/file="
_BODY_LIMIT = 1 << 20  # of a request that is no upload: names and numbers
# The page's own scripts are inline and compile templates; nothing comes from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware that refuses what the page does not need.

    Args:
        app: what it guards.
        uploads: folder of all files that may be named by requests.
        root_path: path that a proxy may leave in front of the routes.
    """

    def __init__(self, app: Any, *, uploads: Path, root_path: str = "") -> None:
        self._app, self._root_path = app, root_path
        self._uploads = uploads.resolve()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """One connection."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # the page opens no web sockets
        path = str(scope["path"]).removeprefix(self._root_path) or "/"
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if not any(method == one and route.fullmatch(path) for one, route in _ALLOWED):
            await _refuse(send, 404, "there is nothing here")
            return
        if path.startswith(_FILE) and not self._is_upload(path.removeprefix(_FILE)):
            await _refuse(send, 403, "only files of this page can be read")
            return
        if method == "POST" and not path.rstrip("/").endswith("/upload"):
            body = await _body(receive)
            why = "the request is too long" if body is None else self._objection(body)
            if body is None or why:
                await _refuse(send, 403, why)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, _with_headers(send))

    def _objection(self, body: bytes) -> str:
        """What is wrong with a request's data; "" if nothing is."""
        try:
            data = json.loads(body or b"null")
        except (ValueError, RecursionError):
            return "the request is not JSON"
        for path in _paths(data):
            if not (isinstance(path, str) and self._is_upload(path)):
                return "only pictures that were uploaded here can be labelled"
        return ""

    def _is_upload(self, path: str) -> bool:
        """Whether a path is of a file below the uploads, links followed."""
        try:
            return Path(path).is_absolute() and Path(path).resolve().is_relative_to(self._uploads)
        except (ValueError, OSError, RuntimeError):
            return False


def _paths(data: object) -> Iterator[object]:
    """Everything in JSON that Gradio would take for a file's place."""
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
            if item.get("path") is not None:
                yield item["path"]
            url = item.get("url")
            # Uploads come back with the address that they were given; it is not opened.
            if url is not None and not (isinstance(url, str) and _FILE in url):
                yield None


async def _body(receive: _Receive) -> bytes | None:
    """The whole body; ``None`` if it is longer than it may be, or the client has gone."""
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > _BODY_LIMIT:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: _Receive) -> _Receive:
    """Gives a body that was read once more, and then what comes."""
    waiting: list[_Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> _Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _with_headers(send: _Send) -> _Send:
    async def sent(message: _Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sent


async def _refuse(send: _Send, status: int, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})
