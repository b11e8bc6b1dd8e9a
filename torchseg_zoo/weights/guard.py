"""Foreign checkpoints are read in a child process, which hands back plain tensors or dies alone.

A ``.pth`` is a pickle, and a pickle is a program. The child (``_reader``) runs none of it, and has
limits on memory, time, files and network in case it is made to. It hands back a safetensors file,
which is checked here once more before its tensors are used.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

import torchseg_zoo
from torchseg_zoo.errors import CacheError, CheckpointFormatError, UnsafeCheckpointError, ZooError
from torchseg_zoo.files import open_regular, printable
from torchseg_zoo.weights.load import read_tensors

__all__ = ["read_foreign"]

_READER = Path(__file__).with_name("_reader.py")
_WALL_S = 120.0  # for a small file: the child has a stricter limit on processor time
_WALL_BYTES_PER_S = 2 << 20
_POLL_S = 0.25
_REPORT_LIMIT = 64 * 1024
# Where libraries are, and no word of what a user may have put there for other programs.
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP")
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Every further arena reserves address space, of which the child may have so much only.
    "MALLOC_ARENA_MAX": "1",
}
_ONLY_TENSORS = "only tensors are read: ask its author for a file of them, or for safetensors"
_ANEW = "fetch it again, or check that it is a safetensors or PyTorch checkpoint"


def read_foreign(
    path: str | os.PathLike[str],
    *,
    scratch: str | os.PathLike[str] | None = None,
    beat: Callable[[], object] = lambda: None,
) -> dict[str, Tensor]:
    """Reads the tensors of a ``.pth``, ``.pt``, ``.pth.tar`` or ``.bin`` file, and nothing else.

    Wrappings (``state_dict``, ``model``, ``module.`` prefixes) are taken off; what is not a tensor
    is left out.

    Args:
        path: the file.
        scratch: a file that exists, is empty and may be overwritten; it is removed. A new one in
            the system's temporary folder without it.
        beat: called a few times a second while the child works.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        UnsafeCheckpointError: if the file asks for anything but tensors and plain values.
        CheckpointFormatError: if it is not a checkpoint, is damaged, or takes more memory or time
            than a file of its size may.
        CacheError: if the scratch file cannot be used.
    """
    with open_regular(path, error=CheckpointFormatError) as file:
        size = os.fstat(file.fileno()).st_size
    where = printable(path)
    out = _scratch() if scratch is None else Path(scratch)
    try:
        report = _run(Path(path).absolute(), out.absolute(), where, size, beat)
        _raise_refusal(report, where)
        return _taken(out, where)
    finally:
        # Mapped tensors outlive the name. Windows maps nothing here, see _taken.
        with suppress(OSError):
            out.unlink()


def _scratch() -> Path:
    try:
        descriptor, name = tempfile.mkstemp(prefix="torchseg_zoo-", suffix=".safetensors")
    except OSError as error:
        raise CacheError(
            "no temporary file can be made",
            where=tempfile.gettempdir(),
            why=error.strerror,
            fix="set TMPDIR to a folder with space",
        ) from error
    os.close(descriptor)
    return Path(name)


def _run(
    path: Path, out: Path, where: str, size: int, beat: Callable[[], object]
) -> dict[str, Any]:
    """Has the child read the file; its report."""
    package = Path(torchseg_zoo.__file__).parents[1]
    # The child imports what this process would, by absolute paths, and no site customisation.
    roots = [entry for entry in sys.path if Path(entry).is_absolute()]
    job = {"file": str(path), "out": str(out), "path": [*roots, str(package)]}
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    options = ["-I", "-S", "-B", "-X", "utf8", "-W", "ignore"]
    try:
        process = subprocess.Popen(
            [sys.executable, *options, str(_READER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, **_ENVIRONMENT},
            cwd=out.parent,
            # An interrupt from the keyboard comes to this process alone, which ends the child.
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        raise CheckpointFormatError(
            "the process that reads it safely cannot be started",
            where=where,
            why=f"{printable(sys.executable)}: {error.strerror}",
            fix="check that new Python processes can be started here",
        ) from error
    with process:
        assert process.stdin and process.stdout
        try:
            # It stays open: its end tells the child that this process has died.
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            _wait(process, _WALL_S + size / _WALL_BYTES_PER_S, where, beat)
            text = process.stdout.read(_REPORT_LIMIT)
        finally:
            process.kill()
            # What a child that died at once has not read would be written again by closing.
            with suppress(BrokenPipeError):
                process.stdin.close()
    return _report_of(process.returncode, text, where)


def _wait(
    process: subprocess.Popen[bytes], limit_s: float, where: str, beat: Callable[[], object]
) -> None:
    until = time.monotonic() + limit_s
    while True:
        # The report is far shorter than a pipe holds, so the child never waits for us to read it.
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return
        beat()
        if time.monotonic() > until:
            raise CheckpointFormatError(
                f"reading it took more than {limit_s:.0f} s", where=where, fix=_ANEW
            )


def _report_of(code: int, text: bytes, where: str) -> dict[str, Any]:
    with suppress(ValueError):
        report = json.loads(text.strip().rpartition(b"\n")[2])
        if code == 0 and isinstance(report, dict):
            return report
    why = f"exit code {code}"
    if code < 0:
        names = {item.value: item.name for item in signal.Signals}
        why = names.get(-code, f"signal {-code}")
        if why in ("SIGXCPU", "SIGKILL"):
            why += ": more time or memory than a file of its size may take"
    raise CheckpointFormatError(
        "the process that read it was ended", where=where, why=why, fix=_ANEW
    )


_REFUSALS: dict[object, tuple[type[ZooError], str]] = {
    "unsafe": (UnsafeCheckpointError, _ONLY_TENSORS),
    "space": (CacheError, "free some space there, or set TORCHSEG_ZOO_CACHE or TMPDIR"),
    "format": (CheckpointFormatError, _ANEW),
}


def _raise_refusal(report: dict[str, Any], where: str) -> None:
    if "tensors" in report:
        return
    error, fix = _REFUSALS.get(report.get("kind"), _REFUSALS["format"])
    why = report.get("why")
    what = printable(report.get("what", "cannot be read"))
    raise error(what, where=where, why=printable(why) if why else None, fix=fix)


def _taken(out: Path, where: str) -> dict[str, Tensor]:
    """The tensors that the child has written; ``read_tensors`` checks its file anew."""
    try:
        return read_tensors(out, mapped=os.name == "posix")
    except CheckpointFormatError as error:
        raise CheckpointFormatError(
            "the process that read it left no proper file", where=where, why=error.why, fix=_ANEW
        ) from error
