"""Runs the page's server until it is stopped. Free of torch, and of Gradio until it is called."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from torchseg_zoo.demo.config import DemoConfig
from torchseg_zoo.demo.results import Results
from torchseg_zoo.demo.shelf import OWN_FILE, Shelf
from torchseg_zoo.demo.worker import Worker
from torchseg_zoo.errors import ArgumentError, MissingExtraError

__all__ = ["serve"]

_EXAMPLE_SIZE = (480, 640)
_FURTHER_EXAMPLES = (3, 11, 24)
# Read when Gradio is imported. Nothing is sent to anybody: no telemetry, no look for new versions.
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def serve(config: DemoConfig, *, ready: Callable[[str], object] = print) -> None:
    """Shows the page until the process is interrupted.

    Args:
        config: what, where and how much.
        ready: called with the page's address when it can be opened.

    Raises:
        MissingExtraError: if Gradio is not installed.
        UnknownModelError, UnknownCheckpointError, CheckpointFormatError: if the first model cannot
            be had.
        ArgumentError: if the address cannot be listened on.
    """
    _check_extra()
    os.environ |= _QUIET
    with tempfile.TemporaryDirectory(prefix="torchseg_zoo-demo-") as folder:
        uploads = Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        shelf, worker = Shelf(config), Worker(config)
        with _listening(config) as listener, _ended_by_sigterm(), ThreadPoolExecutor(1) as pool:
            try:
                results, examples = Results(uploads / "results"), _draw_examples(uploads)
                # The model is loaded while Gradio is.
                warm = pool.submit(_warm_up, worker, results, shelf, examples[0])
                _run(config, shelf, worker, results, examples, listener, ready, warm)
            finally:
                worker.close()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the program as an exception does, so that uploads are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears of signals
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_extra() -> None:
    # Found, not imported yet: that takes seconds, and what it reads is set by the caller.
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("the demo needs Gradio", fix="pip install 'torchseg-zoo[demo]'")


def _listening(config: DemoConfig) -> socket.socket:
    """An open socket, before the models are loaded for nothing."""
    where = f"{config.host}:{config.port}"
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((config.host, config.port))
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ArgumentError(
            "cannot be listened on",
            where=where,
            why=error.strerror,
            fix="choose another port (--port)",
        ) from error
    return listener


def _draw_examples(folder: Path) -> list[Path]:
    from torchseg_zoo.data.datasets.drawn import EXAMPLE_SEED, draw_street
    from torchseg_zoo.data.image import write_png

    paths = []
    for number, seed in enumerate((EXAMPLE_SEED, *_FURTHER_EXAMPLES), start=1):
        paths.append(folder / f"street-{number}.png")
        write_png(paths[-1], draw_street(seed, _EXAMPLE_SIZE)[0])
    return paths


def _warm_up(worker: Worker, results: Results, shelf: Shelf, picture: Path) -> None:
    """Labels a picture for nobody: a process's first one takes several times as long as others."""
    if not shelf.find(shelf.first).here:
        return
    folder = results.new_folder()
    worker.label("" if shelf.first == OWN_FILE else shelf.first, picture, folder)
    results.drop(folder)


def _run(
    config: DemoConfig,
    shelf: Shelf,
    worker: Worker,
    results: Results,
    examples: list[Path],
    listener: socket.socket,
    ready: Callable[[str], object],
    warm: Future[None],
) -> None:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    from torchseg_zoo.demo.guard import Guard
    from torchseg_zoo.demo.page import Page
    from torchseg_zoo.demo.words import CSS

    page = Page(config, shelf, worker, results, examples)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        server_name=config.host,
        root_path=config.root_path or None,
        allowed_paths=[],
        max_file_size=config.max_upload_bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=CSS,
    )
    page.blocks.has_launched = True  # else Gradio leaves out its own check of paths
    guarded = Guard(app, uploads=results.root.parent, root_path=config.root_path)
    server = uvicorn.Server(
        uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=2)
    )
    address = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    warm.result()  # a model that cannot be had is an error before anybody is told of the page
    listener.listen(128)
    ready(f"http://{host}:{address[1]}{config.root_path}/")
    server.run(sockets=[listener])
