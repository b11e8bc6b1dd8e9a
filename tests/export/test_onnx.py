"""Exported ONNX files against the models they were made of."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import torchseg_zoo as tsz
from torchseg_zoo import runtime
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import ExportError
from torchseg_zoo.export.onnx import export_onnx, logits_model, onnx_model
from torchseg_zoo.export.parity import SIZES, compare
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.onnx import OnnxRunner, open_session

TOOL = Path(__file__).parents[2] / "tools" / "parity_table.py"
FAMILIES: tuple[str, ...] = runpy.run_path(str(TOOL))["FAMILIES"]  # a graph of each kind


def tiny(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    backbone = {} if name.startswith("denseaspp") else {"backbone": "resnet10t"}
    return tsz.create_model(name, num_classes=7, **backbone).eval()


@pytest.fixture(scope="module")
def embedded() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid").eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_at_eight_sizes(tmp_path: Path, name: str) -> None:
    model = tiny(name)
    path = tmp_path / "model.onnx"
    fixed = model.input_rule.fixed
    if fixed is not None:
        with pytest.raises(ExportError, match=f"works at {fixed[0]}×{fixed[1]} only"):
            export_onnx(model, path)
    export_onnx(model, path, size=fixed or "dynamic")
    content = path.read_bytes()
    session = open_session(logits_model(content), path, device="cpu", threads=1)
    parity = compare(model, runtime.load(path, threads=1), logits_runner=OnnxRunner(path, session))
    assert parity.holds
    assert len(parity.sizes) == (1 if fixed else len(SIZES))
    for entry in parity.sizes:
        assert entry.equal_clear == 1
        assert entry.logit_difference is not None and entry.logit_difference < 1e-4
    domains = {domain.domain for domain in onnx.load_model_from_string(content).opset_import}
    assert domains == {""}, "operators that are not of the standard"


def test_there_is_an_export_of_every_family() -> None:
    with torch.device("meta"):
        kinds = {name: type(tsz.create_model(name)) for name in tsz.list_models()}
    assert {kinds[name] for name in FAMILIES} == set(kinds.values())


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "float"])
def test_layouts_and_outputs(tmp_path: Path, embedded: SegmentationModel, layout: str) -> None:
    picture, _ = draw_street(4, (90, 121))
    wanted = tsz.predict(embedded, picture)
    path = tmp_path / "m.onnx"
    output = "logits" if layout == "float" else "labels+confidence"
    export_onnx(embedded, path, layout=layout, output=output, batch="dynamic")  # type: ignore[arg-type]
    model = runtime.load(path)
    got = model.predict(picture)
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-4)
    assert got.classes == wanted.classes
    assert got.label_set.palette == wanted.label_set.palette
    # Several pictures at a time give what each gives alone.
    one = model.batch(picture)
    many = model.run(np.concatenate([one, one[:, ::-1], one]))
    for alone, together in zip(model.run(one), many, strict=True):
        np.testing.assert_allclose(together[2], alone[0], atol=1e-4)
        assert together.shape[0] == 3


def test_half_precision_is_half_the_file(tmp_path: Path, embedded: SegmentationModel) -> None:
    full, half = tmp_path / "full.onnx", tmp_path / "half.onnx"
    export_onnx(embedded, full)
    export_onnx(embedded, half, precision="fp16")
    assert half.stat().st_size < 0.55 * full.stat().st_size
    parity = compare(embedded, runtime.load(half), sizes=[(97, 131), (240, 320)])
    assert parity.tolerance == 0.995 and parity.holds
    graph = onnx.load(half).graph
    kinds = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_normalisation_at_padded_borders(tmp_path: Path) -> None:
    """DFN pads to multiples of 32: with zeros after normalisation, as ``predict`` does."""
    model = tiny("dfn_r101")
    model.preprocess = dataclasses.replace(model.preprocess, mean=(0.9, 0.1, 0.5))
    path = export_onnx(model, tmp_path / "m.onnx")
    parity = compare(model, runtime.load(path), sizes=[(33, 65), (70, 95)])
    assert all(entry.equal_clear == 1 for entry in parity.sizes)


def test_files_repeat_and_tell_nothing_of_the_machine(embedded: SegmentationModel) -> None:
    first, second = (onnx_model(embedded, size=(64, 96)) for _ in range(2))
    content = first.SerializeToString(deterministic=True)
    assert content == second.SerializeToString(deterministic=True)
    for word in (b"site-packages", b"torchseg_zoo/", str(Path.home()).encode() + b"/"):
        assert word not in content
    (image,) = first.graph.input
    assert [axis.dim_value for axis in image.type.tensor_type.shape.dim] == [1, 64, 96, 3]


def test_what_cannot_be_exported(tmp_path: Path, embedded: SegmentationModel) -> None:
    with pytest.raises(ExportError, match=r"must end in \.onnx"):
        export_onnx(embedded, tmp_path / "m.bin")
    with pytest.raises(ExportError, match="no size"):
        export_onnx(embedded, tmp_path / "m.onnx", size=(0, 5))
    resized = tsz.bisenet_x39(pretrained="camvid")
    resized.preprocess = dataclasses.replace(resized.preprocess, resize=(64, 64))
    with pytest.raises(ExportError, match="resizes every picture"):
        export_onnx(resized, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
    assert not embedded.fused
