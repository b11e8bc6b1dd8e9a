"""The runtimes that can be compared. Free of torch: a runtime's own process reads it, too."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torchseg_zoo.errors import ArgumentError, MissingExtraError

__all__ = ["RUNTIMES", "Format", "Runtime", "default_runtimes", "find_runtime", "require"]

Format = Literal["safetensors", "onnx", "program", "aoti", "engine"]
"""Kind of file that a runtime reads; ``benchmark.artefacts`` writes each."""


@dataclass(frozen=True)
class Runtime:
    """One way to run a model.

    Args:
        name: on the command line and in tables.
        format: of the file that it reads.
        module: library that it needs.
        extra: of this package, which brings the library; "" if it is there anyway.
        opens: as what ``runtime.load`` opens the file; ``None`` by its ending.
        precision: of the network.
        any_size: whether one file takes pictures of any size; else each size has one of its own.
        any_size_on_gpu: the same on a GPU, where a CUDA graph is recorded for one size.
        compiled: by ``torch.compile``.
    """

    name: str
    format: Format
    module: str
    extra: str
    opens: str | None = None
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    any_size: bool = True
    any_size_on_gpu: bool = True
    compiled: bool = False


RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("torch", "safetensors", "torch", ""),
        Runtime("compile", "safetensors", "torch", "", compiled=True),
        Runtime("onnx", "onnx", "onnxruntime", "onnx", "onnx"),
        Runtime("onnx-fp16", "onnx", "onnxruntime", "onnx", "onnx", "fp16"),
        Runtime("onnx-int8", "onnx", "onnxruntime", "onnx", "onnx", "int8"),
        Runtime("openvino", "onnx", "openvino", "openvino", "openvino"),
        Runtime("openvino-int8", "onnx", "openvino", "openvino", "openvino", "int8"),
        Runtime("torch-export", "program", "torch", "", any_size_on_gpu=False),
        Runtime("aoti", "aoti", "torch", "", any_size_on_gpu=False),
        Runtime("aoti-fp16", "aoti", "torch", "", None, "fp16", any_size_on_gpu=False),
        Runtime("tensorrt", "engine", "tensorrt", "tensorrt", None, "fp16", any_size=False),
    )
}
"""By name, in the order of tables."""

_DEFAULT = ("torch", "onnx", "openvino")


def find_runtime(name: str) -> Runtime:
    """The runtime of a name.

    Raises:
        ArgumentError: if there is none.
    """
    if name not in RUNTIMES:
        raise ArgumentError(
            f"there is no runtime {name!r}",
            where="runtime",
            fix=f"known are {', '.join(RUNTIMES)}",
        )
    return RUNTIMES[name]


def default_runtimes() -> Sequence[Runtime]:
    """PyTorch, and those of ONNX Runtime and OpenVINO that are installed."""
    return [RUNTIMES[name] for name in _DEFAULT if _is_there(RUNTIMES[name].module)]


def require(runtime: Runtime) -> None:
    """Refuses a runtime whose library is not installed.

    Raises:
        MissingExtraError: it names the extra.
    """
    if not _is_there(runtime.module):
        extras = sorted({runtime.extra, "onnx"})  # what is run was exported to ONNX before
        raise MissingExtraError(
            f"{runtime.name} needs {runtime.module}",
            fix=f"pip install 'torchseg-zoo[{','.join(extras)}]'",
        )


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
