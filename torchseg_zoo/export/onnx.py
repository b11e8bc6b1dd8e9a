"""ONNX files that take a picture's bytes and give its labels.

The graph holds normalisation, padding, the network, the resize of its logits and argmax, in
standard operators that TensorRT's parser takes, too (see ``export.operators``). What the file is
about, classes, colours and the digest of the weights among it, is in its metadata.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from torchseg_zoo._version import __version__
from torchseg_zoo.errors import ArgumentError, ExportError, MissingExtraError
from torchseg_zoo.export.graph import InputLayout, Output, Precision, prepare_tracing
from torchseg_zoo.export.quantize import (
    CalibrationSet,
    Int8For,
    Spread,
    quantized,
    require_pictures,
)
from torchseg_zoo.export.rewrites import rewrite_for_parsers
from torchseg_zoo.files import atomic_write, printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact
from torchseg_zoo.types import Size
from torchseg_zoo.weights.save import tensors_digest

if TYPE_CHECKING:
    import onnx

__all__ = ["INPUT_NAME", "describe_artefact", "export_onnx", "logits_model", "onnx_model"]

INPUT_NAME = "image"
_OPSET = 18
_OUTPUT_NAMES: dict[str, list[str]] = {
    "labels": ["labels"],
    "labels+confidence": ["labels", "confidence"],
    "logits": ["logits"],
    "head-logits": ["logits"],
}


def export_onnx(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    size: Size | Literal["dynamic"] = "dynamic",
    batch: int | Literal["dynamic"] = 1,
    layout: InputLayout = "nhwc",
    output: Output = "labels",
    precision: Precision = "fp32",
    name: str = "",
    calibration: CalibrationSet | Spread | None = None,
    int8_for: Int8For = "tensorrt",
) -> Path:
    """Writes a model as one ONNX file, weights inside.

    Args:
        model: a model of this package; it is left as it is.
        path: file to write or replace, ending in ``.onnx``; its folder must exist.
        size: (height, width) of the pictures, or any.
        batch: pictures at a time, or any number.
        layout: what goes in.
        output: what comes out.
        precision: of the network; ``"fp16"`` halves the file, ``"int8"`` nearly halves it again.
        name: the checkpoint's name for the metadata, such as ``"bisenet_x39.camvid"``.
        calibration: for ``"int8"``, and for nothing else: pictures like those to be labelled, to
            measure the ranges of values on; see ``Spread`` for a part of a set.
        int8_for: whom ``"int8"`` is chosen for, see ``Int8For``.

    Returns:
        The path.

    Raises:
        ExportError: if the model cannot be exported like this; it says what can. Also if there are
            no pictures to calibrate on.
        ArgumentError: if ``calibration`` is given for a precision that needs none.
        MissingExtraError: if the extra ``onnx`` is not installed.
        DataError: if the file cannot be written (an earlier one stays), or a picture be read.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ExportError("the file name must end in .onnx", where=printable(path))
    proto = onnx_model(
        model,
        size=size,
        batch=batch,
        layout=layout,
        output=output,
        precision=precision,
        name=name,
        calibration=calibration,
        int8_for=int8_for,
    )
    content = proto.SerializeToString(deterministic=True)
    atomic_write(path, lambda file: file.write(content))
    return path


def onnx_model(
    model: SegmentationModel,
    *,
    size: Size | Literal["dynamic"] = "dynamic",
    batch: int | Literal["dynamic"] = 1,
    layout: InputLayout = "nhwc",
    output: Output = "labels",
    precision: Precision = "fp32",
    name: str = "",
    calibration: CalibrationSet | Spread | None = None,
    int8_for: Int8For = "tensorrt",
) -> onnx.ModelProto:
    """The ONNX model that ``export_onnx`` writes; arguments and errors as there."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (the exporter needs it, and says so less plainly)
    except ImportError as error:
        raise MissingExtraError(
            "exporting to ONNX needs onnx and onnxscript", fix="pip install 'torchseg-zoo[onnx]'"
        ) from error
    if precision == "int8":
        require_pictures(calibration)  # before minutes are spent
    elif calibration is not None:
        raise ArgumentError(
            f"{precision} needs no calibration", where="calibration", fix="leave it out"
        )
    tracing = prepare_tracing(
        model, size=size, batch=batch, layout=layout, output=output, precision=precision
    )
    with torch.no_grad(), _exporting(model):
        program = torch.onnx.export(
            tracing.network,
            (tracing.example,),
            dynamo=True,
            dynamic_shapes=(tracing.moving,) if tracing.moving else None,
            input_names=[INPUT_NAME],
            output_names=_OUTPUT_NAMES[output],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _clean(proto)
    rewrite_for_parsers(proto)
    about = describe_artefact(
        model, name=name, size=tracing.size, layout=layout, output=output, precision=precision
    )
    if calibration is not None:
        together = 1 if batch == "dynamic" else batch
        proto = quantized(proto, about, calibration, batch=together, int8_for=int8_for)
        _clean(proto)
    proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
    onnx.checker.check_model(proto, full_check=True)
    return proto


def logits_model(content: bytes) -> bytes:
    """The same graph up to its logits at input size, for comparing them.

    Args:
        content: an ONNX file of labels, as ``export_onnx`` writes it.
    """
    import onnx

    proto = onnx.load_model_from_string(content)
    (argmax,) = [node for node in proto.graph.node if node.op_type == "ArgMax"]
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    about = Artefact.from_json(entry.value, "ONNX model")
    entry.value = dataclasses.replace(about, output="logits").to_json()
    del proto.graph.output[:]
    shape = [None] * 4
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info(argmax.input[0], onnx.TensorProto.FLOAT, shape)
    )
    needed = _needed(proto.graph, argmax.input[0])
    kept = [node for node in proto.graph.node if not needed.isdisjoint(node.output)]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    reduced: bytes = proto.SerializeToString(deterministic=True)
    return reduced


def _needed(graph: onnx.GraphProto, output: str) -> set[str]:
    """Names of all values that an output is computed from, itself included."""
    needed = {output}
    for node in reversed(graph.node):  # nodes stand in the order in which they can be computed
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
    return needed


def describe_artefact(
    model: SegmentationModel,
    *,
    name: str,
    size: Size | Literal["dynamic"],
    layout: InputLayout,
    output: Output,
    precision: str,
) -> Artefact:
    """What a runtime and a reader need to know of an exported file; arguments as there."""
    return Artefact(
        model=model.config.model,
        checkpoint=name,
        weights_sha256=tensors_digest(model.state_dict()),
        labels=model.labels,
        preprocess=model.preprocess,
        size=None if size == "dynamic" else size,
        layout=layout,
        output=output,
        precision=precision,
        version=__version__,
    )


@contextmanager
def _exporting(model: SegmentationModel) -> Iterator[None]:
    """One error of ours for whatever the exporter meets; its remarks are not the user's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            "the ONNX exporter cannot take this model",
            where=model.config.model,
            why=str(error.__cause__ or error).strip().splitlines()[0],
            fix="give a fixed size, or another backbone",
        ) from error


def _clean(proto: onnx.ModelProto) -> None:
    """Leaves out what tells of this machine and changes from run to run."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in proto.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
