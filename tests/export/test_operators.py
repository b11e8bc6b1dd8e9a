"""What TensorRT's parser does not take, found in hand-built graphs and not found in exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import torchseg_zoo as tsz
from torchseg_zoo.errors import ExportError
from torchseg_zoo.export.onnx import onnx_model
from torchseg_zoo.export.operators import check_operators, refuse_findings
from torchseg_zoo.export.rewrites import cast_at_edges, clip_integers, compare_booleans

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
Shape = list[int | str | None]


def tiny(name: str) -> tsz.models.base.SegmentationModel:
    torch.manual_seed(0)
    backbone = {} if "densea" in name or "x39" in name else {"backbone": "resnet10t"}
    return tsz.create_model(name, num_classes=7, **backbone).eval()


def network(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, Shape]],
    outputs: dict[str, int],
    constants: dict[str, Any] | None = None,
    opset: int = 18,
    functions: list[onnx.FunctionProto] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid("ours", 1)] * bool(functions)
    return helper.make_model(graph, opset_imports=imports, functions=functions or [])


def one_node(
    operator: str,
    *constants: Any,
    shape: Shape | None = None,
    dtype: int = FLOAT,
    outputs: int = 1,
    extra_inputs: int = 0,
    opset: int = 18,
    out: int = FLOAT,
    later: int = INT64,
    **attributes: Any,
) -> onnx.ModelProto:
    """A network of one operator on an input ``x``, then inputs ``y0``…, then constants."""
    names = ["x", *(f"y{i}" for i in range(extra_inputs))]
    names += ["" if value is None else f"c{i}" for i, value in enumerate(constants)]
    made = [f"out{i}" for i in range(outputs)]
    return network(
        [helper.make_node(operator, names, made, "node", **attributes)],
        {"x": (dtype, shape or [1, 3, 8, 8])}
        | {f"y{i}": (INT64, [None]) for i in range(extra_inputs)},
        {name: (out if place == 0 else later) for place, name in enumerate(made)},
        {f"c{i}": value for i, value in enumerate(constants) if value is not None},
        opset,
    )


AXES = np.array([1])
ROI = np.array([], np.float32)
SCALES = np.array([1, 1, 2, 2], np.float32)
SIZES = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
KERNEL = {"kernel_shape": [2, 2]}
SCALE, ZERO, ONE = np.float32(0.1), np.int8(0), np.int8(1)

ALLOWED = [
    one_node("Relu"),
    one_node("AveragePool", **KERNEL, dilations=[1, 1], opset=19),
    one_node("MaxPool", **KERNEL),
    one_node("Resize", ROI, SCALES, **SIZES),
    one_node("Resize", ROI, SCALES, mode="nearest", axes=[0, 1, 2, 3]),
    one_node("ReduceMean", AXES),
    one_node("TopK", np.array([5]), outputs=2),
    one_node("Einsum", equation="nchw->nhwc"),
    one_node("QuantizeLinear", SCALE, ZERO, out=TensorProto.INT8),
    one_node("DequantizeLinear", SCALE, ZERO, dtype=TensorProto.INT8),
    one_node("Squeeze", AXES, shape=[1, 1, 8]),
    one_node("Dropout", np.float32(0.5), np.bool_(False)),
    one_node("ScatterND", np.array([[0]]), np.zeros((1, 3, 8, 8), np.float32)),
]

REFUSED = [
    (one_node("Det", shape=[3, 3]), "not supported"),
    (
        one_node("Relu", dtype=TensorProto.DOUBLE, out=TensorProto.DOUBLE),
        "'x' is DOUBLE; allowed are BFLOAT16, FLOAT",
    ),
    (one_node("Sigmoid", dtype=TensorProto.DOUBLE, out=TensorProto.DOUBLE), "'x' is DOUBLE"),
    (one_node("Clip", dtype=INT64, out=INT64), "'x' is INT64"),
    (one_node("Transpose", dtype=UINT8, out=UINT8), "works on UINT8"),
    (one_node("Shape", dtype=UINT8, out=INT64), "works on UINT8"),
    (one_node("Cast", dtype=UINT8, out=INT64, to=INT64), "casts UINT8 to INT64"),
    (one_node("Cast", dtype=INT64, out=UINT8, to=UINT8), "casts INT64 to UINT8"),
    (one_node("Cast", dtype=TensorProto.INT16, to=FLOAT), "'x' is INT16"),
    (one_node("Cast", out=TensorProto.UINT16, to=TensorProto.UINT16), "'out0' is UINT16, a type"),
    (one_node("AveragePool", **KERNEL, dilations=[2, 2], opset=19), "dilations must be 1"),
    (one_node("AveragePool", kernel_shape=[2], shape=[1, 3, 8]), "3 axes; allowed are 4, 5"),
    (one_node("MaxPool", **KERNEL, dilations=[1, 2]), "dilations must be 1"),
    (one_node("MaxPool", **KERNEL, outputs=2), "only the first 1 output"),
    (one_node("LpPool", **KERNEL, dilations=[2, 1]), "dilations must be 1"),
    (one_node("Resize", ROI, SCALES, mode="cubic"), "mode is 'cubic'"),
    (
        one_node("Resize", ROI, SCALES, mode="linear", antialias=1),
        "antialias is 1; allowed are 0",
    ),
    (
        one_node(
            "Resize",
            ROI,
            SCALES,
            mode="linear",
            coordinate_transformation_mode="half_pixel_symmetric",
            opset=19,
        ),
        "coordinate_transformation_mode is 'half_pixel_symmetric'",
    ),
    (
        one_node(
            "Resize",
            None,
            None,
            np.array([4, 4]),
            axes=[2, 3],
            keep_aspect_ratio_policy="not_larger",
        ),
        "keep_aspect_ratio_policy is 'not_larger'",
    ),
    (one_node("Resize", None, SCALES[2:], axes=[2, 3]), "axes must be left out"),
    (one_node("ReduceMean", extra_inputs=1), "axes \\('y0'\\) must be a constant"),
    (one_node("Unsqueeze", extra_inputs=1), "axes \\('y0'\\) must be a constant"),
    (one_node("TopK", np.array([4000]), outputs=2, shape=[1, 5000]), "K is 4000"),
    (one_node("TopK", extra_inputs=1, outputs=2), "K must be a constant"),
    (one_node("TopK", np.array([2]), outputs=2, sorted=0), "sorted is 0"),
    (one_node("Einsum", equation="n...->..."), "ellipsis"),
    (one_node("Einsum", equation="nchh->nch"), "diagonal"),
    (
        one_node("QuantizeLinear", SCALE, ONE, out=TensorProto.INT8),
        "zero point must be a constant 0",
    ),
    (one_node("QuantizeLinear", SCALE, np.uint8(0), out=UINT8), "quantizes to UINT8"),
    (
        one_node("DequantizeLinear", SCALE, ONE, dtype=TensorProto.INT8),
        "zero point must be a constant 0",
    ),
    (one_node("DequantizeLinear", SCALE, np.uint8(0), dtype=UINT8), "'x' is UINT8"),
    (one_node("Dropout", np.float32(0.5), np.bool_(True)), "training_mode"),
    (one_node("EyeLike", shape=["h", 3]), "fixed sides"),
    (one_node("Hardmax", shape=[3, "n"]), "fixed length"),
    (one_node("CumSum", extra_inputs=1), "axis \\('y0'\\) must be a constant"),
    (
        one_node("LayerNormalization", np.ones(8, np.float32), outputs=2, later=FLOAT),
        "only the first 1 output",
    ),
    (
        one_node(
            "ScatterND",
            np.array([[0]]),
            np.zeros((1, 3, 8, 8), np.float32),
            reduction="add",
        ),
        "reduction is 'add'",
    ),
    (
        one_node(
            "GridSample",
            np.zeros((1, 2, 2, 2, 3), np.float32),
            shape=[1, 3, 4, 4, 4],
            mode="linear",
            opset=20,
        ),
        "5 axes; allowed are 4",
    ),
    (one_node("Relu", opset=21), "opset 21 is not one of 9 to 20"),
]


@pytest.mark.parametrize("model", ALLOWED, ids=lambda model: model.graph.node[0].op_type)
def test_what_is_allowed(model: onnx.ModelProto) -> None:
    assert check_operators(model) == []


@pytest.mark.parametrize(
    ("model", "problem"), REFUSED, ids=[f"{m.graph.node[0].op_type}-{p[:24]}" for m, p in REFUSED]
)
def test_what_is_refused(model: onnx.ModelProto, problem: str) -> None:
    findings = check_operators(model)
    with pytest.raises(ExportError, match=f"TensorRT does not take this graph.*{problem}"):
        refuse_findings(findings, "model.onnx")


def test_values_that_must_be_known_when_building() -> None:
    depth = helper.make_node("OneHot", ["x", "depth", "values"], ["out"], "hot")
    inputs: dict[str, tuple[int, Shape]] = {"x": (INT64, [3]), "depth": (INT64, [1])}
    values = {"values": np.array([0, 1], np.float32)}
    (finding,) = check_operators(network([depth], inputs, {"out": FLOAT}, values))
    assert "depth ('depth') must be a constant" in str(finding)
    constant = helper.make_node(
        "Constant", [], ["depth"], value=numpy_helper.from_array(np.array([5]))
    )
    del inputs["depth"]
    assert check_operators(network([constant, depth], inputs, {"out": FLOAT}, values)) == []


def test_subgraphs_are_walked_and_see_outer_values() -> None:
    def branch(operator: str, output: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(output, FLOAT, None)
        node = helper.make_node(operator, ["x"], [output], f"{operator} inside")
        return helper.make_graph([node], operator, [], [value])

    def model(second: onnx.GraphProto, dtype: int = FLOAT) -> onnx.ModelProto:
        node = helper.make_node(
            "If", ["yes"], ["out"], "if", then_branch=branch("Relu", "a"), else_branch=second
        )
        inputs: dict[str, tuple[int, Shape]] = {
            "yes": (TensorProto.BOOL, []),
            "x": (dtype, [2, 2]),
        }
        return network([node], inputs, {"out": FLOAT})

    assert check_operators(model(branch("Sigmoid", "b"))) == []
    (finding,) = check_operators(model(branch("Bernoulli", "b")))
    assert (finding.operator, finding.node) == ("Bernoulli", "Bernoulli inside")
    assert "same name 'a'" in str(check_operators(model(branch("Sigmoid", "a"))))


def test_functions_are_walked_where_they_are_called() -> None:
    inside = helper.make_node("Det", ["a"], ["b"], "inside")
    function = helper.make_function(
        "ours", "F", ["a"], ["b"], [inside], [helper.make_opsetid("", 18)]
    )
    call = helper.make_node("F", ["x"], ["out"], "call", domain="ours")
    model = network([call], {"x": (FLOAT, [2, 2])}, {"out": FLOAT}, functions=[function])
    (finding,) = check_operators(model)
    assert finding.operator == "Det"
    foreign = helper.make_node("F", ["x"], ["out"], "call", domain="com.microsoft")
    model = network([foreign], {"x": (FLOAT, [2, 2])}, {"out": FLOAT})
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "domain 'com.microsoft'" in str(check_operators(model)[0])


def test_bytes_are_cast_at_the_edges() -> None:
    nodes = [
        helper.make_node("Transpose", ["image"], ["permuted"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["permuted"], ["float"], to=FLOAT),
        helper.make_node("Shape", ["image"], ["sides"]),
        helper.make_node("Cast", ["sides"], ["counts"], to=FLOAT),
        helper.make_node("ReduceSum", ["counts"], ["count"], keepdims=0),
        helper.make_node("Add", ["float", "count"], ["sum"]),
        helper.make_node("ArgMax", ["sum"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=UINT8),
    ]
    model = network(nodes, {"image": (UINT8, [1, "h", "w", 3])}, {"labels": UINT8})
    assert len(check_operators(model)) == 4
    image = np.random.default_rng(0).integers(0, 256, (1, 5, 7, 3)).astype(np.uint8)
    before = run(model, image=image)
    cast_at_edges(model)
    assert check_operators(model) == []
    assert np.array_equal(run(model, image=image), before)
    assert np.array_equal(before[0], image[0].argmax(2))


def test_booleans_are_compared_by_xor() -> None:
    nodes = [
        helper.make_node("Less", ["x", "y"], ["less"], "less"),
        helper.make_node("Equal", ["less", "known"], ["out"], "equal"),
    ]
    kinds: dict[str, tuple[int, Shape]] = {"x": (FLOAT, [4]), "y": (FLOAT, [4])}
    known = {"known": np.array([True, False, True, False])}
    model = network(nodes, kinds, {"out": TensorProto.BOOL}, known)
    (finding,) = check_operators(model)
    assert "'less' is BOOL" in str(finding)
    compare_booleans(model)
    assert check_operators(model) == []
    x, y = np.array([0, 0, 1, 1], np.float32), np.array([1, 1, 0, 0], np.float32)
    assert run(model, x=x, y=y).tolist() == [True, False, False, True]


@pytest.mark.parametrize(("least", "most"), [(1, 3), (None, 3), (1, None)])
def test_integers_are_clipped_by_max_and_min(least: int | None, most: int | None) -> None:
    bounds = {"least": least, "most": most}
    names = ["x", *(name if bound is not None else "" for name, bound in bounds.items())]
    constants = {name: np.int64(bound) for name, bound in bounds.items() if bound is not None}
    node = helper.make_node("Clip", names, ["out"], "clip")
    model = network([node], {"x": (INT64, [5])}, {"out": INT64}, constants)
    assert "'x' is INT64" in str(check_operators(model))
    clip_integers(model)
    assert check_operators(model) == []
    x = np.arange(5)
    assert np.array_equal(run(model, x=x), np.clip(x, least, most))


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    model.ir_version = 10
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (output,) = session.run(None, inputs)
    return output


def test_graphs_that_contradict_themselves() -> None:
    node = helper.make_node("Add", ["x", "y"], ["out"])
    inputs: dict[str, tuple[int, Shape]] = {"x": (FLOAT, [2]), "y": (INT64, [2])}
    with pytest.raises(ExportError, match="not consistent"):
        check_operators(network([node], inputs, {"out": FLOAT}))


def test_an_export_is_taken() -> None:
    # Any size: pyramid pooling has divisions of sizes.
    model = onnx_model(tiny("pspnet_r50"), precision="fp16", output="labels+confidence")
    assert check_operators(model) == []


@pytest.mark.soak
@pytest.mark.parametrize("name", tsz.list_models())
def test_all_exports_are_taken(name: str) -> None:
    model = tiny(name)
    size = model.input_rule.fixed or "dynamic"
    for options in (
        {"output": "labels+confidence"},
        {"output": "logits", "precision": "fp16", "layout": "nchw"},
        {"layout": "float", "size": model.input_rule.fixed or (96, 160)},
    ):
        proto = onnx_model(model, **{"size": size, **options})  # type: ignore[arg-type]
        assert check_operators(proto) == [], options
