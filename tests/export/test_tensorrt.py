"""TensorRT's part, on a stand-in that takes documented calls only; see ``fake_tensorrt``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tensorrt import MAGIC, HostDevice, TensorFormat, tensorrt

import torchseg_zoo as tsz
from torchseg_zoo import runtime
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import (
    ArgumentError,
    CacheError,
    ExportError,
    InputShapeError,
    IntegrityError,
    MissingExtraError,
)
from torchseg_zoo.export import tensorrt as trt_export
from torchseg_zoo.export.engine_cache import EngineCache
from torchseg_zoo.export.onnx import export_onnx
from torchseg_zoo.export.tensorrt import SizeRange
from torchseg_zoo.export.tensorrt_build import BuildOptions, build
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.engine import TensorRTModel, open_engine
from torchseg_zoo.runtime.inspected import Inspected
from torchseg_zoo.runtime.trust import record_path

VERSION = "11.1.0.106"
RANGE = SizeRange((48, 64), (96, 128), (160, 200))


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid").eval()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def graph(model: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of any size."""
    return export_onnx(model, tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.fixture(scope="module")
def kept(model: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> TensorRTModel:
    """An engine of one size, straight from a model, in fp16."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        return trt_export.compile(
            model,
            size=(96, 128),
            device=HostDevice(),
            cache=EngineCache(folder / "cache"),
            trt=tensorrt(VERSION),
        )


@pytest.mark.parametrize("version", ["10.0.1", VERSION])
def test_an_engine_of_a_range_labels_as_the_model_does(
    model: SegmentationModel, graph: Path, version: str
) -> None:
    trt, device, told = tensorrt(version), HostDevice(), []
    compiled = trt_export.compile_onnx(
        graph,
        size=RANGE,
        workspace_bytes=1 << 30,
        device=device,
        trt=trt,
        progress=lambda *step: told.append(step),
    )
    (config,) = trt._built
    assert list(config._pools.values()) == [1 << 30]
    assert not config._flags  # fp32 is not TF32
    assert ("Timing", 0, 3) in told
    assert ("Timing", 3, 3) in told
    assert [(entry.name, entry.mode, entry.dtype) for entry in compiled.bindings] == [
        ("image", "input", "uint8"),
        ("labels", "output", "uint8"),
    ]
    for size in ((96, 128), (48, 64), (160, 200), (101, 75), (96, 128)):
        picture, _ = draw_street(size[0], size)
        expected = tsz.predict(model, picture)
        found = compiled.predict(picture)
        assert (found.labels == expected.labels).mean() > 0.999
        assert found.classes == expected.classes
    assert trt._contexts == device.graphs == 4  # one for each size, the first size's kept
    with pytest.raises(InputShapeError, match=r"takes uint8 1×48×64×3 to 1×160×200×3"):
        compiled.predict(draw_street(0, (161, 200))[0])


def test_a_context_for_no_more_than_four_sizes(graph: Path) -> None:
    trt, device = tensorrt(), HostDevice()
    compiled = trt_export.compile_onnx(graph, size=RANGE, device=device, trt=trt, cuda_graph=False)
    for height in (48, 56, 64, 72, 80, 48, 80):
        compiled.predict(draw_street(0, (height, 64))[0])
    assert trt._contexts == 6  # 48 had to make room for 80
    assert len(compiled._session._slots) == 4
    assert not device.graphs


def test_an_engine_tells_its_bindings_inputs_and_costs(graph: Path) -> None:
    inspected = Inspected(
        trt_export.compile_onnx(graph, size=RANGE, device=HostDevice(), trt=tensorrt())
    )
    assert [binding.describe() for binding in inspected.bindings] == [
        "input   image  (1 × any × any × 3)  uint8",
        "output  labels  (1 × any × any)  uint8",
    ]
    picture, _ = draw_street(5, (60, 80))
    inspected.labels(picture)
    assert inspected.statistics is not None
    assert inspected.statistics.largest == picture.max()
    assert inspected.statistics.std == pytest.approx(picture.std())
    assert inspected.cost is not None
    assert inspected.cost.execute_ms > 0


def test_a_model_is_compiled_for_one_size(model: SegmentationModel, kept: TensorRTModel) -> None:
    picture, _ = draw_street(1, (96, 128))
    assert (kept.labels(picture) == tsz.predict(model, picture).labels).mean() > 0.995
    assert kept.artefact.precision == "fp16"
    with pytest.raises(InputShapeError, match="96×128 only"):
        kept.predict(draw_street(1, (97, 128))[0])


def test_a_second_call_takes_the_engine_from_the_cache(graph: Path, tmp_path: Path) -> None:
    def build(trt: object, **changed: object) -> TensorRTModel:
        options = {"size": RANGE, "device": HostDevice()} | changed
        return trt_export.compile_onnx(graph, trt=trt, **options)  # type: ignore[arg-type]

    first = build(trt := tensorrt())
    assert (build(trt).sha256, len(trt._built)) == (first.sha256, 1)
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    build(trt, workspace_bytes=1 << 20)
    build(trt, device=HostDevice(gpu="Other GPU (sm_80)"))
    build(trt, device=HostDevice(driver="999.1"))
    assert len(trt._built) == 4
    build(newer := tensorrt("10.14"))
    assert len(newer._built) == 1
    # The second build on a machine starts from what the first one timed.
    assert trt._built[1]._timing._content == b"timing:.."
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="not as it was built here"):
        build(trt)
    assert len(trt._built) == 5
    build(trt)
    assert len(trt._built) == 5


def test_what_the_builder_refuses_is_said(graph: Path, tmp_path: Path) -> None:
    trt = tensorrt()
    trt._memory_is_short = True
    options = {"size": RANGE, "device": HostDevice(), "trt": trt}
    with pytest.raises(ExportError, match=r"cannot build this engine.*out of memory while timing"):
        trt_export.compile_onnx(graph, **options)  # type: ignore[arg-type]
    assert not list((tmp_path / "cache" / "engines").iterdir())
    trt._memory_is_short = False

    def stop(*step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trt_export.compile_onnx(graph, progress=stop, **options)  # type: ignore[arg-type]
    assert not list((tmp_path / "cache" / "engines").iterdir())
    with pytest.raises(ExportError, match=r"parser refuses the graph.*cannot parse"):
        build(trt, b"\xff" * 9, BuildOptions(None, True, None), b"", None)
    with pytest.raises(ArgumentError, match="no range of sizes"):
        SizeRange((64, 96), (32, 96), (64, 96))
    with pytest.raises(ArgumentError, match="0 bytes is no limit"):
        trt_export.compile_onnx(graph, **options, workspace_bytes=0)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="takes pictures of any size; give a SizeRange"):
        trt_export.compile_onnx(graph, device=HostDevice(), trt=trt)
    (tmp_path / "cut.onnx").write_bytes(graph.read_bytes()[:-3])
    with pytest.raises(ExportError, match=r"cut\.onnx: cannot be read as ONNX"):
        trt_export.compile_onnx(tmp_path / "cut.onnx", **options)  # type: ignore[arg-type]


def test_nothing_is_built_where_nothing_can_be_kept(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    trt = tensorrt()
    with pytest.raises(CacheError):
        trt_export.compile_onnx(
            graph,
            size=RANGE,
            device=HostDevice(),
            trt=trt,
            cache=EngineCache(tmp_path / "file" / "cache"),
        )
    assert not trt._built


def test_a_saved_engine_opens_again_for_its_builder_only(
    kept: TensorRTModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept.save(tmp_path / "model.engine")
    trt, device = tensorrt(VERSION), HostDevice()
    picture, _ = draw_street(3, (96, 128))
    opened = open_engine(path, device=device, trt=trt)
    assert np.array_equal(opened.labels(picture), kept.labels(picture))
    assert opened.label_set == kept.label_set

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    trt = tensorrt(VERSION)
    with pytest.raises(ExportError, match=r"was not built here.*--trust-engine"):
        open_engine(path, device=device, trt=trt)
    with pytest.raises(IntegrityError, match="not the engine that is trusted"):
        open_engine(path, device=device, trt=trt, trust_engine="0" * 64)
    with pytest.raises(ArgumentError, match="is no sha256"):
        open_engine(path, device=device, trt=trt, trust_engine="abc")
    assert not trt._deserialised
    opened = open_engine(path, device=device, trt=trt, trust_engine=kept.sha256.upper())
    assert np.array_equal(opened.labels(picture), kept.labels(picture))


def test_engines_of_other_machines_are_refused_before_they_run(
    kept: TensorRTModel, tmp_path: Path
) -> None:
    path = kept.save(tmp_path / "model.engine")
    trt = tensorrt(VERSION)
    with pytest.raises(ExportError, match=r"another GPU \(built for Some GPU \(sm_90\), here is"):
        open_engine(path, device=HostDevice(gpu="Other"), trt=trt)
    newer = tensorrt("11.2")
    with pytest.raises(ExportError, match=r"another TensorRT \(built for 11.1.0.106, here is 11.2"):
        open_engine(path, device=HostDevice(), trt=newer)
    assert not trt._deserialised + newer._deserialised


def test_changed_engines_never_reach_the_deserialiser(kept: TensorRTModel, tmp_path: Path) -> None:
    path = kept.save(tmp_path / "model.engine")
    whole, record = path.read_bytes(), record_path(path).read_text()
    trt, device = tensorrt(VERSION), HostDevice()
    generator = np.random.default_rng(0)
    for count in range(25):
        changed = bytearray(whole)
        if count % 3:
            changed[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        else:
            del changed[generator.integers(len(whole)) :]
        path.write_bytes(changed)
        with pytest.raises(IntegrityError):
            open_engine(path, device=device, trt=trt)
        # A record that fits is no proof either: its seal is not this user's.
        edited = json.loads(record) | {"sha256": hashlib.sha256(changed).hexdigest()}
        record_path(path).write_text(json.dumps(edited))
        with pytest.raises(ExportError, match="was not built here"):
            open_engine(path, device=device, trt=trt)
        record_path(path).write_text(record)
    record_path(path).write_text("{")
    with pytest.raises(ExportError, match="record of this engine cannot be read"):
        open_engine(path, device=device, trt=trt)
    assert not trt._deserialised


def test_an_engine_without_a_record_is_told_by_its_bindings(
    kept: TensorRTModel, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.engine"
    path.write_bytes(kept.save(tmp_path / "model.engine").read_bytes())
    options = {"device": HostDevice(), "trt": tensorrt(VERSION), "trust_engine": kept.sha256}
    with pytest.raises(ExportError, match="has no record of its classes"):
        open_engine(path, **options)  # type: ignore[arg-type]
    described = kept.artefact
    opened = open_engine(path, described=described, **options)  # type: ignore[arg-type]
    picture, _ = draw_street(3, (96, 128))
    assert np.array_equal(opened.labels(picture), kept.labels(picture))
    assert (opened.artefact.size, opened.artefact.layout) == ((96, 128), "nhwc")


def test_what_cannot_run_is_refused(kept: TensorRTModel, tmp_path: Path) -> None:
    path = kept.save(tmp_path / "model.engine")
    trt = tensorrt(VERSION)
    trt._io_format = TensorFormat.CHW4
    with pytest.raises(ExportError, match=r"'(image|labels)' is not plain memory"):
        open_engine(path, device=HostDevice(), trt=trt)
    short = tensorrt(VERSION)
    opened = open_engine(path, device=HostDevice(), trt=short)
    short._memory_is_short = True
    with pytest.raises(ExportError, match="no memory to run"):
        opened.predict(draw_street(0, (96, 128))[0])
    broken = tmp_path / "broken.engine"
    broken.write_bytes(b"not " + MAGIC)
    digest = hashlib.sha256(broken.read_bytes()).hexdigest()
    with pytest.raises(ExportError, match=r"cannot load this engine \(magicTag does not match"):
        open_engine(
            broken,
            device=HostDevice(),
            trt=tensorrt(VERSION),
            trust_engine=digest,
            described=kept.artefact,
        )
    with pytest.raises(ExportError, match=r"must end in \.engine"):
        kept.save(tmp_path / "model.trt")


def test_without_tensorrt_the_extra_is_named(kept: TensorRTModel, tmp_path: Path) -> None:
    path = kept.save(tmp_path / "model.engine")
    code = (
        "import sys; sys.modules['tensorrt'] = None\n"
        "from torchseg_zoo import runtime, errors\n"
        "try: runtime.load(sys.argv[1], trust_engine=sys.argv[2])\n"
        "except errors.MissingExtraError as error: print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path), kept.sha256],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "torchseg-zoo[tensorrt]" in done.stdout
    assert done.stdout.endswith("False\n")
    with pytest.raises(MissingExtraError, match=r"torchseg-zoo\[tensorrt\]"):
        trt_export.compile(tsz.bisenet_x39(num_classes=3))


def test_trust_is_for_engines(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ArgumentError, match="is no engine"):
        runtime.load(tmp_path / "model.onnx", trust_engine="0" * 64)


def test_without_a_gpu_that_is_said(
    model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # also where there is one
    with pytest.raises(ArgumentError, match="no CUDA GPU that torch can use"):
        trt_export.compile(model, trt=tensorrt(VERSION))


@pytest.mark.parametrize(
    ("sizes", "proven"),
    [
        (("--size", "96x128"), [[96, 128]]),
        (("--profile", "48x64,96x128,160x200"), [[48, 64], [96, 128], [160, 200]]),
    ],
)
def test_on_the_command_line_graph_and_engine_are_proven(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sizes: tuple[str, str],
    proven: list[list[int]],
) -> None:
    built = trt_export.compile_onnx

    def on_the_stand_in(graph: Path, **options: object) -> TensorRTModel:
        assert options.pop("device") == "cuda:0"
        assert (tmp_path / "mine.onnx.parity.json").is_file()  # the graph is proven before
        return built(graph, **{**options, "device": HostDevice(), "trt": tensorrt()})

    monkeypatch.setattr(trt_export, "compile_onnx", on_the_stand_in)
    monkeypatch.setattr("torchseg_zoo.devices.find_device", torch.device)
    path = tmp_path / "mine.engine"
    assert (
        main(["export", "--format", "tensorrt", *sizes, "--device", "cuda:0", "-o", str(path)]) == 0
    )
    out = capsys.readouterr().out
    assert hashlib.sha256(path.read_bytes()).hexdigest() in out
    proof = json.loads((tmp_path / "mine.engine.parity.json").read_text())
    (engine,) = proof["runtimes"]
    assert engine == "tensorrt"
    assert [entry["size"] for entry in proof["runtimes"][engine]["sizes"]] == proven
