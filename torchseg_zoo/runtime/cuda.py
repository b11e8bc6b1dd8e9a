"""A CUDA device as engines see it: memory, a stream, graphs and times, all of torch's."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torchseg_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CudaDevice", "Device", "driver_version"]


class Device(Protocol):
    """What an engine needs of the device that it runs on.

    Attributes:
        gpu: name and compute capability.
        driver: version of the driver.
        stream_handle: address of the ``cudaStream_t`` that everything is queued on. Not the default
            stream: with that one TensorRT synchronises the device.
    """

    gpu: str
    driver: str

    @property
    def stream_handle(self) -> int: ...

    def empty(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Memory on the device, aligned to 256 bytes, as TensorRT asks."""

    def staging(self, shape: Sequence[int], dtype: str) -> Tensor:
        """Memory of the process that is copied to and from the device fast."""

    def active(self) -> AbstractContextManager[Any]:
        """Within, copies and the like are queued on the stream."""

    def synchronize(self) -> None:
        """Waits until the stream has done all that was queued."""

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Records what ``work`` queues; the result queues it again, at no launch cost."""

    def mark(self) -> Any:
        """A point in the stream."""

    def between_ms(self, first: Any, second: Any) -> float:
        """Milliseconds between two marks, after ``synchronize``."""


class CudaDevice:
    """The ``Device`` of a GPU.

    Args:
        name: ``"auto"``, ``"cuda"`` or ``"cuda:1"``.

    Raises:
        ArgumentError: if this machine has no such GPU.
    """

    def __init__(self, name: str = "auto") -> None:
        import torch

        if not torch.cuda.is_available():
            raise ArgumentError(
                f"{name!r} cannot be used for this",
                where="device",
                why="this machine has no CUDA GPU that torch can use",
                fix="run ONNX files or the model itself on the CPU",
            )
        from torchseg_zoo.devices import find_device

        self._torch = torch
        self._device = find_device("cuda" if name == "auto" else name)
        if self._device.type != "cuda":
            raise ArgumentError(
                f"{name!r} cannot be used for this", where="device", fix="use cuda or auto"
            )
        major, minor = torch.cuda.get_device_capability(self._device)
        self.gpu = f"{torch.cuda.get_device_name(self._device)} (sm_{major}{minor})"
        self.driver = driver_version()
        self.index: int = self._device.index
        # torch leaves streams and events untyped.
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def stream_handle(self) -> int:
        """See ``Device``."""
        return int(self._stream.cuda_stream)

    def empty(self, shape: Sequence[int], dtype: str) -> Tensor:
        """See ``Device``; torch aligns to 512 bytes."""
        kind = getattr(self._torch, dtype)
        return self._torch.empty(tuple(shape), dtype=kind, device=self._device)

    def staging(self, shape: Sequence[int], dtype: str) -> Tensor:
        """See ``Device``: page-locked."""
        kind = getattr(self._torch, dtype)
        return self._torch.empty(tuple(shape), dtype=kind, pin_memory=True)

    def active(self) -> AbstractContextManager[Any]:
        """See ``Device``."""
        return self._torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """See ``Device``."""
        self._stream.synchronize()

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """See ``Device``."""
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def mark(self) -> Any:
        """See ``Device``."""
        event: Any = self._torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def between_ms(self, first: Any, second: Any) -> float:
        """See ``Device``."""
        return float(first.elapsed_time(second))


def driver_version() -> str:
    """Version of NVIDIA's driver, or the CUDA version that it serves where only that is told."""
    with suppress(OSError, UnicodeDecodeError):
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
        if found := re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", text):
            return found[1]
    for library in ("libcuda.so.1", "nvcuda.dll"):
        with suppress(OSError, AttributeError):
            version = ctypes.c_int()
            if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version)) == 0:
                return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return "unknown"
