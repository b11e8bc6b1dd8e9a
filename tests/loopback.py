"""A real HTTP server on loopback that misbehaves on demand."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Route = Callable[["Request"], None]


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that no page detector takes for text, different for each seed."""
    return b"PK\x03\x04" + random.Random(seed).randbytes(size - 4)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Request(BaseHTTPRequestHandler):
    """One request; routes answer through it. ``nth`` counts the requests to this path, from 1."""

    protocol_version = "HTTP/1.1"
    server: Server
    nth = 0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        with self.server.guard:
            self.server.log.append((self.command, self.path, dict(self.headers)))
            self.nth = sum(p.partition("?")[0] == path for _, p, _ in self.server.log)
        self.close_connection = True
        route = self.server.routes.get(path)
        with suppress(ConnectionError, TimeoutError):
            if route is None:
                self.answer(404, b"nothing here")
            else:
                route(self)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Status line and headers, nothing else."""
        self.send_response_only(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        self.head(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        """Ends the connection with RST."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def range_start(self, etag: str) -> int:
        """Where the answer should begin."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        wanted = self.headers.get("If-Range")
        return int(match[1]) if match and wanted in (None, etag) else 0

    def serve(
        self,
        data: bytes,
        *,
        etag: str = '"one"',
        cut_after: int | None = None,
        headers: dict[str, str] | None = None,
        shift: int = 0,
        rate: float | None = None,
    ) -> None:
        """The file as a good server gives it, or its beginning.

        Args:
            data: the whole file.
            etag: sent, and compared with If-Range.
            cut_after: end the connection after so many bytes of the body.
            headers: more of them.
            shift: on ranges, give bytes from so many further on than is said.
            rate: bytes per second.
        """
        start = self.range_start(etag)
        fields = {"Content-Length": str(len(data) - start), "ETag": etag, "Accept-Ranges": "bytes"}
        if start:
            fields["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.head(206 if start else 200, {**fields, **(headers or {})})
        if self.command == "HEAD":
            return
        body = data[start:]
        if start and shift:
            body = (data[start + shift :] + data)[: len(body)]
        body = body[:cut_after]
        if rate is None:
            self.wfile.write(body)
            return
        step = max(1, int(rate / 50))
        for place in range(0, len(body), step):
            self.wfile.write(body[place : place + step])
            time.sleep(step / rate)


class Server(ThreadingHTTPServer):
    """Routes by path; remembers every request."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.routes: dict[str, Route] = {}
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.guard = threading.Lock()
        self.stop = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        pass

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, path: str, route: Route) -> str:
        """Registers a route and returns its URL."""
        self.routes[path] = route
        return self.url + path

    def file(self, path: str, data: bytes, **how: Any) -> str:
        """A well-behaved file."""
        return self.add(path, lambda request: request.serve(data, **how))

    def count(self, path: str | None = None, method: str = "GET") -> int:
        with self.guard:
            return sum(
                m == method and (path is None or p.partition("?")[0] == path)
                for m, p, _ in self.log
            )
