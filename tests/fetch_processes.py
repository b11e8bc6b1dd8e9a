"""Real processes that fetch, for tests that kill, stop and trace them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUICK = {"backoff_s": 0.01, "connect_s": 2.0, "window_s": 1.0, "deadline_s": 30.0}
WORKER = Path(__file__).parent / "weights" / "fetch_worker.py"


class Zygote:
    """Starts processes that fetch, cheaply; see ``fetch_worker``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._out: dict[int, Path] = {}
        self._jobs = 0
        self.environment: dict[str, str] = {}  # for those started from now on
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, **job: Any) -> int:
        """Begins a fetch and returns its process id."""
        assert self._process.stdin and self._process.stdout
        self._jobs += 1
        out = self._folder / f"job{self._jobs}.json"
        job = {**job, "policy": {**QUICK, **job.get("policy", {})}}
        job = {**job, "out": str(out), "env": self.environment}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        self._out[pid] = out
        return pid

    def alive(self, pid: int) -> bool:
        """Whether the process still runs."""
        return Path(f"/proc/{pid}").exists()

    def join(self, pid: int, *, limit_s: float = 60.0) -> dict[str, Any]:
        """Waits for the outcome; empty if it was killed."""
        until = time.monotonic() + limit_s
        while self.alive(pid):
            assert time.monotonic() < until, "it hangs"
            time.sleep(0.005)
        text = self._out[pid].read_text() if self._out[pid].exists() else ""
        return json.loads(text) if text else {}  # type: ignore[no-any-return]

    def kill(self) -> None:
        """Ends all that were started."""
        for pid in self._out:
            if self.alive(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._out.clear()

    def close(self) -> None:
        """Ends all of them and what starts them."""
        self.kill()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextlib.contextmanager
def traced(pid: int, *options: str) -> Iterator[None]:
    """Lets a process that was started with ``hold`` go on under strace."""
    _wait_for(pid, "State:", lambda value: value.startswith(("T", "t")))
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-p", str(pid), *options])
    try:
        _wait_for(pid, "TracerPid:", lambda value: value != "0")
        os.kill(pid, signal.SIGCONT)
        yield
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            tracer.wait(5)
        if tracer.poll() is None:
            tracer.kill()
            tracer.wait()


def _wait_for(pid: int, field: str, good: Any) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        if good(next(line.split(None, 1)[1] for line in lines if line.startswith(field))):
            return
        time.sleep(0.002)
    raise TimeoutError(f"{pid}: {field}")
