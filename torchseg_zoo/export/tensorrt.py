"""TensorRT engines, built from the ONNX export, kept in the cache, run on torch's tensors.

    from torchseg_zoo.export import tensorrt

    model = tensorrt.compile(bisenet_r18(pretrained="cityscapes"), size=(768, 1536))
    model.predict("street.png").save("street_overlay.png")
    model.save("bisenet.engine")        # and open it with torchseg_zoo.runtime.load

Networks are strongly typed: the graph carries the precision, as TensorRT 11 wants it and 10 can.
Built against NVIDIA's documentation of TensorRT 10 and 11, and never executed on TensorRT; what is
tested, and how, is in ``docs/tensorrt.md``.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchseg_zoo.errors import ArgumentError, CacheError, ExportError
from torchseg_zoo.export.engine_cache import EngineCache, EngineKey
from torchseg_zoo.export.graph import InputLayout, Output, Precision
from torchseg_zoo.export.onnx import onnx_model
from torchseg_zoo.export.operators import check_operators, refuse_findings
from torchseg_zoo.export.quantize import CalibrationSet, Spread
from torchseg_zoo.export.tensorrt_build import BuildOptions, Progress, build
from torchseg_zoo.files import printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact
from torchseg_zoo.runtime.cuda import CudaDevice, Device
from torchseg_zoo.runtime.engine import TensorRTModel, built_for
from torchseg_zoo.runtime.engine_session import EngineSession, tensorrt_module
from torchseg_zoo.runtime.onnx import read_model
from torchseg_zoo.runtime.trust import BuildRecord
from torchseg_zoo.types import Size

__all__ = ["Progress", "SizeRange", "TensorRTModel", "compile", "compile_onnx"]

_CHANNELS = 3  # of pictures, which is what runners take


@dataclass(frozen=True)
class SizeRange:
    """Sizes of pictures that one engine takes, each (height, width).

    Args:
        smallest: least height and least width.
        usual: the size that the engine is tuned for.
        largest: greatest height and greatest width; memory is set aside for it.

    Raises:
        ArgumentError: if a side is not positive, or the three are not in order.
    """

    smallest: Size
    usual: Size
    largest: Size

    def __post_init__(self) -> None:
        for low, middle, high in zip(self.smallest, self.usual, self.largest, strict=True):
            if not 0 < low <= middle <= high:
                raise ArgumentError(
                    f"{self.smallest}, {self.usual}, {self.largest} is no range of sizes",
                    where="size",
                    fix="give smallest, usual and largest (height, width), in this order",
                )


def compile(
    model: SegmentationModel,
    *,
    size: Size | SizeRange = (768, 1536),
    precision: Precision = "fp16",
    layout: InputLayout = "nhwc",
    output: Output = "labels",
    name: str = "",
    calibration: CalibrationSet | Spread | None = None,
    workspace_bytes: int | None = None,
    cuda_graph: bool = True,
    resize: bool = False,
    device: str | Device = "auto",
    progress: Progress | None = None,
    cache: EngineCache | None = None,
    trt: Any = None,
) -> TensorRTModel:
    """Builds an engine for this machine's GPU, or takes the one that was built before.

    Building takes minutes. The engine is kept in the cache under its GPU, driver, version of
    TensorRT, graph and options; a change of any builds another.

    Args:
        model: a model of this package; it is left as it is.
        size: (height, width) of the pictures, or a range.
        precision: of the network. ``"fp32"`` is without TF32.
        layout: what goes in; ``predict`` takes the same pictures with each.
        output: what comes out.
        name: the checkpoint's name for the record, such as ``"bisenet_x39.camvid"``.
        calibration: pictures for ``"int8"``, as for ``export_onnx``.
        workspace_bytes: most scratch memory that a layer may use; by default the GPU's.
        cuda_graph: record a CUDA graph for each size of picture.
        resize: bring pictures of other sizes to the one size; without it they are refused.
        device: ``"auto"``, ``"cuda"``, ``"cuda:1"``, or a ``Device``.
        progress: told of the builder's steps; what it raises ends the build.
        cache: where engines are kept; by default the user's.
        trt: module to use instead of ``tensorrt``.

    Raises:
        MissingExtraError: if TensorRT or onnx is not installed; it names the extra.
        ArgumentError: if there is no such GPU, or an argument cannot work.
        ExportError: if the model cannot be exported at this size, or TensorRT refuses the graph.
        CacheError: if engines cannot be kept; nothing is built then.
    """
    trt = trt or tensorrt_module()
    target = CudaDevice(device) if isinstance(device, str) else device
    proto = onnx_model(
        model,
        size="dynamic" if isinstance(size, SizeRange) else size,
        layout=layout,
        output=output,
        precision=precision,
        name=name,
        calibration=calibration,
    )
    return _compiled(
        proto.SerializeToString(deterministic=True),
        Path(name or model.config.model),
        size if isinstance(size, SizeRange) else None,
        workspace_bytes=workspace_bytes,
        cuda_graph=cuda_graph,
        resize=resize,
        device=target,
        progress=progress,
        cache=cache,
        trt=trt,
    )


def compile_onnx(
    path: str | os.PathLike[str],
    *,
    size: SizeRange | None = None,
    workspace_bytes: int | None = None,
    cuda_graph: bool = True,
    resize: bool = False,
    device: str | Device = "auto",
    progress: Progress | None = None,
    cache: EngineCache | None = None,
    trt: Any = None,
) -> TensorRTModel:
    """As ``compile``, from an ONNX file that ``export_onnx`` wrote for batches of one.

    Args:
        path: the file; precision, layout and output are its own.
        size: for a file of any size, and for no other: the sizes that the engine is to take.
        workspace_bytes, cuda_graph, resize, device, progress, cache, trt: as for ``compile``.

    Raises:
        ExportError: if the file cannot be used, or its sizes and ``size`` do not go together.
        IntegrityError: if it is not the file that the ``parity.json`` beside it was made for.
        MissingExtraError, ArgumentError, CacheError: as ``compile``.
    """
    return _compiled(
        read_model(Path(path)),
        Path(path),
        size,
        workspace_bytes=workspace_bytes,
        cuda_graph=cuda_graph,
        resize=resize,
        device=device,
        progress=progress,
        cache=cache,
        trt=trt or tensorrt_module(),
    )


def _compiled(
    graph: bytes,
    where: Path,
    size: SizeRange | None,
    *,
    workspace_bytes: int | None,
    cuda_graph: bool,
    resize: bool,
    device: str | Device,
    progress: Progress | None,
    cache: EngineCache | None,
    trt: Any,
) -> TensorRTModel:
    if workspace_bytes is not None and workspace_bytes <= 0:
        raise ArgumentError(
            f"{workspace_bytes} bytes is no limit", where="workspace_bytes", fix="give bytes > 0"
        )
    target = CudaDevice(device) if isinstance(device, str) else device
    artefact = _checked_artefact(graph, where, size)
    options = BuildOptions(
        None if size is None else _profile_shapes(size, artefact.layout),
        tf32=artefact.precision != "fp32",
        workspace_bytes=workspace_bytes,
    )
    version = str(trt.__version__)
    graph_sha256 = hashlib.sha256(graph).hexdigest()
    key = EngineKey(target.gpu, target.driver, version, graph_sha256, options.to_json())
    engine = _kept_or_built(trt, graph, key, options, cache or EngineCache(), progress)
    session = EngineSession(trt, engine, target, where=printable(where), cuda_graph=cuda_graph)
    engine_sha256 = hashlib.sha256(engine).hexdigest()
    about = built_for(target, trt) | {"driver": target.driver}
    record = BuildRecord(artefact.to_json(), engine_sha256, about)
    return TensorRTModel(where, artefact, session, engine, record, resize=resize)


def _checked_artefact(graph: bytes, where: Path, size: SizeRange | None) -> Artefact:
    """What a graph says of itself, once it is known to be one that can become an engine."""
    import onnx

    try:
        proto = onnx.load_model_from_string(graph)
    except Exception as error:  # protobuf's own classes differ from version to version
        raise ExportError(
            "cannot be read as ONNX", where=printable(where), fix="export the model again"
        ) from error
    entries = [entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY]
    artefact = Artefact.from_json(entries[0] if entries else None, where)
    refuse_findings(check_operators(proto), printable(where))
    if (artefact.size is None) != (size is not None):
        raise ExportError(
            "takes pictures of any size" if size is None else "takes one size only",
            where=printable(where),
            fix="give a SizeRange as size" if size is None else "leave size out",
        )
    return artefact


def _profile_shapes(size: SizeRange, layout: str) -> tuple[tuple[int, ...], ...]:
    return tuple(
        (1, *sides, _CHANNELS) if layout == "nhwc" else (1, _CHANNELS, *sides)
        for sides in (size.smallest, size.usual, size.largest)
    )


def _kept_or_built(
    trt: Any,
    graph: bytes,
    key: EngineKey,
    options: BuildOptions,
    cache: EngineCache,
    progress: Progress | None,
) -> bytes:
    found = cache.find(key)
    if found is not None:
        return found
    cache.prepare()
    engine, timing = build(trt, graph, options, cache.find_timing(key), progress)
    try:
        cache.store(key, engine)
        cache.store_timing(key, timing)
    except CacheError as error:  # minutes of building are not to be lost for that
        warnings.warn(f"the engine is used, but not kept: {error}", stacklevel=3)
    return engine
