"""A process that forks others which fetch; started by ``Zygote``.

Python and its imports are paid once. Each line on stdin is one job in JSON; its process id is
answered, and the job's outcome appears in the file that it names.
"""

import hashlib
import json
import os
import signal
import sys
import time
from typing import Any

from torchseg_zoo.errors import ZooError
from torchseg_zoo.weights import fetch as fetch_module
from torchseg_zoo.weights import lock
from torchseg_zoo.weights.http import Policy


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Fetches, and tells what came of it."""
    policy = Policy(**job.get("policy", {}))
    fetch_module._policy = lambda: policy
    if job.get("no_flock"):
        lock.fcntl.flock = lambda *_: None
    begin = time.monotonic()
    try:
        path = fetch_module.fetch(
            job["urls"],
            sha256=job.get("sha256"),
            size=job.get("size"),
            cache_dir=job["cache"],
            progress=job.get("progress", False),
        )
    except ZooError as error:
        return {"error": type(error).__name__, "message": str(error)}
    seconds = time.monotonic() - begin
    record: dict[str, Any] = {"path": str(path), "seconds": seconds}
    if job.get("verify", True):
        record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return record


def child(job: dict[str, Any]) -> None:
    """What a forked process does."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(job.get("env", {}))
    out = os.open(job["out"], os.O_WRONLY | os.O_CREAT, 0o600)
    if "stderr" in job:
        os.dup2(os.open(job["stderr"], os.O_WRONLY | os.O_CREAT, 0o600), 2)
    if "uid" in job:
        os.setgid(job["uid"])
        os.setuid(job["uid"])
    if job.get("hold"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if "at" in job:  # all begin together
        time.sleep(max(0.0, job["at"] - time.time()))
    try:
        record = run(job)
    except BaseException as error:
        record = {"error": "crash", "message": f"{type(error).__name__}: {error}"}
    os.write(out, json.dumps(record).encode())


def main() -> None:
    """Forks once for each line."""
    "a".encode("idna")  # what is imported late would meet the faults that tests inject
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
