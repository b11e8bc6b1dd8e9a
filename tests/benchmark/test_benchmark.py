"""Speed, memory and mIoU of the same artefacts: real exports in real processes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.benchmark.contenders import Assignment, open_contender
from torchseg_zoo.benchmark.picture import Point, draw_speed_accuracy
from torchseg_zoo.benchmark.process import ContenderProcess
from torchseg_zoo.benchmark.result import Benchmark, Failure, Row, Timing
from torchseg_zoo.benchmark.run import Subject, benchmark
from torchseg_zoo.benchmark.runtimes import RUNTIMES, default_runtimes
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.errors import (
    ArgumentError,
    DataError,
    ExportError,
    MissingExtraError,
    UnknownModelError,
)

ROW = Row(
    model="bisenet_x39.camvid",
    runtime="onnx",
    precision="fp32",
    size=(64, 96),
    batch=1,
    device="cpu",
    end_to_end=Timing.of([4.0, 2.0, 8.0]),
    network=None,
    pictures_per_second=250.0,
    equal_percent=99.9,
    peak_memory_mib=100.0,
    running_memory_mib=None,
    load_s=0.1,
    first_call_s=0.1,
    miou_percent=60.0,
    artefact={"file": "m.onnx", "bytes": 1, "sha256": ""},
)


def test_one_run_times_and_scores_the_same_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = tsz.bisenet_r18(num_classes=CAMVID.num_classes, backbone="resnet10t")
    model.labels = CAMVID
    tsz.save_model(model, tmp_path / "tiny.safetensors")
    command = [
        "benchmark", str(tmp_path / "tiny.safetensors"), "--runtime",
        "torch,onnx,openvino,tensorrt", "--size", "96x128", "--rounds", "2", "--threads", "1",
        "--data", "drawn", "--pictures", "2", "--device", "cpu",
        "-o", str(tmp_path / "out"), "--save-json", str(tmp_path / "b.json"),
    ]  # fmt: skip
    assert main(command) == 3
    printed = capsys.readouterr()
    assert "tiny on tensorrt: MissingExtraError" in printed.err
    assert "torchseg-zoo[onnx,tensorrt]" in printed.err
    record = json.loads((tmp_path / "b.json").read_text())
    assert record == json.loads((tmp_path / "out" / "benchmark.json").read_text())
    rows = {row["runtime"]: row for row in record["rows"]}
    assert list(rows) == ["torch", "onnx", "openvino"]
    for row in rows.values():
        assert row["equal_percent"] > 99.9
        assert 0 < row["end_to_end"]["p50_ms"] <= row["end_to_end"]["p95_ms"]
        assert row["end_to_end"]["calls"] == row["network"]["calls"] == 6
        assert row["miou_percent"] == pytest.approx(rows["torch"]["miou_percent"], abs=0.1)
        artefact = tmp_path / "out" / row["artefact"]["file"]
        assert hashlib.sha256(artefact.read_bytes()).hexdigest() == row["artefact"]["sha256"]
    assert rows["onnx"]["artefact"] == rows["openvino"]["artefact"]
    # The parent's libraries are not in a runtime's process: its memory is its own.
    assert rows["onnx"]["peak_memory_mib"] < 0.75 * rows["torch"]["peak_memory_mib"]
    assert record["protocol"]["threads"] == 1 and record["protocol"]["scored_pictures"] == 2
    assert {"cpu", "cores"} <= set(record["machine"])
    assert {"torch", "onnxruntime", "openvino"} <= set(record["software"])
    table = (tmp_path / "out" / "table.md").read_text()
    assert printed.out.startswith(table)
    assert sum(line.startswith("| tiny ") for line in table.splitlines()) == 3
    with Image.open(tmp_path / "out" / "speed_accuracy.png") as picture:
        assert picture.size == (900, 480)


def test_what_cannot_be_measured_is_refused_before_anything_is_exported(tmp_path: Path) -> None:
    model = tsz.bisenet_x39(num_classes=5)
    subjects = [Subject("mine", model)]
    with pytest.raises(ArgumentError, match=r"no runtime 'abacus'.*openvino"):
        benchmark(subjects, runtimes=["abacus"])
    with pytest.raises(ArgumentError, match="rounds: 0 is below 1"):
        benchmark(subjects, rounds=0)
    with pytest.raises(ArgumentError, match="16×64 is too small"):
        benchmark(subjects, sizes=[(16, 64)])
    with pytest.raises(ArgumentError, match="nothing to measure"):
        benchmark([])
    with pytest.raises(DataError, match="5"):
        benchmark(subjects, dataset=DrawnStreets(1), folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_failure_alone_keeps_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["benchmark", "bisenet_x39", "--runtime", "tensorrt", "-o", str(tmp_path)]
    assert main(command) == MissingExtraError.exit_code
    assert main(["benchmark", "bisenet_x93"]) == UnknownModelError.exit_code
    assert not list(tmp_path.glob("*.onnx")), "nothing is exported for what cannot run"
    assert "bisenet_x39" in capsys.readouterr().err


def test_several_pictures_at_a_time_get_what_each_gets_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tsz.dfn_r101(num_classes=6, backbone="resnet10t").eval()  # pads to multiples of 32
    tsz.save_model(model, tmp_path / "m.safetensors")
    contender = open_contender(Assignment("torch", tmp_path / "m.safetensors", None, 1, "cpu"))
    pictures = np.stack([draw_street(seed, (70, 100))[0] for seed in (1, 2)])
    together = contender.labels(pictures)
    for picture, labels in zip(pictures, together, strict=True):
        assert (labels == tsz.predict(model, picture).labels).mean() > 0.999
    contender.network(pictures)()


def test_a_process_that_dies_is_an_error_that_says_how(tmp_path: Path) -> None:
    assignment = Assignment("onnx", tmp_path / "none.onnx", None, 1, "cpu")
    with ContenderProcess(assignment) as process:
        with pytest.raises(ExportError, match="no such file"):
            process.load()
        assert process.memory().peak > 1  # it answers on
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ExportError, match="was ended by SIGKILL"):
            process.memory()


def test_the_runtimes_that_are_installed_come_by_default() -> None:
    assert [runtime.name for runtime in default_runtimes()] == ["torch", "onnx", "openvino"]
    assert all(name == runtime.name for name, runtime in RUNTIMES.items())


def test_the_table_lines_up_and_a_record_without_scores_draws_nothing(tmp_path: Path) -> None:
    assert (ROW.end_to_end.p50_ms, ROW.end_to_end.p95_ms) == (4.0, pytest.approx(7.6))
    unscored = replace(ROW, model="bisenet_r18", runtime="openvino", miou_percent=None)
    failed = Failure("bisenet_r18", "onnx", (64, 96), ExportError("the runtime failed"))
    protocol = {"threads": 2, "batch": 1, "rounds": 1, "calls_per_round": 3}
    result = Benchmark((ROW, unscored), (failed,), {"cpu": "a CPU"}, {"torch": "2"}, protocol)
    lines = result.table().splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[3].endswith("| –      |") or lines[3].endswith("      – |")
    assert "a CPU, 2 threads" in lines[5]
    assert [point.model for point in result.picture_points()] == ["bisenet_x39.camvid"]
    assert failed.describe() == "bisenet_r18 on onnx at 64×96: ExportError: the runtime failed"
    files = Benchmark((unscored,), (), {}, {}, protocol).write(tmp_path)
    assert [file.name for file in files] == ["table.md", "benchmark.json"]


def test_dots_lie_where_speed_and_score_say() -> None:
    points = [
        Point("a", "torch", 10.0, 60.0),
        Point("a", "onnx", 40.0, 60.0),
        Point("b", "onnx", 20.0, 70.0),
    ]
    picture = np.asarray(draw_speed_accuracy(points)).astype(int)

    def center(color: tuple[int, int, int]) -> np.ndarray:
        rows, columns = np.nonzero((picture[:430] == color).all(2))
        assert rows.size
        return np.array([columns.mean(), rows.mean()])

    torch_dot = center((0, 114, 178))
    rows, columns = np.nonzero((picture[:430] == (213, 94, 0)).all(2))
    right = columns > columns.mean()
    fast = np.array([columns[right].mean(), rows[right].mean()])
    good = np.array([columns[~right].mean(), rows[~right].mean()])
    assert torch_dot[0] < good[0] < fast[0] and torch_dot[1] == pytest.approx(fast[1], abs=1)
    assert good[1] < fast[1]
    assert (fast[0] - torch_dot[0]) / (good[0] - torch_dot[0]) == pytest.approx(3, abs=0.1)


def test_one_dot_is_enough() -> None:
    assert draw_speed_accuracy([Point("a", "torch", 0.02, 0.0)]).size == (900, 480)
