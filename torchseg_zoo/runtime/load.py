"""One door for all exported files."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from torchseg_zoo.errors import ArgumentError, ExportError
from torchseg_zoo.files import printable
from torchseg_zoo.runtime.runner import Runner

__all__ = ["load"]

# Ending → module with `open_runner(path, device=…, threads=…, resize=…, …)`.
_RUNTIMES = {".onnx": "onnx", ".xml": "openvino", ".engine": "engine", ".pt2": "pt2"}


def load(
    path: str | os.PathLike[str],
    *,
    runtime: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    resize: bool = False,
    trust_engine: str | None = None,
) -> Runner:
    """Opens an exported model.

    Args:
        path: ``.onnx`` (ONNX Runtime), ``.xml`` or the folder with it (OpenVINO), ``.pt2``
            (AOTInductor; needs torch), ``.engine`` (TensorRT; needs torch and a GPU).
        runtime: ``"onnx"`` or ``"openvino"``; by default by the ending. OpenVINO runs ``.onnx``
            files, too.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where the runtime has it.
        threads: of a CPU; by default the runtime's choice.
        resize: bring pictures of other sizes to a file's one size; without it they are refused.
        trust_engine: sha256 of an ``.engine`` that this user did not build on this machine, from
            whoever did: opening an engine runs what is in it.

    Raises:
        ExportError: if the file is missing, damaged, of an unknown kind, not ours or not trusted.
        IntegrityError: if it is not the file that the ``parity.json`` beside it was made for, or
            not the engine that is trusted.
        MissingExtraError: if the runtime is not installed; it names the extra.
        ArgumentError: if the device is not there, or ``trust_engine`` is given for another file.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.xml"))
        if len(found) != 1:
            raise ExportError(
                f"holds {len(found)} .xml files, not one", where=printable(path), fix="name a file"
            )
        path = found[0]
    module = runtime or _RUNTIMES.get(path.suffix.lower())
    if module not in _RUNTIMES.values():
        raise ExportError(
            "is no exported model by its ending" if runtime is None else f"no runtime {runtime!r}",
            where=printable(path),
            fix=f"known are {', '.join(_RUNTIMES)}",
        )
    if not path.is_file():
        raise ExportError("no such file", where=printable(path), fix="check the path")
    if trust_engine is not None and module != "engine":
        raise ArgumentError(
            f"{printable(path)} is no engine", where="trust_engine", fix="leave it out"
        )
    trust = {"trust_engine": trust_engine} if module == "engine" else {}
    opened = importlib.import_module(f"torchseg_zoo.runtime.{module}").open_runner(
        path, device=device, threads=threads, resize=resize, **trust
    )
    assert isinstance(opened, Runner)
    return opened
