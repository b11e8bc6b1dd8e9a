"""OpenVINO: its own format, and ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.errors import ArgumentError, ExportError, MissingExtraError
from torchseg_zoo.files import printable
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact
from torchseg_zoo.runtime.onnx import read_model
from torchseg_zoo.runtime.proof import check_digest
from torchseg_zoo.runtime.runner import Runner

__all__ = ["OpenVinoRunner", "open_runner"]


class OpenVinoRunner(Runner):
    """A compiled model of OpenVINO.

    Args:
        path: the file.
        artefact: what it says of itself.
        compiled: an ``openvino.CompiledModel`` of it.
        resize: see ``Runner``.
    """

    def __init__(
        self, path: Path, artefact: Artefact, compiled: Any, *, resize: bool = False
    ) -> None:
        super().__init__(path, artefact, resize=resize)
        self._request = compiled.create_infer_request()

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """See ``Runner.run``."""
        results = self._request.infer([batch], share_inputs=True)
        return [np.array(value) for value in results.values()]


def open_runner(path: Path, *, device: str, threads: int | None, resize: bool) -> OpenVinoRunner:
    """Compiles the file; see ``runtime.load`` for arguments and errors."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "running models on OpenVINO needs it",
            fix="pip install openvino (or 'torchseg-zoo[openvino]')",
        ) from error
    if device not in ("auto", "cpu"):
        raise ArgumentError(f"{device!r} cannot be used with OpenVINO", where="device", fix="cpu")
    core = openvino.Core()
    try:
        if path.suffix == ".onnx":
            model = core.read_model(read_model(path))
            # OpenVINO keeps an ONNX file's metadata under "framework".
            text = _info(model, "framework", METADATA_KEY)
        else:
            check_digest(path)
            model = core.read_model(path)
            text = _info(model, METADATA_KEY)
        artefact = Artefact.from_json(text, path)
        # Exact like the other runtimes, where a CPU with bf16 would otherwise use it.
        hints: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            hints["INFERENCE_NUM_THREADS"] = threads
        return OpenVinoRunner(
            path, artefact, core.compile_model(model, "CPU", hints), resize=resize
        )
    except RuntimeError as error:
        raise ExportError(
            "OpenVINO cannot load it",
            where=printable(path),
            why=str(error).strip().splitlines()[-1][:200],
            fix="export the model again; the file may be cut or made for a newer runtime",
        ) from error


def _info(model: Any, *path: str) -> str | None:
    if not model.has_rt_info(list(path)):
        return None
    value = model.get_rt_info(list(path))
    return str(getattr(value, "value", value))
