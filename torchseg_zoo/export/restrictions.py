"""What TensorRT's parser asks of single operators, beyond their data types; see ``operators``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["RESTRICTIONS", "Values"]

_MOST_K = 3840


@dataclass(frozen=True)
class Values:
    """What is known of the values that the nodes of a graph see.

    Args:
        types: name → type of the value.
        constants: name → tensor, of initializers and of ``Constant`` nodes.
        graph_inputs: names of the network's inputs; empty within a subgraph.
        graph_outputs: names of the network's outputs; empty within a subgraph.
        outer: the values around a subgraph.
    """

    types: dict[str, onnx.TypeProto]
    constants: dict[str, onnx.TensorProto]
    graph_inputs: frozenset[str]
    graph_outputs: frozenset[str]
    outer: Values | None

    @classmethod
    def of(cls, graph: onnx.GraphProto, outer: Values | None) -> Values:
        """What a graph with inferred types says."""
        constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        constants[node.output[0]] = attribute.t
        types = {value.name: value.type for value in (*graph.value_info, *graph.output)}
        types |= {value.name: value.type for value in graph.input}
        return cls(
            types,
            constants,
            frozenset() if outer else frozenset(value.name for value in graph.input),
            frozenset() if outer else frozenset(value.name for value in graph.output),
            outer,
        )

    def type_name(self, name: str) -> str | None:
        """Data type of a value as ONNX names it, such as ``FLOAT``; ``None`` if not known."""
        from onnx import TensorProto

        number = 0
        if (constant := self._constant(name)) is not None:
            number = constant.data_type
        elif (kind := self._type(name)) is not None:
            number = kind.tensor_type.elem_type
        known: str = TensorProto.DataType.Name(number)
        return known if number else None

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Shape of a value, ``None`` for each side that is not fixed; ``None`` if not known."""
        if (constant := self._constant(name)) is not None:
            return tuple(constant.dims)
        kind = self._type(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return tuple(
            side.dim_value if side.HasField("dim_value") else None
            for side in kind.tensor_type.shape.dim
        )

    def array(self, name: str) -> np.ndarray | None:
        """The content of a constant; ``None`` if it is none."""
        from onnx import numpy_helper

        constant = self._constant(name)
        return None if constant is None else numpy_helper.to_array(constant)

    def _constant(self, name: str) -> onnx.TensorProto | None:
        found = self.constants.get(name)
        return found if found is not None or self.outer is None else self.outer._constant(name)

    def _type(self, name: str) -> onnx.TypeProto | None:
        found = self.types.get(name)
        return found if found is not None or self.outer is None else self.outer._type(name)


Restriction = Callable[["onnx.NodeProto", Values], Iterator[str]]


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """An attribute's value, text as ``str``; the default if it is not there."""
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _input(node: onnx.NodeProto, position: int) -> str:
    """Name of an input; "" if it is left out."""
    return node.input[position] if position < len(node.input) else ""


def _needs_constant(position: int, meaning: str) -> Restriction:
    def check(node: onnx.NodeProto, values: Values) -> Iterator[str]:
        name = _input(node, position)
        if name and values.array(name) is None:
            yield f"{meaning} ({name!r}) must be a constant"

    return check


def _needs_attribute(name: str, *allowed: Any, default: Any) -> Restriction:
    def check(node: onnx.NodeProto, values: Values) -> Iterator[str]:
        value = _attribute(node, name, default)
        if value not in allowed:
            yield f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}"

    return check


def _only_output(position: int) -> Restriction:
    """No output at this position or beyond."""

    def check(node: onnx.NodeProto, values: Values) -> Iterator[str]:
        if any(node.output[position:]):
            yield f"only the first {position} output is supported"

    return check


def _no_dilation(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    if any(value != 1 for value in _attribute(node, "dilations", ())):
        yield "dilations must be 1"


def _needs_rank(*ranks: int) -> Restriction:
    def check(node: onnx.NodeProto, values: Values) -> Iterator[str]:
        shape = values.shape(node.input[0])
        if shape is not None and len(shape) not in ranks:
            yield f"its input has {len(shape)} axes; allowed are {', '.join(map(str, ranks))}"

    return check


def _zero_point(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    name = _input(node, 2)
    if not name:
        return
    zero_point = values.array(name)
    if zero_point is None or zero_point.astype("float32").any():
        yield "its zero point must be a constant 0"


def _einsum(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    equation = _attribute(node, "equation", "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if "..." in equation:
        yield "its equation has an ellipsis"
    elif any(len(set(term)) != len(term) for term in terms):
        yield "its equation takes a diagonal"


def _top_k(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    k = values.array(_input(node, 1))
    if k is None:
        yield "K must be a constant"
    elif int(k.reshape(-1)[0]) >= _MOST_K:
        yield f"K is {int(k.reshape(-1)[0])}; it must be less than {_MOST_K}"


def _resize_axes(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    axes = _attribute(node, "axes", None)
    shape = values.shape(node.input[0])
    if axes is not None and shape is not None and list(axes) != list(range(len(shape))):
        yield "axes must be left out, or all in order"


def _nearest(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    if _attribute(node, "mode", "nearest") == "nearest":
        allowed = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        check = _needs_attribute("nearest_mode", *allowed, default="round_prefer_floor")
        yield from check(node, values)


def _constant_kind(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    for attribute in node.attribute:
        if attribute.name in ("sparse_value", "value_string", "value_strings"):
            yield f"{attribute.name} is not supported"


def _training_mode(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    name = _input(node, 2)
    training = values.array(name) if name else None
    if name and (training is None or training.any()):
        yield "training_mode must be a constant False"


def _even_pads(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    pads = list(_attribute(node, "pads", ()))
    if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
        yield "pads must be the same at the beginning and end of each axis"


def _fixed_shape(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    shape = values.shape(node.input[0])
    if shape is not None and None in shape:
        yield "its input must have fixed sides"


def _fixed_axis(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    shape = values.shape(node.input[0])
    if shape and shape[_attribute(node, "axis", -1)] is None:
        yield "its axis must have a fixed length"


def _same_branches(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    branches = [
        Values.of(_attribute(node, name, None), values) for name in ("then_branch", "else_branch")
    ]
    names = [
        [value.name for value in _attribute(node, name, None).output]
        for name in ("then_branch", "else_branch")
    ]
    for first, second in zip(*names, strict=True):
        shapes = branches[0].shape(first), branches[1].shape(second)
        if None not in shapes and len(shapes[0] or ()) != len(shapes[1] or ()):
            yield "the outputs of its branches differ in rank"
        if first == second:
            yield f"the outputs of its branches have the same name {first!r}"


def _fixed_scan(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    """The number of rounds, which is the length of scan outputs, must be known when building."""
    carried = max(len(node.input) - 2, 0)
    if len(node.output) > carried and values.array(_input(node, 0)) is None:
        yield "its scan outputs have no fixed length"


def _both_directions(node: onnx.NodeProto, values: Values) -> Iterator[str]:
    functions = list(_attribute(node, "activations", ()))
    half = len(functions) // 2
    if _attribute(node, "direction", "forward") == "bidirectional" and (
        functions[:half] != functions[half:]
    ):
        yield "its activations differ between the directions"


def _each(*restrictions: Restriction) -> Restriction:
    def check(node: onnx.NodeProto, values: Values) -> Iterator[str]:
        for restriction in restrictions:
            yield from restriction(node, values)

    return check


_COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
)
_REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]

RESTRICTIONS: dict[str, Restriction] = {
    **{f"Reduce{name}": _needs_constant(1, "axes") for name in _REDUCTIONS},
    "AveragePool": _each(_needs_rank(4, 5), _no_dilation),
    "Constant": _constant_kind,
    "CumSum": _needs_constant(1, "axis"),
    "DeformConv": _each(_needs_rank(3, 4), _even_pads),
    "DequantizeLinear": _zero_point,
    "Dropout": _training_mode,
    "Einsum": _einsum,
    "EyeLike": _fixed_shape,
    "GRU": _both_directions,
    "GridSample": _needs_rank(4),
    "Hardmax": _fixed_axis,
    "If": _same_branches,
    "LSTM": _each(
        _both_directions,
        _needs_attribute("input_forget", 0, default=0),
        _needs_attribute("layout", 0, default=0),
    ),
    "LayerNormalization": _only_output(1),
    "Loop": _fixed_scan,
    "LpPool": _no_dilation,
    "MaxPool": _each(_needs_rank(4, 5), _no_dilation, _only_output(1)),
    "OneHot": _needs_constant(1, "depth"),
    "Pad": _needs_constant(3, "axes"),
    "QuantizeLinear": _zero_point,
    "RNN": _both_directions,
    "Resize": _each(
        _needs_attribute("mode", "nearest", "linear", default="nearest"),
        _needs_attribute("coordinate_transformation_mode", *_COORDINATES, default="half_pixel"),
        _needs_attribute("antialias", 0, default=0),
        _needs_attribute("keep_aspect_ratio_policy", "stretch", default="stretch"),
        _nearest,
        _resize_axes,
    ),
    "ScatterND": _needs_attribute("reduction", "none", default="none"),
    "Slice": _needs_constant(3, "axes"),
    "Squeeze": _needs_constant(1, "axes"),
    "TopK": _each(_top_k, _needs_attribute("sorted", 1, default=1)),
    "Unsqueeze": _needs_constant(1, "axes"),
}
