"""Forks processes that read or convert checkpoints, from one that has imported torch already.

Importing torch takes seconds, and the tests need thousands of such processes. One job in JSON a
line comes in on standard input:

    {"read": PATH, "out": PATH}           what the guard's child does; the outcome comes back
    {"convert": {...}, "url": URL, ...}   what ``pretrained=`` does; the process id comes back
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: F401
from foreign import entry_of
from golden.reading import state_of

from torchseg_zoo.models.bisenet import BiSeNet  # noqa: F401
from torchseg_zoo.registry import model_factory
from torchseg_zoo.weights import guard, manifest

_SPEC = importlib.util.spec_from_file_location("reader", guard._READER)
assert _SPEC and _SPEC.loader
reader = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reader)
_LIMIT_S = 30.0


def read(path: str, out: str) -> dict[str, Any]:
    """The reader's outcome, run in a process of its own, as the guard would see it."""
    receive, send = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.chdir(Path(out).parent)
        os.write(send, json.dumps(reader.outcome_of(path, out)).encode())
        os._exit(0)
    os.close(send)
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() - began > _LIMIT_S:
            os.kill(pid, 9)
        time.sleep(0.002)
    text = os.read(receive, 1 << 16).decode()
    os.close(receive)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "code": os.waitstatus_to_exitcode(status),
        "text": text,
        "wall_s": time.monotonic() - began,
        "more_bytes": max(0, usage.ru_maxrss - own) * 1024,
    }


def run_by_fork(path: Path, out: Path, where: str, size: int, beat: object) -> dict[str, Any]:
    """``guard._run`` without the import of torch."""
    outcome = read(str(path), str(out))
    return guard._report_of(outcome["code"], outcome["text"].encode(), where)


def convert(job: dict[str, Any], entry: Any) -> int:
    """Begins a ``pretrained=`` call in a process of its own; its id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.environ.update(job["env"])
    guard._run = run_by_fork
    manifest.find = lambda model, tag: entry
    code = 1
    try:
        model_factory(entry.model)(entry.tag)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    entries: dict[str, Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if "read" in job:
            print(json.dumps(read(job["read"], job["out"])), flush=True)
        elif "convert" in job:
            name = job["convert"]
            if name not in entries:
                entries[name] = entry_of(name, state_of(name), job["url"], Path(job["file"]))
            print(convert(job, entries[name]), flush=True)
        else:
            _, status = os.waitpid(job["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
