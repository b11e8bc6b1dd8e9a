"""Runners that tell their bindings, what they are fed, and what each picture costs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from torchseg_zoo.errors import ExportError
from torchseg_zoo.files import printable
from torchseg_zoo.runtime.bindings import Binding, Cost, InputStatistics
from torchseg_zoo.runtime.engine import TensorRTModel
from torchseg_zoo.runtime.onnx import OnnxRunner
from torchseg_zoo.runtime.runner import Runner

__all__ = ["Inspected"]

_NUMPY_NAMES = {"float": "float32", "double": "float64"}


class Inspected(Runner):
    """A runner that says what it is fed and what that costs.

    Args:
        runner: one on ONNX Runtime or TensorRT. Pictures of other sizes than its one size, if it
            has just one, are resized.

    Attributes:
        bindings: inputs, then outputs.
        statistics: of the last picture's input; ``None`` before the first.
        cost: of the last picture; ``None`` before the first.

    Raises:
        ExportError: if the runner is of another kind.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner.path, runner.artefact, resize=True)
        if not isinstance(runner, OnnxRunner | TensorRTModel):
            raise ExportError(
                f"{type(runner).__name__} does not tell what a picture costs",
                where=printable(runner.path),
                fix="use an .onnx or .engine file",
            )
        self._runner = runner
        self.bindings = (
            runner.bindings
            if isinstance(runner, TensorRTModel)
            else _session_bindings(runner.session)
        )
        self.statistics: InputStatistics | None = None
        self.cost: Cost | None = None

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """See ``Runner.run``."""
        self.statistics = InputStatistics.of(batch)
        if isinstance(self._runner, TensorRTModel):
            outputs, self.cost = self._runner.run_timed(batch)
        else:
            outputs, self.cost = _run_session(self._runner.session, batch)
        return outputs


def _session_bindings(session: Any) -> tuple[Binding, ...]:
    """Inputs, then outputs of an ``onnxruntime.InferenceSession``."""
    return tuple(
        Binding(
            value.name,
            mode,
            tuple(side if isinstance(side, int) else None for side in value.shape),
            _numpy_name(value.type),
        )
        for mode, values in (("input", session.get_inputs()), ("output", session.get_outputs()))
        for value in values
    )


def _numpy_name(kind: str) -> str:
    """``tensor(float)`` → ``float32``."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return _NUMPY_NAMES.get(name, name)


def _run_session(session: Any, batch: np.ndarray) -> tuple[list[np.ndarray], Cost]:
    """The outputs, with the copies to and from the device apart from the run."""
    from onnxruntime import OrtValue

    device = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    binding = session.io_binding()
    for value in session.get_outputs():
        binding.bind_output(value.name, device)
    start = time.perf_counter()
    value = OrtValue.ortvalue_from_numpy(batch, device, 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    binding.synchronize_inputs()
    bound = time.perf_counter()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    executed = time.perf_counter()
    outputs: list[np.ndarray] = binding.copy_outputs_to_cpu()
    copied = time.perf_counter()
    steps = (bound - start, executed - bound, copied - executed)
    return outputs, Cost(*(1000 * step for step in steps))
