"""``torchseg-zoo infer`` as a process, on ONNX Runtime; and how it refuses engines."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import ExportError, IntegrityError, MissingExtraError
from torchseg_zoo.export.onnx import export_onnx
from torchseg_zoo.runtime.inspected import Inspected


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    model = tsz.bisenet_x39(pretrained="camvid")
    return export_onnx(model, path, size=(64, 96), layout="float")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate([(64, 96), (50, 70)]):
        Image.fromarray(draw_street(index, size)[0]).save(folder / f"{index}.png")
    return folder


def test_a_folder_on_onnx_runtime(graph: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "bad.png").write_bytes(b"no picture")
    code = "import sys; from torchseg_zoo.cli import main; code = main(sys.argv[1:]); "
    code += "print('torch' in sys.modules); sys.exit(code)"
    arguments = ["infer", str(pictures), "--onnx", str(graph), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r"torchseg-zoo: DataError: .*bad\.png.*\n", done.stderr)
    lines = done.stdout.splitlines()
    assert lines[0] == "input   image  (1 × 3 × 64 × 96)  float32"
    assert lines[1] == "output  labels  (1 × 64 × 96)  uint8"
    assert lines[4].startswith("median of 2 pictures: copy in ")
    assert lines[5] == "False"  # torch is not needed
    model = tsz.bisenet_x39(pretrained="camvid")
    batch = model.preprocess.array(draw_street(0, (64, 96))[0])
    number = r"([-\d.e+]+)"
    found = re.search(
        rf"0\.png: input max {number}, min {number}, mean {number}, std {number}; "
        rf"copy in {number} ms, execute {number} ms, copy out {number} ms -> .*0_overlay\.png",
        lines[2],
    )
    assert found
    expected = [batch.max(), batch.min(), batch.mean(), batch.std()]
    assert np.allclose([float(text) for text in found.groups()[:4]], expected, rtol=2e-3)
    for index, size in enumerate([(64, 96), (50, 70)]):
        with Image.open(tmp_path / "out" / f"{index}_overlay.png") as overlay:
            assert overlay.width >= size[1]
            assert overlay.height >= size[0]


def test_labels_are_those_of_the_plain_runner(graph: Path) -> None:
    from torchseg_zoo import runtime

    picture, _ = draw_street(5, (64, 96))
    plain = runtime.load(graph)
    assert np.array_equal(Inspected(plain).labels(picture), plain.labels(picture))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--tensorrt"], MissingExtraError, "torchseg-zoo[tensorrt]"),
        (["--tensorrt", "--engine", "ENGINE"], ExportError, "was not built here"),
        (
            ["--tensorrt", "--engine", "ENGINE", "--trust-engine", "0" * 64],
            IntegrityError,
            "not the engine that is trusted",
        ),
        (
            ["--tensorrt", "--engine", "ENGINE", "--trust-engine", "DIGEST"],
            MissingExtraError,
            "torchseg-zoo[tensorrt]",
        ),
        (["--onnx", "ENGINE"], ExportError, "ONNX Runtime cannot load it"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: type[ExportError],
    words: str,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # also where it is installed
    engine = tmp_path / "foreign.engine"
    engine.write_bytes(b"some engine")
    digest = hashlib.sha256(b"some engine").hexdigest()
    filled = [{"ENGINE": str(engine), "DIGEST": digest}.get(word, word) for word in arguments]
    code = main(["infer", str(pictures), *filled, "-o", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == error.exit_code
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"torchseg-zoo: {error.__name__}: ")
    assert words in line


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--onnx", "a.onnx", "--engine", "b.engine"],
        ["--tensorrt", "--trust-engine", "0" * 64],
        ["--tensorrt", "--engine", "a.engine", "--save-engine", "b.engine"],
        [],
    ):
        with pytest.raises(SystemExit) as end:
            main(["infer", "folder", *arguments])
        assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
