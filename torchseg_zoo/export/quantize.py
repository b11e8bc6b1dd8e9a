"""8-bit integers in ONNX graphs, with ranges measured on pictures.

ONNX Runtime's quantiser puts pairs of ``QuantizeLinear`` and ``DequantizeLinear`` around the
convolutions, weights per output channel. What goes in and out stays float: normalisation, the
resize of the logits and what follows. So do the first and the last convolutions, and those whose
results go into a softmax or a gate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.errors import ArgumentError, ExportError, MissingExtraError
from torchseg_zoo.runtime.artefact import Artefact
from torchseg_zoo.runtime.resample import resize_picture
from torchseg_zoo.runtime.runner import input_batch

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CalibrationSet",
    "Int8For",
    "Spread",
    "float_convolutions",
    "quantized",
    "require_pictures",
]

CalibrationSet = Dataset | Sequence[object]
"""Pictures to measure ranges on: a data set, whose labels are not looked at, or whatever
``predict`` takes, such as paths."""

Int8For = Literal["tensorrt", "cpu"]
"""Whom the integers are chosen for. ONNX Runtime computes either as it stands; what OpenVINO would
sum wrongly, ``runtime.load`` has it compute in float32, with a warning.

``"tensorrt"``: symmetric (zero points of 0), sums stay float until what follows them is applied,
and biases stay float, as TensorRT's parser asks; ONNX Runtime on a CPU gains nothing by that.

``"cpu"``: as ONNX Runtime computes them fast on a CPU: unsigned with zero points, ReLUs folded into
them. Weights take 7 bits, since 8 overflow on x86 without VNNI. TensorRT does not take this.
"""

_WEIGHTED = ("Conv", "ConvTranspose")
# What turns sums into weights, where a step of the scale is a step of everything that is weighted.
_GATES = ("HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh")


@dataclass(frozen=True)
class Spread:
    """Some pictures of a set, evenly spread: neighbours in a set are often of one scene.

    Args:
        source: the set.
        pictures: how many of it; all if it has no more.

    Raises:
        ArgumentError: if ``pictures`` is not positive.
    """

    source: CalibrationSet
    pictures: int

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise ArgumentError(
                f"{self.pictures} is no number of pictures", where="pictures", fix="give 1 or more"
            )

    def __len__(self) -> int:
        return min(self.pictures, len(self.source))

    def __getitem__(self, index: int) -> object:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[index * len(self.source) // len(self)]


def require_pictures(calibration: CalibrationSet | Spread | None) -> CalibrationSet | Spread:
    """The set, once it is known to have pictures.

    Raises:
        ExportError: if there is none, or it is empty.
    """
    if calibration is None or not len(calibration):
        raise ExportError(
            "int8 needs pictures to measure the ranges of values on",
            where="calibration",
            why=None if calibration is None else "the set is empty",
            fix="give some hundred pictures like those to be labelled: calibration= "
            "(--calibration DATA)",
        )
    return calibration


def quantized(
    model: onnx.ModelProto,
    about: Artefact,
    calibration: CalibrationSet | Spread,
    *,
    batch: int,
    int8_for: Int8For = "tensorrt",
) -> onnx.ModelProto:
    """A model whose convolutions are computed on 8-bit integers.

    Args:
        model: in float32, as it is exported.
        about: what it takes; pictures are brought to its one size, if it has just one.
        calibration: pictures that the ranges are measured on.
        batch: pictures at a time that the model takes.
        int8_for: whom the integers are chosen for.

    Raises:
        ExportError: if there are no pictures, or no convolution may be quantised.
        DataError: if a picture cannot be read.
        MissingExtraError: if ONNX Runtime is not installed.
    """
    pictures = require_pictures(calibration)
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError(
            "int8 needs onnxruntime", fix="pip install 'torchseg-zoo[onnx]'"
        ) from error
    import onnx

    kept = float_convolutions(model.graph)
    if all(node.name in kept for node in model.graph.node if node.op_type in _WEIGHTED):
        raise ExportError(
            "has no convolution that 8 bits are enough for",
            where=about.model,
            fix="export it in fp16",
        )
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    # Says that shapes are inferred and nothing is left to fold; else it logs that it misses that.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        quantization.quantize_static(
            prepared,
            target,
            _reader(quantization, _batches(pictures, about, batch), model.graph.input[0].name),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_exclude=sorted(kept),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            **_options(quantization, int8_for),
        )
        return onnx.load(target)


def _options(quantization: Any, int8_for: Int8For) -> dict[str, Any]:
    if int8_for == "cpu":
        return {
            "op_types_to_quantize": [*_WEIGHTED, "Relu"],
            "activation_type": quantization.QuantType.QUInt8,
            "reduce_range": True,
        }
    return {
        "op_types_to_quantize": list(_WEIGHTED),
        "activation_type": quantization.QuantType.QInt8,
        "extra_options": {
            "ActivationSymmetric": True,
            "QuantizeBias": False,  # TensorRT has no INT32 to dequantise
            "OpTypesToExcludeOutputQuantization": list(_WEIGHTED),
        },
    }


def float_convolutions(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of the convolutions that 8 bits are not enough for.

    Those are the first, which see the picture; the last, whose results are the logits; and those
    whose results are made into weights by a softmax or a gate. Not meant is a sigmoid that is
    multiplied by its own input, as in SiLU.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    gates = {
        node.input[0]
        for node in graph.node
        if node.op_type in _GATES and not _multiplies_own_input(node, consumers)
    }
    return _first(graph) | _feeding(graph, {value.name for value in graph.output} | gates)


def _multiplies_own_input(node: onnx.NodeProto, consumers: dict[str, list[onnx.NodeProto]]) -> bool:
    after = consumers.get(node.output[0], [])
    return bool(after) and all(
        user.op_type == "Mul" and node.input[0] in user.input for user in after
    )


def _first(graph: onnx.GraphProto) -> frozenset[str]:
    """Convolutions that are reached from the input through none other."""
    reached = {value.name for value in graph.input}
    found = set()
    for node in graph.node:
        # Sizes are no values: what is merely resized to the input's size is not reached.
        if node.op_type == "Shape" or reached.isdisjoint(node.input):
            continue
        if node.op_type in _WEIGHTED:
            found.add(node.name)
        else:
            reached.update(node.output)
    return frozenset(found)


def _feeding(graph: onnx.GraphProto, values: set[str]) -> frozenset[str]:
    """Convolutions that reach one of these values through none other."""
    needed = set(values)
    found = set()
    for node in reversed(graph.node):
        if node.op_type == "Shape" or needed.isdisjoint(node.output):
            continue
        if node.op_type in _WEIGHTED:
            found.add(node.name)
        else:
            needed.update(node.input)
    return frozenset(found)


def _batches(
    pictures: CalibrationSet | Spread, about: Artefact, batch: int
) -> Iterator[np.ndarray]:
    for index in range(len(pictures)):
        item = pictures[index]
        pixels = as_rgb(item.image if isinstance(item, Sample) else item)
        if about.size is not None:
            pixels = resize_picture(pixels, about.size)
        yield np.repeat(input_batch(about, pixels), batch, axis=0)


def _reader(quantization: Any, batches: Iterator[np.ndarray], name: str) -> Any:
    """What the quantiser asks for its next input, until there is none."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, np.ndarray] | None:
            values = next(batches, None)
            return None if values is None else {name: values}

    return Reader()
