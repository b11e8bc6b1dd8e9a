"""``torchseg-zoo export``: files with proofs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import torchseg_zoo as tsz
from torchseg_zoo import runtime
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import ExportError, IntegrityError


def test_onnx_with_its_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    assert main(["export", "-o", str(path), "--data", "drawn", "--pictures", "2"]) == 0
    told = capsys.readouterr().out
    assert "OnnxRunner: labels equal" in told and "OpenVinoRunner: labels equal" in told
    proof = json.loads((tmp_path / "m.onnx.parity.json").read_text())
    assert set(proof["runtimes"]) == {"onnx", "openvino"}
    for parity in proof["runtimes"].values():
        before, after = parity["miou_percent"]
        assert parity["pictures"] == 2 and before == pytest.approx(after, abs=0.01) and before > 20
        assert len(parity["sizes"]) == 8
    about = runtime.load(path).artefact
    assert about.checkpoint == "bisenet_x39.camvid" and about.size is None


def test_openvino_with_its_proof(tmp_path: Path) -> None:
    path = tmp_path / "m.xml"
    command = ["export", "--format", "openvino", "--size", "96x128", "-o", str(path)]
    assert main([*command, "--output", "labels+confidence"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "m.bin", "m.xml", "m.xml.parity.json",
    ]  # fmt: skip
    picture, _ = draw_street(2, (96, 128))
    wanted = tsz.predict(tsz.bisenet_x39(pretrained="camvid"), picture)
    got = runtime.load(tmp_path).predict(picture)
    np.testing.assert_array_equal(got.labels, wanted.labels)
    np.testing.assert_allclose(got.confidence, wanted.confidence, atol=1e-4)
    weights = bytearray((tmp_path / "m.bin").read_bytes())
    weights[1000] ^= 64
    (tmp_path / "m.bin").write_bytes(weights)
    with pytest.raises(IntegrityError, match=r"m\.xml"):
        runtime.load(path)


def test_past_the_tolerance_is_a_failure_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    command = ["export", "-o", str(path), "--size", "64x96", "--precision", "fp16"]
    assert main([*command, "--tolerance", "1.01"]) == ExportError.exit_code
    assert "labels differ by more than" in capsys.readouterr().err
    assert not json.loads((tmp_path / "m.onnx.parity.json").read_text())["runtimes"]["onnx"][
        "holds"
    ]


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (
        ("--size", "12"),
        ("--size", "31x64"),
        ("--batch", "none"),
        ("--format", "abacus"),
    ):
        with pytest.raises(SystemExit):
            main(["export", option, value])
        assert value in capsys.readouterr().err
    assert main(["export", "-o", str(tmp_path / "none" / "m.onnx"), "--size", "64x64"]) != 0
    assert "create the folder first" in capsys.readouterr().err
