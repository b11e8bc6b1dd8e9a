"""ONNX files on ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.errors import ArgumentError, ExportError, MissingExtraError
from torchseg_zoo.files import open_regular, printable
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact
from torchseg_zoo.runtime.proof import check_digest
from torchseg_zoo.runtime.runner import Runner

__all__ = ["OnnxRunner", "open_runner", "open_session", "read_model"]

# In a TensorProto: the entry of `external_data` whose key is "location".
_EXTERNAL = re.compile(rb"\x0a\x08location\x12")
# It moves the rounding of an int8 graph before a pooling of floats, which then pools 8-bit integers
# without the fast layout: the same values, a seventh slower for BiSeNet-R18 on an x86 CPU.
_DISABLED_OPTIMIZERS = ["QDQPropagationTransformer"]


class OnnxRunner(Runner):
    """A session of ONNX Runtime.

    Args:
        path: the file.
        session: an ``onnxruntime.InferenceSession`` of it.
        resize: see ``Runner``.
    """

    def __init__(self, path: Path, session: Any, *, resize: bool = False) -> None:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        super().__init__(path, Artefact.from_json(text, path), resize=resize)
        self.session = session
        self._input = session.get_inputs()[0].name

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """See ``Runner.run``."""
        outputs: list[np.ndarray] = self.session.run(None, {self._input: batch})
        return outputs


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file that has all its weights inside and is as it was proven.

    Raises:
        ExportError: if it cannot be read, or refers to other files.
        IntegrityError: if it is not the file that the ``parity.json`` beside it was made for.
    """
    with open_regular(path, error=ExportError) as file:
        content = file.read()
    if _EXTERNAL.search(content):
        raise ExportError(
            "keeps weights in other files, which could lie anywhere",
            where=printable(path),
            fix="store all tensors inside the file (onnx.save_model with save_as_external_data "
            "left out)",
        )
    check_digest(path)
    return content


def open_runner(path: Path, *, device: str, threads: int | None, resize: bool) -> OnnxRunner:
    """Opens a session; see ``runtime.load`` for arguments and errors."""
    session = open_session(read_model(path), path, device=device, threads=threads)
    return OnnxRunner(path, session, resize=resize)


def open_session(content: bytes, path: Path, *, device: str, threads: int | None) -> Any:
    """A session for a model's bytes; arguments and errors are those of ``runtime.load``."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "running ONNX files needs onnxruntime",
            fix="pip install onnxruntime (or 'torchseg-zoo[onnx]')",
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised anyway
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=_providers(onnxruntime, device),
            disabled_optimizers=_DISABLED_OPTIMIZERS,
        )
    except ArgumentError:
        raise
    except Exception as error:  # the runtime's own classes are private
        raise ExportError(
            "ONNX Runtime cannot load it",
            where=printable(path),
            why=str(error).strip().splitlines()[0][:200],
            fix="export the model again; the file may be cut or made for a newer runtime",
        ) from error


def _providers(onnxruntime: Any, device: str) -> list[str]:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    has_cuda = cuda in onnxruntime.get_available_providers()
    kind = device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda") or (kind == "cuda" and not has_cuda):
        raise ArgumentError(
            f"{device!r} cannot be used here",
            where="device",
            why="this onnxruntime has no CUDA" if kind == "cuda" else None,
            fix="use cpu or auto" + (", or install onnxruntime-gpu" if kind == "cuda" else ""),
        )
    return [cuda, cpu] if has_cuda and kind != "cpu" else [cpu]
