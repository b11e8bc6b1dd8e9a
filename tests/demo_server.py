"""The demo as a process of its own, and what a browser says to it, without the browser."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# Runs the command and writes every address that anything in the process wants to reach.
# The process with the models runs it, too, up to the last two lines.
WATCHED = """
import os, sys
from pathlib import Path
log = open(os.environ["DEMO_ADDRESSES"], "a", buffering=1)
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        log.write(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments}\\n")
sys.addaudithook(watch)
from torchseg_zoo.weights import manifest
if "DEMO_MANIFEST" in os.environ:
    manifest.manifest_path = lambda: Path(os.environ["DEMO_MANIFEST"])
from torchseg_zoo.cli import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


class Answer(NamedTuple):
    status: int
    body: bytes


class Shown(NamedTuple):
    """What the page shows after a picture."""

    slider: Any
    overlay: Any
    confidence: Any
    legend: str
    summary: str
    labels: Any
    pixel: str
    kept: Any


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


class DemoServer:
    """The running command; use it as a context manager.

    Args:
        folder: gets its log, and its own temporary folder.
        options: of the command.
        environment: more of it; ``DEMO_MANIFEST`` names another manifest of checkpoints.
    """

    def __init__(
        self, folder: Path, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._environment = environment or {}
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._options = options

    def __enter__(self) -> DemoServer:
        script = self.folder / "watched.py"
        script.write_text(WATCHED)
        self._stderr = (self.folder / "stderr.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(script), "demo", "--port", "0", *self._options],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={
                **os.environ,
                "TMPDIR": str(self.temporary),
                "DEMO_ADDRESSES": str(self.folder / "addresses.log"),
                **self._environment,
            },
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://127.0.0.1:" in line, line + self.errors()
        self.url = line.split()[2].rstrip("/")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.communicate()
            self._stderr.close()

    def errors(self) -> str:
        return (self.folder / "stderr.log").read_text()

    def addresses(self) -> list[str]:
        return (self.folder / "addresses.log").read_text().splitlines()

    def children(self) -> list[int]:
        """Processes that the server has started and that are alive."""
        path = Path(f"/proc/{self.process.pid}/task")
        return [
            int(child)
            for task in path.iterdir()
            for child in (task / "children").read_text().split()
        ]

    def ask(
        self, path: str, data: bytes | None = None, kind: str = "application/json", **headers: str
    ) -> Answer:
        """One request: GET, or POST if there are data. The path goes out as it is."""
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind, **headers})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return Answer(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read())


class User:
    """One user of the page."""

    def __init__(self, server: DemoServer) -> None:
        self.server = server
        self.session = secrets.token_hex(5)
        self.config = json.loads(server.ask("/config").body)
        self.functions = {one["api_name"]: one for one in self.config["dependencies"]}

    def upload(self, content: bytes, name: str = "street.png") -> str:
        """Sends a file; its path on the server."""
        mark = secrets.token_hex(8)
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: image/png\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
        kind = f"multipart/form-data; boundary={mark}"
        answer = self.server.ask("/gradio_api/upload", body, kind)
        assert answer.status == 200, answer
        return str(json.loads(answer.body)[0])

    def join(self, function: str, data: list[Any], event: Any = None) -> Answer:
        """Puts a call into the queue."""
        found = self.functions[function]
        body = {
            "data": data, "event_data": event, "fn_index": found["id"],
            "session_hash": self.session, "trigger_id": found["targets"][0][0],
        }  # fmt: skip
        return self.server.ask("/gradio_api/queue/join", json.dumps(body).encode())

    def results(self) -> Iterator[dict[str, Any]]:
        """What comes back for this user's calls, until none is left."""
        url = f"{self.server.url}/gradio_api/queue/data?session_hash={self.session}"
        with urllib.request.urlopen(url, timeout=300) as stream:
            for line in stream:
                if line.startswith(b"data: "):
                    message = json.loads(line[6:])
                    if message["msg"] == "process_completed":
                        yield message
                    if message["msg"] == "close_stream":
                        return

    def call(self, function: str, data: list[Any], event: Any = None) -> Any:
        """A call and its one result."""
        answer = self.join(function, data, event)
        assert answer.status == 200, answer
        (result,) = self.results()
        return result

    def ask_to_label(self, path: str, model: str = "bisenet_x39.camvid") -> Answer:
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self.join("label", [picture, model])

    def shown(self) -> Shown:
        """What the page shows when the label call is done."""
        (result,) = self.results()
        assert result["success"], result
        return Shown(*(_value(one) for one in result["output"]["data"]))

    def label(self, content: bytes, name: str = "street.png") -> Shown:
        """Uploads a picture and has it labelled."""
        assert self.ask_to_label(self.upload(content, name)).status == 200
        return self.shown()

    def file(self, shown: Any) -> bytes:
        """A file that the page shows or offers."""
        answer = self.server.ask(f"/gradio_api/file={shown['path']}")
        assert answer.status == 200
        return answer.body


def _value(output: Any) -> Any:
    """Of an output that also changes other properties, the value."""
    return output.get("value") if isinstance(output, dict) and "__type__" in output else output
