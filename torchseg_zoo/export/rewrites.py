"""Rewrites that change no value, of what the exporter writes and TensorRT's parser does not take.

``operators`` has its rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["cast_at_edges", "clip_integers", "compare_booleans", "rewrite_for_parsers"]

_GIVE_BOOL = frozenset(
    "And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor".split()  # noqa: SIM905
)


def rewrite_for_parsers(model: onnx.ModelProto) -> None:
    """Makes all rewrites of this module, in place.

    Args:
        model: as torch exports it, without functions.
    """
    cast_at_edges(model)
    compare_booleans(model)
    clip_integers(model)


def clip_integers(model: onnx.ModelProto) -> None:
    """Replaces ``Clip`` of integers, such as positions, by ``Max`` and ``Min``, in place.

    Args:
        model: a model that tells the types of its values, as the exporter writes it.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    kinds = (TensorProto.INT32, TensorProto.INT64)
    integers = {tensor.name for tensor in graph.initializer if tensor.data_type in kinds}
    integers |= {
        value.name
        for value in (*graph.value_info, *graph.input)
        if value.type.tensor_type.elem_type in kinds
    }
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Clip" and not integers.isdisjoint(node.input):
            value, least, most = (*node.input, "", "")[:3]
            bounds = [(kind, bound) for kind, bound in (("Max", least), ("Min", most)) if bound]
            target = node.output[0]
            graph.node.remove(node)
            for step, (kind, bound) in enumerate(bounds):
                result = target if step == len(bounds) - 1 else f"{target}_{kind}"
                made = helper.make_node(kind, [value, bound], [result], result)
                graph.node.insert(position + step, made)
                value = result


def compare_booleans(model: onnx.ModelProto) -> None:
    """Replaces ``Equal`` on BOOL, part of every floor division of sizes, in place.

    Two truths are equal unless just one of them holds: ``Not(Xor(a, b))``.
    """
    from onnx import helper

    graph = model.graph
    booleans = {
        output for node in graph.node if node.op_type in _GIVE_BOOL for output in node.output
    }
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "Equal" and not booleans.isdisjoint(node.input):
            either = f"{node.output[0]}_differs"
            negated = helper.make_node("Not", [either], node.output, node.name)
            node.CopyFrom(helper.make_node("Xor", node.input, [either], either))
            graph.node.insert(position + 1, negated)


def cast_at_edges(model: onnx.ModelProto) -> None:
    """Rewrites a model in place so that its UINT8 tensors are just inputs and outputs.

    A byte input is cast to FLOAT at once, before it is transposed or its shape is read; integers
    become FLOAT before they become a byte output. Bytes are exact in FLOAT.

    Args:
        model: a model whose byte inputs are permuted, cast to FLOAT and asked for their shape, and
            whose byte outputs are casts of integers, as ``LabelNetwork`` is exported.
    """
    from onnx import TensorProto

    graph = model.graph
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            _cast_input(graph, value.name)
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            _cast_output(graph, value.name)


def _cast_input(graph: onnx.GraphProto, name: str) -> None:
    from onnx import TensorProto, helper

    cast = f"{name}_float"
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] == name:
            _drop_cast_of(graph, node.output[0])
    for node in list(graph.node):
        if node.op_type == "Cast" and node.input[0] == name:
            _forward(graph, node.output[0], cast)
            graph.node.remove(node)
    for node in graph.node:
        for position, source in enumerate(node.input):
            if source == name:
                node.input[position] = cast
    graph.node.insert(0, helper.make_node("Cast", [name], [cast], cast, to=TensorProto.FLOAT))


def _drop_cast_of(graph: onnx.GraphProto, permuted: str) -> None:
    """Leaves out the cast after a transpose, whose result has become FLOAT already."""
    for node in list(graph.node):
        if node.op_type == "Cast" and node.input[0] == permuted:
            _forward(graph, node.output[0], permuted)
            graph.node.remove(node)
    _forget_type(graph, permuted)


def _cast_output(graph: onnx.GraphProto, name: str) -> None:
    from onnx import TensorProto, helper

    for position, node in enumerate(graph.node):
        if node.op_type == "Cast" and node.output[0] == name:
            whole = f"{name}_float"
            first = helper.make_node("Cast", [node.input[0]], [whole], whole, to=TensorProto.FLOAT)
            node.input[0] = whole
            graph.node.insert(position, first)
            return


def _forward(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for position, source in enumerate(node.input):
            if source == old:
                node.input[position] = new
    _forget_type(graph, old)


def _forget_type(graph: onnx.GraphProto, name: str) -> None:
    for value in list(graph.value_info):
        if value.name == name:
            graph.value_info.remove(value)
