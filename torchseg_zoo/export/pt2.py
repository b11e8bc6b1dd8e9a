"""PyTorch's own files: programs of ``torch.export``, and packages that AOTInductor compiles.

Both take a picture's bytes and give its labels without any Python of the model, and both keep what
they are about in their metadata. A program runs wherever torch does; a package is native code for
the kind of CPU or GPU that it was compiled on.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch.export import ExportedProgram

from torchseg_zoo.devices import find_device
from torchseg_zoo.errors import ExportError, MissingExtraError, ZooError
from torchseg_zoo.export.graph import InputLayout, Output, Precision, Tracing, prepare_tracing
from torchseg_zoo.export.onnx import describe_artefact
from torchseg_zoo.files import printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.artefact import METADATA_KEY
from torchseg_zoo.runtime.cuda import CudaDevice
from torchseg_zoo.runtime.pt2 import BUILT_FOR_KEY, built_for
from torchseg_zoo.runtime.seal import Sealer
from torchseg_zoo.runtime.trust import BuildRecord, save_built
from torchseg_zoo.types import Size

__all__ = ["export_aoti", "export_program"]


def export_program(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    size: Size | Literal["dynamic"] = "dynamic",
    batch: int | Literal["dynamic"] = 1,
    layout: InputLayout = "nhwc",
    output: Output = "labels",
    precision: Precision = "fp32",
    name: str = "",
) -> Path:
    """Writes a model as a program of ``torch.export``.

    Reading such a file unpickles and evaluates parts of it, so ``runtime.load`` opens it where it
    was written, by the record beside it, and elsewhere by its digest.

    Args:
        model: a model of this package; it is left as it is.
        path: file to write or replace, ending in ``.pt2``; its folder must exist.
        size, batch, layout, output, name: as for ``export_onnx``.
        precision: ``"fp32"`` or ``"fp16"``.

    Returns:
        The path. Beside it lies ``<file>.json``, see ``runtime.trust``.

    Raises:
        ExportError: if the model cannot be exported like this; it says what can.
        DataError: if the files cannot be written; earlier ones stay.
        CacheError: if there is no place for the secret that the record is sealed with.
    """
    path = _checked(path, precision)
    tracing = prepare_tracing(
        model, size=size, batch=batch, layout=layout, output=output, precision=precision
    )
    about = describe_artefact(
        model, name=name, size=tracing.size, layout=layout, output=output, precision=precision
    ).to_json()
    tied = {"PyTorch": str(torch.__version__)}
    buffer = io.BytesIO()
    with _exporting(model):
        program = _traced(tracing, "cpu")
        torch.export.save(program, buffer, extra_files=_metadata(about, tied))
    return _saved(path, buffer.getvalue(), about, tied)


def export_aoti(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    size: Size | Literal["dynamic"] = "dynamic",
    batch: int | Literal["dynamic"] = 1,
    layout: InputLayout = "nhwc",
    output: Output = "labels",
    precision: Precision = "fp32",
    name: str = "",
    device: str = "auto",
) -> Path:
    """Compiles a model for this machine's CPU or GPU; that takes minutes.

    Args:
        model, path, size, batch, layout, output, precision, name: as for ``export_program``. A GPU
            runs a file of one size as one CUDA graph.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, or ``"auto"``: CUDA where there is one.

    Returns:
        The path. Beside it lies ``<file>.json``, see ``runtime.trust``.

    Raises:
        ExportError: if the model cannot be compiled like this; it says what can. Also for fp16 on
            a CPU.
        MissingExtraError: if there is no C++ compiler; nothing is computed then.
        ArgumentError: if the device is not there.
        DataError, CacheError: as ``export_program``.
    """
    path = _checked(path, precision)
    target = find_device(device)
    if target.type == "cpu" and precision == "fp16":
        raise ExportError(
            "this CPU computes in fp16 many times slower than in fp32",
            where="precision",
            fix="compile fp32, or fp16 on a machine with a GPU (device)",
        )
    _require_compiler()
    tracing = prepare_tracing(
        model, size=size, batch=batch, layout=layout, output=output, precision=precision
    )
    about = describe_artefact(
        model, name=name, size=tracing.size, layout=layout, output=output, precision=precision
    ).to_json()
    tied = built_for("cpu" if target.type == "cpu" else CudaDevice(str(target)).gpu)
    buffer = io.BytesIO()
    with _exporting(model):
        program = _traced(tracing, str(target)).run_decompositions(_POOLS_OF_ANY_SIZE)
        if tracing.moving:
            _refuse_rounding_pools(program, model.config.model)
        torch._inductor.aoti_compile_and_package(
            program,
            package_path=buffer,
            inductor_configs={
                "aot_inductor.metadata": _metadata(about, tied),
                # Else the number of threads is that of the machine that compiles.
                "cpp.dynamic_threads": True,
            },
        )
    return _saved(path, buffer.getvalue(), about, tied)


def _checked(path: str | os.PathLike[str], precision: Precision) -> Path:
    """The path, once nothing that is known beforehand speaks against it."""
    path = Path(path)
    if path.suffix != ".pt2":
        raise ExportError("the file name must end in .pt2", where=printable(path))
    if precision == "int8":
        raise ExportError(
            "PyTorch's files are of floats", where="precision", fix="export int8 to ONNX"
        )
    Sealer().seal("", b"")  # a missing home must show before minutes are spent
    return path


def _traced(tracing: Tracing, device: str) -> ExportedProgram:
    with torch.no_grad():
        program = torch.export.export(
            tracing.network.to(device),
            (tracing.example.to(device),),
            dynamic_shapes=(tracing.moving,) if tracing.moving else None,
        )
    _divide_integers(program.graph)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # tells of this machine's folders
    return program


def _divide_integers(graph: torch.fx.Graph) -> None:
    """Replaces ``ceil(a / b)`` of sizes by ``-(-a // b)``, which can be written to a file."""
    for node in list(graph.nodes):
        if node.target is not math.ceil or node.args[0].target is not operator.truediv:
            continue
        quotient = node.args[0]
        steps: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = (
            (operator.neg, ()),
            (operator.floordiv, quotient.args[1:]),
            (operator.neg, ()),
        )
        value = quotient.args[0]
        with graph.inserting_before(node):
            for function, others in steps:
                value = graph.call_function(function, (value, *others))
                known = [getattr(arg, "meta", {}).get("val", arg) for arg in value.args]
                value.meta["val"] = function(*known)
        node.replace_all_uses_with(value)
        graph.erase_node(node)
        if not quotient.users:
            graph.erase_node(quotient)


def _average_pool(
    x: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> torch.Tensor:
    """``avg_pool2d`` whose windows of 2×2 at an odd border repeat it, which is the same mean."""
    halves = kernel == stride == [2, 2] and list(padding) == [0, 0] and divisor is None
    if not (ceil_mode and halves):
        return NotImplemented  # type: ignore[no-any-return]
    x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
    above, below = x[..., ::2, :], x[..., 1::2, :]
    return (above[..., ::2] + above[..., 1::2] + below[..., ::2] + below[..., 1::2]) / 4


def _max_pool(
    x: torch.Tensor,
    kernel: list[int],
    stride: list[int],
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> torch.Tensor:
    """``max_pool2d`` that pads what its last windows reach beyond the border."""
    steps = list(zip(x.shape[-2:], kernel, stride, padding, strict=True))
    if not ceil_mode or any(p + s - 1 >= k for _, k, s, p in steps):
        return NotImplemented  # type: ignore[no-any-return]
    height, width = (-(side + 2 * p - k) % s for side, k, s, p in steps)
    x = F.pad(x, (0, width, 0, height), value=-math.inf)
    pool = torch.ops.aten.max_pool2d_with_indices.default
    pooled: torch.Tensor = pool(x, kernel, stride, padding, dilation, False)[0]
    return pooled


# For a pooling that rounds sizes up, Inductor looks whether the size at which the model was traced
# needs that, and compiles the formula for sizes like this one; others then give other labels
# without a word (PyTorch 2.15).
_POOLS_OF_ANY_SIZE: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.avg_pool2d.default: _average_pool,
    torch.ops.aten.max_pool2d.default: _max_pool,
}


def _refuse_rounding_pools(program: ExportedProgram, where: str) -> None:
    """Those that could not be written out would be right at some sizes only."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        names = [argument.name for argument in schema.arguments] if schema else []
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        steps = given.get("stride") or given.get("kernel_size", ())
        if given.get("ceil_mode") and max(steps) > 1:  # single steps leave nothing to round
            raise ExportError(
                "has a pooling that rounds sizes up in a way that cannot be compiled for any size",
                where=where,
                fix="compile it for one size (size=, --size), or use export_program() (--format "
                "torch-export)",
            )


def _metadata(about: str, tied: dict[str, str]) -> dict[str, Any]:
    return {METADATA_KEY: about, BUILT_FOR_KEY: json.dumps(tied, sort_keys=True)}


def _saved(path: Path, content: bytes, about: str, tied: dict[str, str]) -> Path:
    save_built(path, content, BuildRecord(about, hashlib.sha256(content).hexdigest(), tied))
    return path


def _require_compiler() -> None:
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except (exc.InvalidCxxCompiler, RuntimeError) as error:
        raise MissingExtraError(
            "compiling needs a C++ compiler",
            fix="install g++ (apt-get install g++), or name one in CXX; or use export_program() "
            "(--format torch-export), which needs none",
        ) from error


@contextmanager
def _exporting(model: SegmentationModel) -> Iterator[None]:
    """One error of ours for whatever tracing and compiling meet; remarks are not the user's."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ZooError:
        raise
    except Exception as error:  # torch's own classes differ from step to step
        lines = str(error).strip().splitlines() or [""]
        raise ExportError(
            "PyTorch's compiler cannot take this model",
            where=model.config.model,
            why=f"{type(error).__name__}: {lines[0][:200]}",
            fix="give a fixed size, or another backbone",
        ) from error
    finally:
        log.setLevel(level)
