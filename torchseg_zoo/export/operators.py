"""Which ONNX graphs TensorRT's parser takes: operators, their data types, and their restrictions.

Source: NVIDIA's list of supported operators (onnx-tensorrt, ``docs/operators.md``) for TensorRT
10.1, which later parsers extend, and the notes on ``DataType::kUINT8`` in TensorRT's headers.
``restrictions`` has what a single operator's attributes and inputs must be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchseg_zoo.errors import ExportError, MissingExtraError
from torchseg_zoo.export.restrictions import RESTRICTIONS, Values

if TYPE_CHECKING:
    import onnx

__all__ = ["OPERATORS", "OPSETS", "Finding", "check_operators", "refuse_findings"]

OPSETS = range(9, 21)
"""Versions of the standard operators that the parser takes."""

_FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16")
_NUMBERS = (*_FLOATS, "INT32", "INT64")
_VALUES = (*_NUMBERS, "BOOL")

_BY_TYPES: dict[tuple[str, ...], str] = {
    ("BOOL",): "And Not Or Xor",
    ("FLOAT", "FLOAT16"): "DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign",
    _FLOATS: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv
        ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool
        GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler
        InstanceNormalization IsInf LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax
        LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu ParametricSoftplus
        Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike
        Reciprocal Resize Round ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign
        Sqrt Tan Tanh ThresholdedRelu Upsample""",
    _NUMBERS: """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual
        Max Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements
        ScatterND Shrink Sign SpaceToDepth Sub Sum TopK""",
    _VALUES: """
        Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND
        Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile
        Transpose Trilu Unsqueeze Where""",
    (*_VALUES, "UINT8"): "Cast CastLike",
    ("INT8", "FLOAT8E4M3FN", "INT4"): "DequantizeLinear",
    (*_NUMBERS, "INT8"): "Gelu",
    (*_NUMBERS, "FLOAT8E4M3FN"): "Mean",
}

OPERATORS: dict[str, frozenset[str]] = {
    name: frozenset(types) for types, names in _BY_TYPES.items() for name in names.split()
}
"""Operator → data types (names of ``onnx.TensorProto.DataType``) that it may work on."""

# Which input has the data; the first unless said here. None: the first output.
_DATA_INPUT: dict[str, int | None] = {
    "Constant": None,
    "ConstantOfShape": None,
    "Where": 1,
    "OneHot": 2,
    "RandomNormal": None,
    "RandomUniform": None,
}
_QUANTIZED = OPERATORS["DequantizeLinear"]
# Types that tensors may have at all. TensorRT casts DOUBLE to FLOAT, which is then another graph.
_ANY = frozenset((*_VALUES, "UINT8", *_QUANTIZED))


@dataclass(frozen=True)
class Finding:
    """One thing in a graph that TensorRT's parser does not take.

    Args:
        node: name of the node, or of its first output if it has none; "" for the model.
        operator: its type.
        problem: what is not allowed.
    """

    node: str
    operator: str
    problem: str

    def __str__(self) -> str:
        return f"{self.operator} {self.node}: {self.problem}" if self.operator else self.problem


def check_operators(model: onnx.ModelProto) -> list[Finding]:
    """Everything in a model that TensorRT's parser does not take; empty if it takes all.

    Functions are looked at where they are called, subgraphs with the values that they see.

    Args:
        model: an ONNX model that its checker accepts, weights inside.

    Raises:
        ExportError: if its types cannot be inferred, as for an inconsistent graph.
        MissingExtraError: if the extra ``onnx`` is not installed.
    """
    try:
        import onnx
        import onnx.inliner
        import onnx.shape_inference
    except ImportError as error:
        raise MissingExtraError(
            "checking ONNX models needs onnx", fix="pip install 'torchseg-zoo[onnx]'"
        ) from error
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        model = onnx.shape_inference.infer_shapes(
            model, check_type=True, strict_mode=True, data_prop=True
        )
    except Exception as error:  # the library's own classes differ from step to step
        raise ExportError(
            "this graph is not consistent",
            why=str(error).strip().splitlines()[0][:200],
            fix="export the model again",
        ) from error
    findings = [
        Finding("", "", f"opset {entry.version} is not one of {OPSETS.start} to {OPSETS.stop - 1}")
        for entry in model.opset_import
        if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS
    ]
    findings += _graph_findings(model.graph, None)
    return findings


def refuse_findings(findings: list[Finding], where: object) -> None:
    """Raises an error that names the first findings, if there are any.

    Raises:
        ExportError: if there are any.
    """
    if findings:
        more = f" and {len(findings) - 3} more" if len(findings) > 3 else ""
        raise ExportError(
            "TensorRT does not take this graph",
            where=where,
            why="; ".join(map(str, findings[:3])) + more,
            fix="export another backbone or output, or run the ONNX file on another runtime",
        )


def _graph_findings(graph: onnx.GraphProto, outer: Values | None) -> Iterator[Finding]:
    values = Values.of(graph, outer)
    for node in graph.node:
        name = node.name or (node.output[0] if node.output else "")
        for problem in _problems(node, values):
            yield Finding(name, node.op_type, problem)
        for subgraph in subgraphs(node):
            yield from _graph_findings(subgraph, values)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes, as of ``If`` and ``Loop``."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _problems(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"domain {node.domain!r} is not the standard one"
        return
    if node.op_type not in OPERATORS:
        yield "this operator is not supported"
        return
    yield from _type_problems(node, values)
    if restriction := RESTRICTIONS.get(node.op_type):
        yield from restriction(node, values)


def _type_problems(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    position = _DATA_INPUT.get(node.op_type, 0)
    data = node.output[0] if position is None or not node.input else node.input[position]
    kind = values.type_name(data)
    allowed = OPERATORS[node.op_type]
    by_rule = node.op_type not in ("QuantizeLinear", "DequantizeLinear")  # of bytes, below
    if kind is not None and kind not in allowed and not (by_rule and kind == "UINT8"):
        yield f"{data!r} is {kind}; allowed are {', '.join(sorted(allowed))}"
    for name in (*node.input, *node.output):
        other = values.type_name(name) if name and name != data else None
        if other is not None and other not in _ANY:
            yield f"{name!r} is {other}, a type that TensorRT does not have"
    if node.op_type == "QuantizeLinear":
        target = values.type_name(node.output[0])
        if target is not None and target not in _QUANTIZED:
            yield f"quantizes to {target}; allowed are {', '.join(sorted(_QUANTIZED))}"
    elif by_rule:
        yield from _byte_problems(node, values)


def _byte_problems(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    """Bytes exist only outside: as a network's input or output, cast from or to floats."""
    types = [values.type_name(name) for name in (*node.input, *node.output)]
    if "UINT8" not in types:
        return
    if node.op_type not in ("Cast", "CastLike"):
        yield "works on UINT8, which only inputs and outputs of the network may be"
        return
    source, target = values.type_name(node.input[0]), values.type_name(node.output[0])
    if {source, target} - {"UINT8", "FLOAT", "FLOAT16"}:
        yield f"casts {source} to {target}; UINT8 is cast from and to FLOAT and FLOAT16 only"
    if source == "UINT8" and node.input[0] not in values.graph_inputs:
        yield f"{node.input[0]!r} is UINT8, but no input of the network"
    if target == "UINT8" and node.output[0] not in values.graph_outputs:
        yield f"{node.output[0]!r} is UINT8, but no output of the network"
