"""OpenVINO: its own format, and ONNX files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.errors import ArgumentError, ExportError, MissingExtraError
from torchseg_zoo.files import printable
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact
from torchseg_zoo.runtime.onnx import read_model
from torchseg_zoo.runtime.proof import check_digest
from torchseg_zoo.runtime.runner import Runner, input_batch

__all__ = ["OpenVinoRunner", "open_runner"]

# Exact like the other runtimes, where a CPU with bf16 would otherwise use it.
_HINTS: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
# Rounds to the integers' steps, as the graph says, but computes in float32.
_WITHOUT_INTEGERS = {"LP_TRANSFORMS_MODE": "NO"}
# Right graphs differ by roundings, on some percent of such a picture; wrong ones nearly everywhere.
_LEAST_EQUAL = 0.9


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
        hints = _HINTS if threads is None else {**_HINTS, "INFERENCE_NUM_THREADS": threads}
        runner = OpenVinoRunner(
            path, artefact, core.compile_model(model, "CPU", hints), resize=resize
        )
        if artefact.precision != "int8":
            return runner
        exact = OpenVinoRunner(
            path,
            artefact,
            core.compile_model(model, "CPU", {**hints, **_WITHOUT_INTEGERS}),
            resize=resize,
        )
    except RuntimeError as error:
        raise ExportError(
            "OpenVINO cannot load it",
            where=printable(path),
            why=str(error).strip().splitlines()[-1][:200],
            fix="export the model again; the file may be cut or made for a newer runtime",
        ) from error
    return _right_one(runner, exact, _batch_size(model))


def _batch_size(model: Any) -> int:
    """Pictures at a time; 1 where the file takes any number."""
    first = model.input(0).get_partial_shape()[0]
    return first.get_length() if first.is_static else 1


def _right_one(fast: OpenVinoRunner, exact: OpenVinoRunner, together: int) -> OpenVinoRunner:
    """The fast one, unless OpenVINO's integers give other labels than its floats.

    OpenVINO 2026.4 sums some int8 graphs wrongly without a word, such as DenseASPP's and some with
    ``int8_for="tensorrt"``. Which ones cannot be told from the graph, so a picture is labelled
    by both.
    """
    batch = np.repeat(_check_picture(exact), together, axis=0)
    equal = float(np.mean(_classes(fast, batch) == _classes(exact, batch)))
    if equal >= _LEAST_EQUAL:
        return fast
    warnings.warn(
        f"OpenVINO computes {printable(exact.path)} wrongly on 8-bit integers ({100 * equal:.0f} % "
        "of a picture's labels are right). It is computed in float32, which is slower: run it on "
        "ONNX Runtime, or export it in fp32",
        stacklevel=4,
    )
    return exact


def _classes(runner: OpenVinoRunner, batch: np.ndarray) -> np.ndarray:
    first = runner.run(batch)[0]
    return first if first.ndim == 3 else first.argmax(1)


def _check_picture(runner: OpenVinoRunner) -> np.ndarray:
    """Blocks of random colours under noise, as a batch of the kind that the file takes."""
    height, width = runner.artefact.size or (129, 193)
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
    colours = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    noisy = np.clip(colours + generator.normal(0, 12, colours.shape), 0, 255)
    return input_batch(runner.artefact, noisy.astype(np.uint8))


def _info(model: Any, *path: str) -> str | None:
    if not model.has_rt_info(list(path)):
        return None
    value = model.get_rt_info(list(path))
    return str(getattr(value, "value", value))
