"""A TensorRT engine, ready to run: contexts, memory, CUDA graphs.

Built against NVIDIA's documentation of TensorRT 10 and 11, and never executed on TensorRT: the
calls, their names and order are held by tests with a stand-in that takes no others.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from torchseg_zoo.errors import ExportError, InputShapeError, MissingExtraError
from torchseg_zoo.runtime.bindings import Binding, Cost
from torchseg_zoo.runtime.cuda import Device

__all__ = ["EngineSession", "engine_error", "tensorrt_logger", "tensorrt_major", "tensorrt_module"]

Shape = tuple[int, ...]

# TensorRT's module names its data types so, as torch and numpy do (numpy has no bfloat16).
_DTYPES = ("float32", "float16", "bfloat16", "int8", "int32", "int64", "bool", "uint8")
# Each context holds the activations of its shape.
_MOST_CONTEXTS = 4


def tensorrt_module() -> Any:
    """NVIDIA's ``tensorrt``.

    Raises:
        MissingExtraError: if the extra ``tensorrt`` is not installed.
        ExportError: if it is older than 10.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise MissingExtraError(
            "this needs NVIDIA's TensorRT", fix="pip install 'torchseg-zoo[tensorrt]'"
        ) from error
    if tensorrt_major(tensorrt) < 10:
        raise ExportError(
            f"TensorRT {tensorrt.__version__} is too old", fix="install TensorRT 10 or newer"
        )
    return tensorrt


def tensorrt_major(trt: Any) -> int:
    """10 of ``"10.13.3.9"``."""
    return int(str(trt.__version__).split(".")[0])


@functools.cache
def tensorrt_logger(trt: Any) -> Any:
    """The logger of the process: TensorRT keeps the first that it is given.

    It is silent; ``errors`` has what went wrong since it was last cleared.
    """

    class Errors(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # as bindings of C++ classes need it
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)

    return Errors()


def engine_error(trt: Any, what: str, where: object, fix: str) -> ExportError:
    """The error for a call that failed, with what TensorRT said of it."""
    errors = tensorrt_logger(trt).errors
    why = "; ".join(errors[-2:])[:300] or None
    errors.clear()
    return ExportError(what, where=where, why=why, fix=fix)


class EngineSession:
    """A deserialised engine.

    Every shape of the input gets a context with memory of its own and, if asked, a CUDA graph;
    those of the last four shapes are kept. Calls from several threads wait for each other.

    Args:
        trt: the ``tensorrt`` module.
        content: the serialized engine. Deserialising it runs what is in it.
        device: where it runs.
        where: what it is, for errors.
        cuda_graph: record a CUDA graph for each shape.

    Attributes:
        bindings: inputs, then outputs.

    Raises:
        ExportError: if TensorRT refuses it, or it wants memory that is not plain.
    """

    def __init__(
        self, trt: Any, content: bytes, device: Device, *, where: object, cuda_graph: bool = True
    ) -> None:
        self._trt, self._device, self._where, self._cuda_graph = trt, device, where, cuda_graph
        tensorrt_logger(trt).errors.clear()
        self._runtime = trt.Runtime(tensorrt_logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise engine_error(
                trt,
                "TensorRT cannot load this engine",
                where,
                "build it on this machine; engines work with their own GPU and version only",
            )
        self.bindings = self._read_bindings()
        self._slots: OrderedDict[tuple[Shape, ...], _Slot] = OrderedDict()
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Cost]:
        """Runs the engine once.

        Args:
            inputs: name → array of the binding's type and shape.

        Returns:
            Name → array of each output, and what it cost.

        Raises:
            InputShapeError: if an input's type or shape is none that the engine takes.
            ExportError: if TensorRT cannot run it.
        """
        names = [binding.name for binding in self.bindings if binding.mode == "input"]
        self._check(inputs, names)
        with self._lock, self._device.active():
            slot = self._slot(tuple(inputs[name].shape for name in names), names)
            start = self._device.mark()
            for name in names:
                np.copyto(slot.staging[name].numpy(), inputs[name])
                slot.memory[name].copy_(slot.staging[name], non_blocking=True)
            copied_in = self._device.mark()
            slot.execute()
            executed = self._device.mark()
            outputs = [binding.name for binding in self.bindings if binding.mode == "output"]
            for name in outputs:
                slot.staging[name].copy_(slot.memory[name], non_blocking=True)
            copied_out = self._device.mark()
            self._device.synchronize()
            results = {name: slot.staging[name].numpy().copy() for name in outputs}
            between = self._device.between_ms
            return results, Cost(
                between(start, copied_in),
                between(copied_in, executed),
                between(executed, copied_out),
            )

    def limits(self, name: str) -> tuple[Shape, Shape]:
        """Smallest and largest shape of an input."""
        (shape,) = [binding.shape for binding in self.bindings if binding.name == name]
        if None not in shape:
            fixed = tuple(side for side in shape if side is not None)
            return fixed, fixed
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(smallest), tuple(largest)

    def _read_bindings(self) -> tuple[Binding, ...]:
        trt, engine = self._trt, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        dtypes = {getattr(trt, name): name for name in _DTYPES}
        bindings = []
        for name in names:
            dtype = dtypes.get(engine.get_tensor_dtype(name))
            plain = (
                engine.get_tensor_location(name) == trt.TensorLocation.DEVICE
                and engine.get_tensor_format(name) == trt.TensorFormat.LINEAR
            )
            if dtype is None or not plain:
                raise ExportError(
                    f"its tensor {name!r} is not plain memory on the GPU",
                    where=self._where,
                    fix="build the engine from our ONNX file",
                )
            mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
            shape = tuple(None if side < 0 else int(side) for side in engine.get_tensor_shape(name))
            bindings.append(Binding(name, mode, shape, dtype))
        return tuple(sorted(bindings, key=lambda binding: binding.mode))  # "input" comes first

    def _check(self, inputs: Mapping[str, np.ndarray], names: list[str]) -> None:
        bindings = {binding.name: binding for binding in self.bindings}
        for name in names:
            array, binding = inputs[name], bindings[name]
            smallest, largest = self.limits(name)
            fits = len(array.shape) == len(smallest) and all(
                low <= side <= high
                for low, side, high in zip(smallest, array.shape, largest, strict=True)
            )
            if str(array.dtype) != binding.dtype or not fits:
                least, most = _text(smallest), _text(largest)
                allowed = least if least == most else f"{least} to {most}"
                raise InputShapeError(
                    f"got {array.dtype} {_text(array.shape)}, but {name!r} takes "
                    f"{binding.dtype} {allowed}",
                    where=self._where,
                    fix="give pictures within these sizes, or build an engine for yours",
                )

    def _slot(self, shapes: tuple[Shape, ...], names: list[str]) -> _Slot:
        if shapes in self._slots:
            self._slots.move_to_end(shapes)
        else:
            while len(self._slots) >= _MOST_CONTEXTS:
                self._slots.popitem(last=False)
            self._slots[shapes] = _Slot(
                self._trt,
                self._engine,
                self._device,
                self.bindings,
                dict(zip(names, shapes, strict=True)),
                where=self._where,
                cuda_graph=self._cuda_graph,
            )
        return self._slots[shapes]


class _Slot:
    """One execution context with the memory and the graph of one shape of the input."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        device: Device,
        bindings: tuple[Binding, ...],
        shapes: Mapping[str, Shape],
        *,
        where: object,
        cuda_graph: bool,
    ) -> None:
        self._trt, self._where, self._handle = trt, where, device.stream_handle
        self._context = engine.create_execution_context()
        if self._context is None:
            raise self._error("there is no memory to run this engine", "free some GPU memory")
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._error(f"TensorRT refuses {_text(shape)}", "use another size")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise self._error("its shapes cannot be computed", "use another size") from error
        if missing:
            raise self._error(f"{missing[0]!r} has no shape", "build it from our ONNX file")
        self.memory, self.staging = {}, {}
        for binding in bindings:
            shape = tuple(int(side) for side in self._context.get_tensor_shape(binding.name))
            if min(shape, default=1) < 0:
                raise self._error(
                    f"the shape of {binding.name!r} depends on the picture",
                    "build it from our ONNX file",
                )
            self.memory[binding.name] = device.empty(shape, binding.dtype)
            self.staging[binding.name] = device.staging(shape, binding.dtype)
            address = self.memory[binding.name].data_ptr()
            if not self._context.set_tensor_address(binding.name, address):
                raise self._error(f"TensorRT refuses memory for {binding.name!r}", "try again")
        self.execute: Callable[[], None] = self._enqueue
        if cuda_graph:
            # The first run after a change of shapes does work that must not be in the graph.
            self._enqueue()
            device.synchronize()
            self.execute = self._captured(device)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._handle):
            raise self._error("TensorRT cannot run this engine", "build it anew")

    def _captured(self, device: Device) -> Callable[[], None]:
        try:
            return device.captured(self._enqueue)
        except RuntimeError as error:
            raise ExportError(
                "this engine cannot be recorded as a CUDA graph",
                where=self._where,
                why=str(error).splitlines()[0],
                fix="use it with cuda_graph=False",
            ) from error

    def _error(self, what: str, fix: str) -> ExportError:
        return engine_error(self._trt, what, self._where, fix)


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
