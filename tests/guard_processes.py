"""Processes that read checkpoints as the guard's child does, forked rather than started anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from torchseg_zoo.weights import guard

WORKER = Path(__file__).parent / "weights" / "guard_worker.py"


class Quick:
    """Stands in for ``guard._run``: forks what the guard would start anew."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )

    def ask(self, **job: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def run(self, path: Path, out: Path, where: str, size: int, beat: object) -> dict[str, Any]:
        self.last = self.ask(read=str(path), out=str(out))
        return guard._report_of(self.last["code"], self.last["text"].encode(), where)

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
