"""TensorRT's builder: an ONNX graph in, a serialized engine out.

Built against NVIDIA's documentation of TensorRT 10 and 11, and never executed on TensorRT.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchseg_zoo.errors import ExportError
from torchseg_zoo.export.onnx import INPUT_NAME
from torchseg_zoo.runtime.engine_session import engine_error, tensorrt_logger, tensorrt_major

__all__ = ["BuildOptions", "Progress", "build"]

Progress = Callable[[str, int, int], None]
"""Told of every step of the builder: phase, steps done, steps of the phase.

Called from any thread, but never from two at once.
"""


@dataclass(frozen=True)
class BuildOptions:
    """What the builder is told beside the graph.

    Args:
        shapes: smallest, usual and largest shape of the input; ``None`` for a graph of one size.
        tf32: whether FLOAT may be computed with the 10 bits of mantissa of TF32.
        workspace_bytes: most scratch memory of a layer; ``None`` for all of the GPU's.
    """

    shapes: tuple[tuple[int, ...], ...] | None
    tf32: bool
    workspace_bytes: int | None

    def to_json(self) -> str:
        """As part of a key."""
        return json.dumps([self.shapes, self.tf32, self.workspace_bytes])


def build(
    trt: Any, graph: bytes, options: BuildOptions, timing: bytes, progress: Progress | None
) -> tuple[bytes, bytes]:
    """Builds an engine.

    Args:
        trt: the ``tensorrt`` module.
        graph: an ONNX model, whose one input is named ``INPUT_NAME``.
        options: what the builder is told beside it.
        timing: a timing cache of this machine, or nothing.
        progress: told of the builder's steps; what it raises ends the build and is raised here.

    Returns:
        The serialized engine, and the timing cache to keep.

    Raises:
        ExportError: if TensorRT refuses the graph, or cannot build it.
    """
    logger = tensorrt_logger(trt)
    logger.errors.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise ExportError(
            "TensorRT's parser refuses the graph",
            why="; ".join(reasons[:2])[:300] or None,
            fix="export another backbone, or run the ONNX file on another runtime",
        )
    config = builder.create_builder_config()
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # TensorRT sets it unasked
    if options.shapes is not None:
        profile = builder.create_optimization_profile()
        profile.set_shape(INPUT_NAME, *options.shapes)
        if config.add_optimization_profile(profile) < 0:
            raise engine_error(trt, "TensorRT refuses this range of sizes", "size", "narrow it")
    timing_cache = config.create_timing_cache(timing)
    if not config.set_timing_cache(timing_cache, ignore_mismatch=False):
        timing_cache = config.create_timing_cache(b"")
        config.set_timing_cache(timing_cache, ignore_mismatch=False)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        raise engine_error(
            trt, "TensorRT cannot build this engine", None, "free GPU memory, or try a smaller size"
        )
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def _network_flags(trt: Any) -> int:
    """Strongly typed; TensorRT 11 knows no other networks, and deprecates the flag."""
    if tensorrt_major(trt) > 10:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _monitor(trt: Any, progress: Progress | None) -> Any:
    """A progress monitor that calls ``progress``, and ends the build with what that raises."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # as bindings of C++ classes need it
            self.raised: BaseException | None = None
            self._steps: dict[str, int] = {}
            self._lock = threading.Lock()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return self.raised is None

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            with self._lock:
                if progress is None or self.raised is not None:
                    return
                try:
                    progress(phase, done, self._steps.get(phase, done))
                except BaseException as error:  # it must not pass through TensorRT's threads
                    self.raised = error

    return Monitor()
