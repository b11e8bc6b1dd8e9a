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
    trust_package: str | None = None,
) -> Runner:
    """Opens an exported model.

    Args:
        path: ``.onnx`` (ONNX Runtime), ``.xml`` or the folder with it (OpenVINO), ``.pt2``
            (``torch.export`` and AOTInductor; needs torch), ``.engine`` (TensorRT; needs torch and
            a GPU).
        runtime: ``"onnx"`` or ``"openvino"``; by default by the ending. OpenVINO runs ``.onnx``
            files, too.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: CUDA where the runtime has it.
        threads: of a CPU; by default the runtime's choice. For ``.pt2`` they are those of all of
            torch in this process.
        resize: bring pictures of other sizes to a file's one size; without it they are refused.
        trust_engine: sha256 of an ``.engine`` that this user did not build on this machine, from
            whoever did: opening an engine runs what is in it.
        trust_package: the same for a ``.pt2``.

    Raises:
        ExportError: if the file is missing, damaged, of an unknown kind, not ours or not trusted.
        IntegrityError: if it is not the file that the ``parity.json`` beside it was made for, or
            not the engine or package that is trusted.
        MissingExtraError: if the runtime is not installed; it names the extra.
        ArgumentError: if the device is not there, or trust is given for a file of another kind.
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
    trust = {}
    for kind, of, given in (("engine", "engine", trust_engine), ("package", "pt2", trust_package)):
        if module == of:
            trust[f"trust_{kind}"] = given
        elif given is not None:
            raise ArgumentError(
                f"{printable(path)} is no {kind}", where=f"trust_{kind}", fix="leave it out"
            )
    opened = importlib.import_module(f"torchseg_zoo.runtime.{module}").open_runner(
        path, device=device, threads=threads, resize=resize, **trust
    )
    assert isinstance(opened, Runner)
    return opened
