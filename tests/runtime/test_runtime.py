"""Running exported files, without torch, and what happens to files that are not right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from clean_environment import WITHOUT_TORCH, link_libraries
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo import runtime
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import (
    ArgumentError,
    ExportError,
    InputShapeError,
    IntegrityError,
    MissingExtraError,
)
from torchseg_zoo.export.onnx import export_onnx
from torchseg_zoo.export.parity import Parity, SizeParity, compare, prove
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.proof import proof_path

PACKAGE = Path(tsz.__file__).parent


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid").eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model: SegmentationModel) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    return export_onnx(model, path, output="labels+confidence", name="bisenet_x39.camvid")


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    return path


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_every_runtime_gives_the_models_labels(
    exported: Path, model: SegmentationModel, name: str
) -> None:
    runner = runtime.load(exported, runtime=name, threads=1)
    parity = compare(model, runner)
    assert parity.holds and all(entry.equal_clear == 1 for entry in parity.sizes)
    picture, _ = draw_street(3, (100, 140))
    got, wanted = runner(picture), tsz.predict(model, picture)
    np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-4)
    assert got.shares == wanted.shares
    assert runner.artefact.checkpoint == "bisenet_x39.camvid"


def test_a_box_without_torch_labels_a_street(
    exported: Path, model: SegmentationModel, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    link_libraries(WITHOUT_TORCH, site)
    (site / "torchseg_zoo").symlink_to(PACKAGE)
    picture, _ = draw_street(8, (120, 160))
    Image.fromarray(picture).save(tmp_path / "street.png")
    script = f"""
import sys
sys.path.insert(0, {str(site)!r})
try:
    import torch
except ImportError:
    pass
else:
    raise SystemExit("there is torch")
from torchseg_zoo import runtime
model = runtime.load({str(exported)!r})
prediction = model.predict({str(tmp_path / "street.png")!r})
prediction.save_labels({str(tmp_path / "labels.png")!r})
prediction.save({str(tmp_path / "overlay.png")!r})
print(prediction.to_dict()["shares"], sorted(m for m in sys.modules if m in ("timm", "torch")))
"""
    # -I and -S: neither this environment's packages nor the caller's variables.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("[]")
    with Image.open(tmp_path / "labels.png") as labels:
        np.testing.assert_array_equal(np.asarray(labels), tsz.predict(model, picture).labels)
    assert (tmp_path / "overlay.png").stat().st_size > 1000


def test_fixed_sizes_are_kept_or_resized(tmp_path: Path, model: SegmentationModel) -> None:
    path = export_onnx(model, tmp_path / "fixed.onnx", size=(96, 128))
    picture, _ = draw_street(2, (96, 128))
    runner = runtime.load(path)
    np.testing.assert_array_equal(runner.labels(picture), tsz.predict(model, picture).labels)
    larger, _ = draw_street(2, (192, 256))
    with pytest.raises(InputShapeError, match="192×256 but the file takes 96×128 only"):
        runner.predict(larger)
    labels = runtime.load(path, resize=True).labels(larger)
    assert labels.shape == (192, 256)
    assert (labels == tsz.predict(model, larger).labels).mean() > 0.7
    with pytest.raises(ExportError, match="without confidence"):
        _ = runner.predict(picture).confidence


def test_files_that_cannot_be_run(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such file"):
        runtime.load(tmp_path / "none.onnx")
    with pytest.raises(ExportError, match="no exported model by its ending"):
        runtime.load(tmp_path / "model.bin")
    with pytest.raises(ExportError, match=r"holds 0 \.xml files"):
        runtime.load(tmp_path)
    with pytest.raises(ExportError, match="no runtime 'abacus'"):
        runtime.load(copy, runtime="abacus")
    with pytest.raises(ArgumentError, match="cuda"):
        runtime.load(copy, device="cuda")
    whole = copy.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 100):
        copy.write_bytes(whole[:size])
        for name in ("onnx", "openvino"):
            with pytest.raises(ExportError, match=r"model\.onnx"):
                runtime.load(copy, runtime=name)
    foreign = onnx.load_model_from_string(whole)
    del foreign.metadata_props[:]
    copy.write_bytes(foreign.SerializeToString())
    with pytest.raises(ExportError, match="was not exported by torchseg-zoo"):
        runtime.load(copy)
    foreign.metadata_props.add(key="torchseg_zoo", value=json.dumps({"format": 99}))
    copy.write_bytes(foreign.SerializeToString())
    with pytest.raises(ExportError, match="cannot be read by this version"):
        runtime.load(copy)


def test_external_weights_are_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    model = onnx.load(copy)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    copy.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="keeps weights in other files"):
        runtime.load(copy)


def test_an_edited_file_is_not_the_one_that_was_proven(copy: Path) -> None:
    good = SizeParity((8, 8), 1.0, 1.0, None)
    proof = prove(copy, {"onnx": Parity("OnnxRunner", "fp32", (good,), 0.999)})
    assert proof == proof_path(copy) and json.loads(proof.read_text())["runtimes"]["onnx"]["holds"]
    runtime.load(copy)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=r"not the file that its parity\.json was made for"):
        runtime.load(copy)
    proof.write_text("{}")
    with pytest.raises(ExportError, match="proof beside it cannot be read"):
        runtime.load(copy)


def test_a_file_that_labels_otherwise_has_no_proof(copy: Path, model: SegmentationModel) -> None:
    other = tsz.bisenet_x39(num_classes=11).eval()
    parity = compare(other, runtime.load(copy), sizes=[(64, 64)])
    assert not parity.holds
    with pytest.raises(ExportError, match="labels differ"):
        prove(copy, {"onnx": parity})


@pytest.mark.parametrize(("name", "extra"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_is_named(copy: Path, name: str, extra: str) -> None:
    script = (
        f"import sys; sys.modules[{extra!r}] = None\n"
        "from torchseg_zoo import runtime\n"
        f"runtime.load({str(copy)!r}, runtime={name!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    assert MissingExtraError.__name__ in done.stderr and f"pip install {extra}" in done.stderr
