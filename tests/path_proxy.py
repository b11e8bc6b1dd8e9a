"""A reverse proxy on loopback that shows a server under a path, and hands streams on at once."""

from __future__ import annotations

import http.client
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class PathProxy(ThreadingHTTPServer):
    """Gives ``target`` under ``/path/``; use it as a context manager."""

    daemon_threads = True

    def __init__(self, target: str, path: str) -> None:
        self.target, self.path = urlsplit(target).netloc, path
        super().__init__(("127.0.0.1", 0), _Request)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}/"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        pass


class _Request(BaseHTTPRequestHandler):
    server: PathProxy

    def do_GET(self) -> None:
        if not self.path.startswith(self.server.path + "/"):
            self.send_error(404)
            return
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else None
        headers = {name: value for name, value in self.headers.items() if name != "Connection"}
        headers |= {"X-Forwarded-Host": self.headers["Host"], "X-Forwarded-Proto": "http"}
        connection = http.client.HTTPConnection(self.server.target, timeout=120)
        with suppress(ConnectionError):
            connection.request(self.command, self.path[len(self.server.path) :], body, headers)
            answer = connection.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while block := answer.read1(1 << 16):
                self.wfile.write(block)
                self.wfile.flush()
        connection.close()
        self.close_connection = True

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass
