"""int8 in ONNX graphs: what is quantised, how, and that labels stay right."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo import runtime
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.data.datasets.drawn import DrawnStreets, draw_street
from torchseg_zoo.errors import ArgumentError, DataError, ExportError, MissingExtraError
from torchseg_zoo.export.onnx import export_onnx, onnx_model
from torchseg_zoo.export.operators import check_operators
from torchseg_zoo.export.parity import Parity, SizeParity, compare
from torchseg_zoo.export.quantize import Int8For, Spread, float_convolutions, quantized
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime import openvino as openvino_runtime
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact

SIZE = (120, 160)
STREETS = DrawnStreets(4, seed=11, size=SIZE)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid").eval()


@pytest.fixture(scope="module")
def traced(model: SegmentationModel) -> tuple[onnx.ModelProto, Artefact]:
    """The graph in float32, and what it is to say of itself."""
    plain = onnx_model(model)
    (record,) = [entry.value for entry in plain.metadata_props if entry.key == METADATA_KEY]
    about = replace(Artefact.from_json(record, "graph"), precision="int8")
    del plain.metadata_props[:]
    return plain, about


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, traced: tuple[onnx.ModelProto, Artefact]
) -> dict[str, Path]:
    """A file for each whom the integers are chosen for."""
    plain, about = traced
    folder = tmp_path_factory.mktemp("int8")
    paths = {}
    for whom in get_args(Int8For):
        proto = quantized(plain, about, STREETS, batch=1, int8_for=whom)
        proto.metadata_props.add(key=METADATA_KEY, value=about.to_json())
        paths[whom] = folder / f"{whom}.onnx"
        onnx.save(proto, paths[whom])
    return paths


@pytest.mark.parametrize("whom", get_args(Int8For))
def test_labels_stay_right_on_every_runtime(
    exported: dict[str, Path], model: SegmentationModel, whom: str
) -> None:
    held_out = DrawnStreets(3, seed=12, size=(150, 201))
    for name in ("onnx", "openvino"):
        runner = runtime.load(exported[whom], runtime=name, threads=1)
        assert runner.artefact.precision == "int8"
        parity = compare(model, runner, sizes=[(97, 131), (240, 320)], dataset=held_out)
        assert parity.holds
        assert parity.tolerance is None
        assert parity.miou_percent is not None
        before, after = parity.miou_percent
        assert before > 20
        assert after >= before - 1
        assert all(entry.equal > 0.85 for entry in parity.sizes)


@pytest.mark.filterwarnings("ignore:OpenVINO computes")  # as 2026.4 does; a later one need not
def test_openvino_labels_what_it_would_sum_wrongly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = tsz.create_model("deeplabv3_r50", num_classes=7, backbone="resnet10t").eval()
    calibration = DrawnStreets(4, size=(96, 160))
    path = export_onnx(wide, tmp_path / "wide.onnx", precision="int8", calibration=calibration)
    found = [runtime.load(path, runtime=name, threads=1) for name in ("onnx", "openvino")]
    for index in range(3):
        right, labels = (runner.labels(calibration[index].image) for runner in found)
        assert np.mean(labels == right) > 0.98


def test_openvino_says_when_it_leaves_the_integers(
    exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = STREETS[0].image
    with_integers = runtime.load(exported["cpu"], runtime="openvino", threads=1).labels(picture)
    monkeypatch.setattr(openvino_runtime, "_LEAST_EQUAL", 1.1)
    with pytest.warns(UserWarning, match=r"cpu\.onnx wrongly on 8-bit .* computed in float32"):
        runner = runtime.load(exported["cpu"], runtime="openvino", threads=1)
    assert 0.98 < np.mean(runner.labels(picture) == with_integers) < 1


def test_everything_is_as_tensorrt_takes_it(exported: dict[str, Path]) -> None:
    proto = onnx.load(exported["tensorrt"])
    assert check_operators(proto) == []
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
    }
    pairs = [
        node for node in proto.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert len(pairs) > 40
    for node in pairs:
        zero_point, scale = constants[node.input[2]], constants[node.input[1]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert (scale > 0).all()
    made_by = {output: node for node in proto.graph.node for output in node.output}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    whole = [
        node
        for node in convolutions
        if node.input[1] in made_by and made_by[node.input[1]].op_type == "DequantizeLinear"
    ]
    for node in whole:
        weights = made_by[node.input[1]]
        assert constants[weights.input[0]].dtype == np.int8
        # One scale for each output channel, which are the weights' first axis.
        assert constants[weights.input[1]].shape == constants[weights.input[0]].shape[:1]
        assert made_by[node.input[0]].op_type == "DequantizeLinear"
        if len(node.input) > 2:
            assert constants[node.input[2]].dtype == np.float32
    # The picture's, the logits', and those of six gates of attention are left as they were.
    assert 3 <= len(convolutions) - len(whole) <= 12
    assert convolutions[0] not in whole


def test_what_is_for_cpus_is_not_for_tensorrt(exported: dict[str, Path]) -> None:
    findings = check_operators(onnx.load(exported["cpu"]))
    assert "quantizes to UINT8" in str(findings)


def test_the_files_are_small(exported: dict[str, Path], model: SegmentationModel) -> None:
    whole = 4 * sum(parameter.numel() for parameter in model.parameters())
    for path in exported.values():
        assert path.stat().st_size < 0.45 * whole


def graph_of(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    return helper.make_graph(nodes, "graph", values[:1], values[1:])


def node(kind: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], f"{kind}_{output}")


def test_which_convolutions_stay_float() -> None:
    graph = graph_of(
        [
            node("Mul", "x scale", "a"),
            node("Conv", "a w", "b"),  # the first
            node("Sigmoid", "b", "s"),
            node("Mul", "b s", "c"),  # SiLU
            node("Conv", "c w", "d"),
            node("Sigmoid", "d", "t"),
            node("Mul", "t d", "e"),  # again
            node("Conv", "e w", "f"),
            node("GlobalAveragePool", "f", "g"),
            node("Conv", "g w", "h"),  # a gate
            node("Sigmoid", "h", "i"),
            node("Mul", "f i", "j"),
            node("Shape", "x", "size"),
            node("Resize", "j roi scales size", "k"),
            node("Conv", "k w", "l"),  # merely resized to the picture's size
            node("Conv", "l w", "m"),  # the last
            node("Resize", "m roi scales size", "y"),
        ]
    )
    assert float_convolutions(graph) == {"Conv_b", "Conv_h", "Conv_m"}


def test_a_spread_takes_pictures_from_all_of_a_set() -> None:
    assert [*Spread(list(range(10)), 4)] == [0, 2, 5, 7]
    assert [*Spread(list(range(3)), 9)] == [0, 1, 2]
    with pytest.raises(ArgumentError, match="0 is no number of pictures"):
        Spread([1], 0)


@pytest.mark.parametrize("calibration", [None, [], Spread([], 5)])
def test_a_set_without_pictures(
    model: SegmentationModel, tmp_path: Path, calibration: list[object] | None
) -> None:
    with pytest.raises(ExportError, match=r"needs pictures.*--calibration DATA"):
        export_onnx(model, tmp_path / "m.onnx", precision="int8", calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_pictures_that_cannot_be_read_and_precisions_that_need_none(
    model: SegmentationModel, traced: tuple[onnx.ModelProto, Artefact], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    plain, about = traced
    with pytest.raises(DataError, match=r"bad\.png"):
        quantized(plain, about, [tmp_path / "bad.png"], batch=1)
    with pytest.raises(ArgumentError, match="fp16 needs no calibration"):
        onnx_model(model, precision="fp16", calibration=[draw_street(0, SIZE)[0]])


@pytest.mark.parametrize(
    ("tolerance", "miou", "allowed", "refusal"),
    [
        (None, (60.0, 59.5), 1.0, None),
        (None, (60.0, 58.9), 1.0, "mIoU falls by more than 1 points"),
        (None, (60.0, float("nan")), 1.0, "mIoU falls by more than 1 points"),
        (0.9, (60.0, 60.0), 1.0, "labels differ by more than 10 % of the pixels"),
        (0.8, (60.0, 50.0), None, None),
    ],
)
def test_what_a_proof_counts(
    tolerance: float | None,
    miou: tuple[float, float],
    allowed: float | None,
    refusal: str | None,
) -> None:
    size = SizeParity((8, 8), 0.85, 1.0, None)
    parity = Parity("Runner", "int8", (size,), tolerance, 4, miou, allowed)
    assert parity.refusal == refusal
    assert parity.holds == (refusal is None) == parity.to_dict()["holds"]


def test_on_the_command_line_for_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # also where it is installed
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(2):
        Image.fromarray(draw_street(index, SIZE)[0]).save(pictures / f"{index}.png")
    command = ["export", "--format", "tensorrt", "-o", str(tmp_path / "m.engine")]
    command += ["--size", "96x128", "--precision", "int8"]
    assert main(command) == ExportError.exit_code
    assert "--calibration DATA" in capsys.readouterr().err
    command += ["--calibration", str(pictures), "--data", "drawn", "--pictures", "1"]
    # Two pictures are few.
    assert main([*command, "--miou-tolerance", "20"]) == MissingExtraError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "m.onnx is written and proven, but its engine is not built" in line
    assert "pip install 'torchseg-zoo[tensorrt]'" in line
    assert not (tmp_path / "m.engine").exists()
    proof = json.loads((tmp_path / "m.onnx.parity.json").read_text())["runtimes"]["onnx"]
    assert proof["precision"] == "int8"
    assert proof["miou_tolerance"] == 20
    assert proof["tolerance"] is None
    for options, words in (
        (["--calibration", str(pictures)], "--calibration and --int8-for go with --precision int8"),
        (["--miou-tolerance", "1"], "--miou-tolerance goes with --data"),
        (["--format", "tensorrt"], "needs either --size HxW or --profile"),
        (["--profile", "1x1,2x2,3x3"], "--profile goes with --format tensorrt"),
    ):
        with pytest.raises(SystemExit):
            main(["export", *options])
        assert words in capsys.readouterr().err


@pytest.mark.soak
def test_what_int8_costs_on_camvid(model: SegmentationModel, tmp_path: Path) -> None:
    data = os.environ["TORCHSEG_ZOO_CAMVID"]
    calibration = Spread(open_dataset(data, "train", model.labels), 128)
    held_out = open_dataset(data, "val", model.labels)
    for whom in get_args(Int8For):
        path = tmp_path / f"{whom}.onnx"
        export_onnx(model, path, precision="int8", calibration=calibration, int8_for=whom)
        for name in ("onnx", "openvino"):
            parity = compare(model, runtime.load(path, runtime=name), dataset=held_out)
            assert parity.holds, parity.describe()
            assert parity.pictures == 101
