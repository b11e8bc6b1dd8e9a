"""``torchseg-zoo train`` and Ctrl-C: what is kept is named, and a resumed run goes on from it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from commands import Call


def test_an_interrupted_run_says_what_is_kept(call: Call, tmp_path: Path) -> None:
    words = (
        "train", "--data", "drawn", "--set", "steps_per_epoch=1", "--set", "crop=32,32",
        "--set", "save_every_steps=1", "--set", "eval_every=1000", "--batch-size", "2",
        "--epochs", "1000",
    )  # fmt: skip
    state = tmp_path / "run" / "last.safetensors"
    over = threading.Event()

    def interrupt() -> None:
        while not state.exists() and not over.is_set():
            time.sleep(0.01)
        while not over.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(30)  # an interrupt that comes while an object is finalized is lost

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    try:
        done = call(*words, "--out", "run")
    finally:
        over.set()
        watcher.join()
    assert done.code == 130
    assert done.err.splitlines()[-2:] == [
        "torchseg-zoo: the last state in run is kept; --resume goes on from it",
        "torchseg-zoo: interrupted",
    ]
    again = call(*words, "--out", "run")
    assert again.code == 4 and "there is a run in this folder already" in again.err
