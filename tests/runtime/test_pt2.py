"""PyTorch's .pt2 files: programs and compiled packages, their proof and whom they trust."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tensorrt import HostDevice
from torch import nn

import torchseg_zoo as tsz
from torchseg_zoo import runtime
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import (
    ArgumentError,
    DataError,
    ExportError,
    InputShapeError,
    IntegrityError,
    MissingExtraError,
)
from torchseg_zoo.export.parity import compare
from torchseg_zoo.export.pt2 import _POOLS_OF_ANY_SIZE, export_aoti, export_program
from torchseg_zoo.models.base import ModelConfig, SegmentationModel
from torchseg_zoo.models.config import InputRule
from torchseg_zoo.runtime.artefact import METADATA_KEY
from torchseg_zoo.runtime.pt2 import BUILT_FOR_KEY, Pt2Runner, built_for, open_runner
from torchseg_zoo.runtime.trust import record_path
from torchseg_zoo.types import SegOutput


class SmallNet(SegmentationModel):
    """Two convolutions: what compiles in seconds."""

    config_class = ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.classifier = nn.Conv2d(8, config.num_classes, 1)

    def head_logits(self, x: torch.Tensor, *, with_aux: bool) -> SegOutput:
        return SegOutput(self.classifier(self.stem(x).relu()), {})

    def classifiers(self) -> dict[str, nn.Conv2d]:
        return {"classifier": self.classifier}


@pytest.fixture(scope="module")
def small() -> SegmentationModel:
    torch.manual_seed(0)
    return SmallNet(ModelConfig("small", "none", num_classes=5)).eval()


@pytest.fixture(scope="module", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    yield patch
    patch.undo()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, small: SegmentationModel) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    return export_program(small, path, output="labels+confidence", name="small.test")


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    path.write_bytes(written.read_bytes())
    record_path(path).write_bytes(record_path(written).read_bytes())
    return path


def test_a_program_labels_as_the_model_does(written: Path, small: SegmentationModel) -> None:
    runner = runtime.load(written, device="cpu")
    parity = compare(small, runner)
    assert parity.holds and all(entry.equal_clear == 1 for entry in parity.sizes)
    picture, _ = draw_street(3, (101, 75))
    got, wanted = runner.predict(picture), tsz.predict(small, picture)
    np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-5)
    assert got.to_dict()["shares"] == wanted.to_dict()["shares"]
    assert (runner.artefact.checkpoint, runner.artefact.output) == (
        "small.test", "labels+confidence",
    )  # fmt: skip


def test_a_program_tells_nothing_of_the_machine(written: Path) -> None:
    with zipfile.ZipFile(written) as archive:
        texts = b"".join(map(archive.read, archive.namelist()))
    for word in (b"site-packages", b"torchseg_zoo/", str(Path.home()).encode() + b"/"):
        assert word not in texts


def test_on_the_command_line(
    small: SegmentationModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tsz.save_model(small, tmp_path / "small.safetensors")
    path = tmp_path / "m.pt2"
    command = ["export", "--format", "torch-export", "-c", str(tmp_path / "small.safetensors")]
    assert main([*command, "-o", str(path)]) == 0
    assert "Pt2Runner: labels equal on 100.000 %" in capsys.readouterr().out
    proof = json.loads((tmp_path / "m.pt2.parity.json").read_text())
    assert len(proof["runtimes"]["pt2"]["sizes"]) == 8
    assert runtime.load(path).predict(draw_street(0, (64, 96))[0]).to_dict().keys() == {
        "height", "width", "shares",
    }  # fmt: skip


def test_changed_files_are_never_opened(copy: Path) -> None:
    whole, record = copy.read_bytes(), record_path(copy).read_text()
    generator = np.random.default_rng(0)
    for count in range(24):
        changed = bytearray(whole)
        if count % 3:
            changed[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        else:
            del changed[generator.integers(len(whole)) :]
        copy.write_bytes(changed)
        with pytest.raises(IntegrityError, match="not the package that its record was written"):
            runtime.load(copy)
        # A record that fits is no proof either: its seal is not this user's.
        edited = json.loads(record) | {"sha256": hashlib.sha256(changed).hexdigest()}
        record_path(copy).write_text(json.dumps(edited))
        with pytest.raises(ExportError, match="was not built here"):
            runtime.load(copy)
        record_path(copy).write_text(record)


def harmful() -> bytes:
    """A program whose example inputs are a pickle that would make a file."""
    import pickle

    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (Path("harmed"),)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/archive_format", "pt2")
        archive.writestr("archive/archive_version", "0")
        archive.writestr("archive/extra/torchseg_zoo", "{}")
        archive.writestr("archive/models/model.json", "{}")
        archive.writestr("archive/data/sample_inputs/model.pt", pickle.dumps(Harm()))
    return buffer.getvalue()


def test_files_from_elsewhere_need_their_digest(
    copy: Path, small: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    record_path(copy).unlink()
    with pytest.raises(
        ExportError, match=r"was not built here, and opening a package.*--trust-package"
    ):
        runtime.load(copy)
    with pytest.raises(IntegrityError, match="not the package that is trusted"):
        runtime.load(copy, trust_package="0" * 64)
    with pytest.raises(ArgumentError, match="is no sha256"):
        runtime.load(copy, trust_package="abc")
    picture, _ = draw_street(1, (64, 96))
    trusted = runtime.load(copy, trust_package=digest.upper(), device="cpu")
    assert np.array_equal(trusted.labels(picture), tsz.predict(small, picture).labels)
    with pytest.raises(ArgumentError, match="is no engine"):
        runtime.load(copy, trust_engine=digest)
    monkeypatch.chdir(tmp_path)
    copy.write_bytes(harmful())
    with pytest.raises(ExportError, match="was not built here"):
        runtime.load(copy)
    assert not (tmp_path / "harmed").exists()


def test_trusted_files_that_cannot_be_read(copy: Path) -> None:
    def refused(content: bytes) -> str:
        record_path(copy).unlink(missing_ok=True)
        copy.write_bytes(content)
        with pytest.raises(ExportError) as caught:
            runtime.load(copy, device="cpu", trust_package=hashlib.sha256(content).hexdigest())
        return str(caught.value)

    whole = copy.read_bytes()
    assert "cannot be read as .pt2" in refused(whole[: len(whole) // 2])
    assert "was not exported by torchseg-zoo" in refused(without(whole, "extra/torchseg_zoo"))
    assert "PyTorch cannot load it" in refused(without(whole, "models/model.json"))


def without(content: bytes, entry: str) -> bytes:
    """The archive less one entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            if name.partition("/")[2] != entry:
                new.writestr(name, old.read(name))
    return buffer.getvalue()


def test_sizes_are_kept(small: SegmentationModel, tmp_path: Path) -> None:
    path = export_program(small, tmp_path / "m.pt2", size=(64, 96), layout="float")
    picture, _ = draw_street(1, (64, 96))
    runner = runtime.load(path, device="cpu", threads=1)
    assert np.array_equal(runner.labels(picture), tsz.predict(small, picture).labels)
    with pytest.raises(InputShapeError, match="50×60 but the file takes 64×96 only"):
        runner.predict(draw_street(1, (50, 60))[0])
    with pytest.raises(InputShapeError, match="cannot compute float32 1×3×50×60"):
        runner.run(np.zeros((1, 3, 50, 60), np.float32))


def test_what_cannot_be_exported(small: SegmentationModel, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    with pytest.raises(ExportError, match=r"must end in \.pt2"):
        export_program(small, tmp_path / "m.pt")
    for export in (export_program, export_aoti):
        with pytest.raises(ExportError, match="export int8 to ONNX"):
            export(small, path, precision="int8")
    with pytest.raises(ExportError, match="fp16 many times slower"):
        export_aoti(small, path, precision="fp16", device="cpu")
    with pytest.raises(ArgumentError, match="cannot be used here"):
        export_aoti(small, path, device="abacus")
    fixed = SmallNet(ModelConfig("small", "none", num_classes=5))
    fixed.input_rule = tsz.create_model("psanet_r50", backbone="resnet10t").input_rule
    with pytest.raises(ExportError, match="works at 480×480 only"):
        export_program(fixed, path)
    assert not list(tmp_path.iterdir())


def test_without_a_compiler_nothing_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    done = subprocess.run(
        [sys.executable, "-m", "torchseg_zoo", "export", "--format", "aoti", "-o", str(path)],
        capture_output=True, text=True, check=False, env={"PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == MissingExtraError.exit_code
    (line,) = done.stderr.splitlines()
    assert "needs a C++ compiler" in line
    assert "install g++" in line
    assert not path.exists()


def test_a_disk_that_fills_leaves_the_old_files(
    copy: Path, small: SegmentationModel, tmp_path: Path
) -> None:
    old = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(DataError, match=r"model\.pt2: cannot be written"):
            export_program(small, copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == old


def test_a_graph_is_recorded_once_and_replayed(small: SegmentationModel, written: Path) -> None:
    """What a GPU would do, on a stand-in whose graphs just do the work again."""
    from torchseg_zoo.runtime.artefact import Artefact

    record = json.loads(record_path(written).read_text())["artefact"]
    told = json.loads(record) | {"size": [64, 96]}
    artefact = Artefact.from_json(json.dumps(told), written)
    program = torch.export.load(io.BytesIO(written.read_bytes())).module()
    for cuda_graph in (True, False):
        device = HostDevice()
        runner = Pt2Runner(
            written,
            artefact,
            program,
            device=device,
            cuda_graph=cuda_graph,  # type: ignore[arg-type]
        )
        for seed in range(3):
            picture, _ = draw_street(seed, (64, 96))
            got, wanted = runner.predict(picture), tsz.predict(small, picture)
            assert np.array_equal(got.labels, wanted.labels)
            np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-5)
        assert device.graphs == cuda_graph


def package(written: Path, tied: dict[str, str]) -> bytes:
    """A package by its metadata, whose library would make the loader fail."""
    told = {
        METADATA_KEY: json.loads(record_path(written).read_text())["artefact"],
        BUILT_FOR_KEY: json.dumps(tied),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/archive_format", "pt2")
        archive.writestr("archive/archive_version", "0")
        archive.writestr("archive/data/aotinductor/model/x.wrapper_metadata.json", json.dumps(told))
        archive.writestr("archive/data/aotinductor/model/x.wrapper.so", "no library")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "other"), [("PyTorch", "2.9.9"), ("system", "darwin arm64"), ("CPU", "AVX10")]
)
def test_packages_for_another_machine_are_refused(
    written: Path, tmp_path: Path, name: str, other: str
) -> None:
    path = tmp_path / "m.pt2"
    here = built_for("cpu")
    content = package(written, here | {name: other})
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(ExportError, match=rf"another {name} \(built for {other}, here is "):
        runtime.load(path, trust_package=digest)
    with pytest.raises(ArgumentError, match="it was compiled for the CPU"):
        runtime.load(path, trust_package=digest, device="cuda")


def test_a_package_that_cannot_be_linked(written: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    content = package(written, built_for("cpu"))
    path.write_bytes(content)
    with pytest.raises(ExportError, match="PyTorch cannot load it"):
        runtime.load(path, trust_package=hashlib.sha256(content).hexdigest())


@pytest.mark.soak
def test_a_compiled_package(small: SegmentationModel, tmp_path: Path) -> None:
    path = export_aoti(small, tmp_path / "m.pt2", device="cpu", name="small.test")
    runner = runtime.load(path)
    for size in ((64, 96), (81, 57)):
        picture, _ = draw_street(size[0], size)
        found, expected = runner.labels(picture), tsz.predict(small, picture).labels
        assert (found == expected).mean() > 0.999
    assert runner.artefact.checkpoint == "small.test"
    assert json.loads(record_path(path).read_text())["built_for"] == built_for("cpu")


class RoundingNet(SmallNet):
    """As timm's convolutions that pad to whole strides: sizes are rounded up."""

    def head_logits(self, x: torch.Tensor, *, with_aux: bool) -> SegOutput:
        height, width = (math.ceil(side / 3) * 3 - side for side in x.shape[-2:])
        return super().head_logits(nn.functional.pad(x, (0, width, 0, height)), with_aux=with_aux)


def test_models_that_pad(tmp_path: Path) -> None:
    """Traced at a size that needs no padding, and run at others."""
    model = RoundingNet(ModelConfig("rounding", "none", num_classes=5)).eval()
    model.input_rule = InputRule(multiple=32)
    runner = runtime.load(export_program(model, tmp_path / "m.pt2"), device="cpu")
    parity = compare(model, runner, sizes=[(33, 65), (64, 96), (96, 100)])
    assert all(entry.equal_clear == 1 for entry in parity.sizes)


class Pools(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        functional = nn.functional
        return (
            functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False),
            functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
            functional.max_pool2d(x, 3, 2, 1),
            functional.avg_pool2d(x, 3, 1, 1),
        )


def test_pools_that_round_up_are_written_out() -> None:
    """Inductor would compile them for sizes like the traced one only."""
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Pools(), (torch.zeros(1, 3, 16, 24),), dynamic_shapes=(sides,))
    program = program.run_decompositions(_POOLS_OF_ANY_SIZE)
    for node in program.graph.nodes:
        assert not any(arg is True for arg in node.args), node  # ceil_mode
    for height, width in itertools.product(range(5, 11), range(12, 15)):
        x = torch.randn(1, 3, height, width)
        for found, expected in zip(program.module()(x), Pools()(x), strict=True):
            torch.testing.assert_close(found, expected)


class WidePoolNet(SmallNet):
    def head_logits(self, x: torch.Tensor, *, with_aux: bool) -> SegOutput:
        pooled = nn.functional.avg_pool2d(x, 3, 2, ceil_mode=True)
        return super().head_logits(pooled, with_aux=with_aux)


def test_other_pools_that_round_up_are_not_compiled_for_any_size(tmp_path: Path) -> None:
    model = WidePoolNet(ModelConfig("wide", "none", num_classes=5)).eval()
    with pytest.raises(ExportError, match=r"wide: has a pooling .* compile it for one size"):
        export_aoti(model, tmp_path / "m.pt2", device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.soak
def test_every_family_compiled(tmp_path: Path) -> None:
    """At sizes of every remainder by 8; the size that is traced is a multiple of 32."""
    sizes = [(89 + remainder, 128 - remainder) for remainder in range(8)]
    for name in ("bisenet_r18", "fcn_r50", "ocnet_base_r101", "deeplabv3plus_r50"):
        model = tsz.create_model(name, num_classes=7, backbone="resnet10t").eval()
        runner = runtime.load(export_aoti(model, tmp_path / "m.pt2", device="cpu"))
        parity = compare(model, runner, sizes=sizes)
        assert parity.holds, name
        assert all(entry.equal_clear == 1 for entry in parity.sizes), name


@pytest.mark.soak
def test_every_family_as_a_program(tmp_path: Path) -> None:
    with torch.device("meta"):
        kinds = {type(tsz.create_model(name)): name for name in tsz.list_models()}
    for name in kinds.values():
        backbone = {} if name.startswith("denseaspp") else {"backbone": "resnet10t"}
        model = tsz.create_model(name, num_classes=7, **backbone).eval()
        size = model.input_rule.fixed or "dynamic"
        parity = compare(model, runtime.load(export_program(model, tmp_path / "m.pt2", size=size)))
        assert parity.holds, name
        assert all(entry.equal_clear == 1 for entry in parity.sizes), name


@pytest.mark.soak
@pytest.mark.parametrize("size", ["dynamic", (96, 128)])
def test_the_embedded_model_compiled(size: tuple[int, int] | str, tmp_path: Path) -> None:
    model = tsz.bisenet_x39(pretrained="camvid").eval()
    path = export_aoti(model, tmp_path / "m.pt2", size=size, device="cpu")  # type: ignore[arg-type]
    parity = compare(model, runtime.load(path))
    assert parity.holds and all(entry.equal_clear == 1 for entry in parity.sizes)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_with_a_graph(precision: str, tmp_path: Path) -> None:
    model = tsz.bisenet_x39(pretrained="camvid").eval()
    for export in (export_program, export_aoti):
        path = export(model, tmp_path / "m.pt2", size=(96, 128), precision=precision)  # type: ignore[arg-type]
        for cuda_graph in (True, False):
            runner = open_runner(
                path, device="cuda", threads=None, resize=False, cuda_graph=cuda_graph
            )
            assert compare(model, runner).holds
