"""A stand-in for TensorRT's Python module that runs engines on the CPU.

It has the documented names of TensorRT 10 or 11 that a build and a run need, and no others; it
insists on the documented order of calls; and its "engines" hold an ONNX graph, which ONNX Runtime
computes from and to the very addresses that it is given.
"""

from __future__ import annotations

import ctypes
import enum
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

MAGIC = b"ENGINE\n"
_STREAM = 0x5EED
_NUMPY = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.UINT8: "uint8",
    onnx.TensorProto.INT32: "int32",
    onnx.TensorProto.INT64: "int64",
}


class HostDevice:
    """A ``Device`` in the process's own memory; its graphs just do the work again."""

    def __init__(self, gpu: str = "Some GPU (sm_90)", driver: str = "580.95") -> None:
        self.gpu, self.driver = gpu, driver
        self.graphs = 0
        self.capturing = False

    @property
    def stream_handle(self) -> int:
        return _STREAM

    def empty(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        kind: torch.dtype = getattr(torch, dtype)
        size = int(np.prod(shape)) * kind.itemsize
        raw = torch.empty(size + 256, dtype=torch.uint8)
        start = -raw.data_ptr() % 256
        return raw[start : start + size].view(kind).reshape(tuple(shape))

    def staging(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype))

    def active(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def synchronize(self) -> None:
        pass

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        Context.capturing = True
        try:
            work()
        finally:
            Context.capturing = False
        self.graphs += 1
        return work

    def mark(self) -> float:
        return time.perf_counter()

    def between_ms(self, first: float, second: float) -> float:
        return 1000 * (second - first)


class _Strict:
    """Refuses attributes that the documentation does not name."""

    _allowed: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: object) -> None:
        assert name.startswith("_") or name in self._allowed, f"{type(self).__name__}.{name}"
        object.__setattr__(self, name, value)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self._is_bound = True

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        self._is_bound = True


class _Flag10(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class _Flag11(enum.IntEnum):
    STRONGLY_TYPED = 1
    PREFER_AOT_PYTHON_PLUGINS = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 0


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW4 = 2


class DataType(enum.Enum):
    float32, float16, bfloat16, int8, int32, int64, bool, uint8, fp8, int4 = range(10)


def _checked(logger: Any) -> Any:
    assert isinstance(logger, ILogger), "a logger is an ILogger"
    assert getattr(logger, "_is_bound", False), "ILogger.__init__ was not called"
    return logger


class Network(_Strict):
    def __init__(self, strongly_typed: bool) -> None:
        self._strongly_typed = strongly_typed
        self._graph: bytes | None = None


class _ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser(_Strict):
    def __init__(self, network: Network, logger: Any) -> None:
        self._network, self._logger = network, _checked(logger)
        self._errors: list[_ParserError] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        try:
            onnx.checker.check_model(onnx.load_model_from_string(model))
        except Exception as error:
            self._errors.append(_ParserError(f"cannot parse: {type(error).__name__}"))
            return False
        self._network._graph = bytes(model)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> _ParserError:
        return self._errors[index]


class Profile(_Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = tuple(min), tuple(opt), tuple(max)
        if len({len(shape) for shape in shapes}) > 1:
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self._shapes[input] = shapes

    def __bool__(self) -> bool:
        return bool(self._shapes) and all(
            0 <= low <= middle <= high
            for shapes in self._shapes.values()
            for low, middle, high in zip(*shapes, strict=True)
        )


class TimingCache(_Strict):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> memoryview:
        return memoryview(self._content)


class Config(_Strict):
    _allowed = ("progress_monitor",)

    def __init__(self) -> None:
        self._profiles: list[Profile] = []
        self._pools: dict[MemoryPoolType, int] = {}
        self._flags = {BuilderFlag.TF32}
        self._timing: TimingCache | None = None
        self.progress_monitor: Any = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: Profile) -> int:
        if not profile:
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(bytes(serialized_timing_cache) or b"timing:")

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if not cache._content.startswith(b"timing:"):
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._timing


class Builder(_Strict):
    def __init__(self, logger: Any, module: Any) -> None:
        self._logger, self._module = _checked(logger), module

    def create_network(self, flags: int = 0) -> Network:
        major = self._module._major
        if major == 10:
            assert flags in (1 << 1, 1 << 1 | 1), "TensorRT 10 must be told of strong typing"
        else:
            assert flags == 0, "the flag is deprecated in TensorRT 11"
        return Network(strongly_typed=True)

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: Config) -> memoryview | None:
        assert network._graph is not None, "nothing was parsed"
        self._module._built.append(config)
        if self._module._memory_is_short:
            self._logger.log(ILogger.ERROR, "out of memory while timing tactics")
            return None
        if config.progress_monitor is not None and not _run_phases(config.progress_monitor):
            return None
        graph = onnx.load_model_from_string(network._graph).graph
        shapes = {}
        for value in graph.input:
            shape = _shape(value)
            profile = config._profiles[0]._shapes.get(value.name) if config._profiles else None
            if profile is None and -1 in shape:
                self._logger.log(ILogger.ERROR, "Network has dynamic inputs, but no profile")
                return None
            shapes[value.name] = profile or (shape, shape, shape)
            for low, side in zip(shapes[value.name][0], shape, strict=True):
                assert side in (-1, low), "a profile disagrees with the network"
        if config._timing is not None:
            config._timing._content += b"."
        header = {"version": self._module.__version__, "profiles": shapes}
        return memoryview(MAGIC + json.dumps(header).encode() + b"\n" + network._graph)


def _run_phases(monitor: Any) -> bool:
    assert getattr(monitor, "_is_bound", False), "IProgressMonitor.__init__ was not called"
    monitor.phase_start("Building", None, 2)
    monitor.phase_start("Timing", "Building", 3)
    going = all(monitor.step_complete("Timing", step) for step in range(3))
    monitor.phase_finish("Timing")
    going = going and all(monitor.step_complete("Building", step) for step in range(2))
    monitor.phase_finish("Building")
    return going


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(
        side.dim_value if side.HasField("dim_value") else -1
        for side in value.type.tensor_type.shape.dim
    )


class Runtime(_Strict):
    def __init__(self, logger: Any, module: Any) -> None:
        self._logger, self._module = _checked(logger), module

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        content = bytes(serialized_engine)
        self._module._deserialised.append(content)
        header, _, graph = content.removeprefix(MAGIC).partition(b"\n")
        if not content.startswith(MAGIC):
            self._logger.log(ILogger.ERROR, "magicTag does not match")
            return None
        built = json.loads(header)
        if built["version"] != self._module.__version__:
            self._logger.log(ILogger.ERROR, "engine is of another version of TensorRT")
            return None
        return Engine(built["profiles"], graph, self._module)


class Engine(_Strict):
    def __init__(self, profiles: dict[str, Any], graph: bytes, module: Any) -> None:
        model = onnx.load_model_from_string(graph)
        self._module = module
        self._profiles = profiles
        self._inputs = {value.name: value for value in model.graph.input}
        self._values = self._inputs | {value.name: value for value in model.graph.output}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])

    @property
    def num_io_tensors(self) -> int:
        return len(self._values)

    def get_tensor_name(self, index: int) -> str:
        return list(reversed(self._values))[index]  # in any order

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> list[int]:
        return list(_shape(self._values[name]))

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[_NUMPY[self._values[name].type.tensor_type.elem_type]]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> TensorFormat:
        return self._module._io_format

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        assert name in self._inputs, "profiles are of inputs only"
        assert profile_index == 0
        return [list(shape) for shape in self._profiles[name]]

    def create_execution_context(self) -> Context | None:
        if self._module._memory_is_short:
            return None
        self._module._contexts += 1
        return Context(self)


class Context(_Strict):
    capturing = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._is_prepared = False

    def set_input_shape(self, name: str, shape: Any) -> bool:
        if name not in self._engine._inputs:
            return False
        low, _, high = self._engine._profiles[name]
        if not all(a <= side <= b for a, side, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        self._is_prepared = False
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> list[int]:
        if name in self._shapes:
            return list(self._shapes[name])
        shape = list(_shape(self._engine._values[name]))
        if self.infer_shapes():
            return shape
        (given,) = self._shapes.values()
        bytes_last = given[-1] == 3
        sides = given[1:3] if bytes_last else given[2:]
        return [side if side > 0 else known for side, known in zip(
            shape, [given[0], *([] if len(shape) == 3 else [-1]), *sides], strict=True
        )]  # fmt: skip

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % 256 == 0, "TensorRT asks for 256 bytes of alignment"
        if name not in self._engine._values:
            return False
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == _STREAM, "not on the device's own stream"
        assert not self.infer_shapes(), "an input has no shape"
        assert set(self._addresses) == set(self._engine._values), "a tensor has no memory"
        if self.capturing and not self._is_prepared:
            raise RuntimeError("the first run after a change of shapes cannot be captured")
        self._is_prepared = True
        if self.capturing:  # recording runs nothing
            return True
        feeds = {name: self._array(name).copy() for name in self._engine._inputs}
        outputs = [name for name in self._engine._values if name not in feeds]
        for name, value in zip(outputs, self._engine._session.run(outputs, feeds), strict=True):
            self._array(name)[...] = value
        return True

    def _array(self, name: str) -> np.ndarray:
        dtype = np.dtype(self._engine.get_tensor_dtype(name).name)
        shape = tuple(self.get_tensor_shape(name))
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


def tensorrt(version: str = "10.13.3.9") -> Any:
    """The module of a version.

    Beside what is documented it has ``_built``, the configurations of all builds, ``_deserialised``
    and ``_contexts``, and the switches ``_memory_is_short`` and ``_io_format``.
    """
    module: Any = ModuleType("tensorrt")
    module.__version__ = version
    module._major = int(version.split(".")[0])
    module._built, module._deserialised, module._contexts = [], [], 0
    module._memory_is_short, module._io_format = False, TensorFormat.LINEAR
    module.NetworkDefinitionCreationFlag = _Flag10 if module._major == 10 else _Flag11
    for kind in (
        ILogger, IProgressMonitor, OnnxParser, MemoryPoolType, BuilderFlag, TensorIOMode,
        TensorLocation, TensorFormat, DataType,
    ):  # fmt: skip
        setattr(module, kind.__name__, kind)
    for dtype in DataType:
        setattr(module, dtype.name, dtype)
    module.Builder = lambda logger: Builder(logger, module)
    module.Runtime = lambda logger: Runtime(logger, module)
    return module
