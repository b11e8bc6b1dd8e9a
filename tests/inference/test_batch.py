"""Batches that are split, stopped and resumed; on a Ray cluster, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.errors import ArgumentError, DataError, ResumeError, ZooError
from torchseg_zoo.inference.batch import predict_files, record_name
from torchseg_zoo.inference.jobs import Job, label_job
from torchseg_zoo.models.base import SegmentationModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return tsz.bisenet_x39(num_classes=5).eval()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(5):
        Image.fromarray(draw_street(seed, (48, 64))[0]).save(folder / f"{seed}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return sorted(folder.iterdir())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def test_shards_do_every_picture_once_and_name_results_alike(
    tmp_path: Path, model: SegmentationModel, pictures: list[Path]
) -> None:
    twin = tmp_path / "twin" / "0.png"  # of the same name, in another shard
    twin.parent.mkdir()
    Image.fromarray(draw_street(9, (48, 64))[0]).save(twin)
    pictures = [*pictures, twin]
    whole = predict_files(model, pictures, tmp_path / "whole", progress=False)
    out = tmp_path / "shards"
    reports = [
        predict_files(model, pictures, out, shard=(index, 3), progress=False) for index in (3, 1, 2)
    ]
    done = sorted((r for report in reports for r in report.done), key=lambda r: str(r.source))
    assert [r.source for r in done] == sorted((r.source for r in whole.done), key=str)
    assert {r.source: r.files[0].name for r in done} == {
        r.source: r.files[0].name for r in whole.done
    }
    assert [str(e) for report in reports for e in report.failed] == [str(whole.failed[0])]
    records = {record_name((index, 3)) for index in (1, 2, 3)}
    assert {path.name for path in out.glob("*.jsonl")} == records
    assert sum(len(lines(out / name)) - 1 for name in records) == len(pictures)
    with pytest.raises(ArgumentError, match="no shard 4 of 3"):
        predict_files(model, pictures, out, shard=(4, 3))


def test_resuming_does_only_what_is_left(
    tmp_path: Path, model: SegmentationModel, pictures: list[Path]
) -> None:
    out = tmp_path / "out"
    first = predict_files(model, pictures[:3], out, progress=False)
    assert (first.resumed, len(first.done)) == (0, 3)
    before = stamps(out)
    (out / "1_overlay.png").unlink()  # a result that went missing
    Image.fromarray(draw_street(7, (48, 64))[0]).save(pictures[2])  # a picture that changed
    second = predict_files(model, pictures, out, resume=True, progress=False)
    assert second.resumed == 1
    assert [result.source for result in second.done] == [
        path for path in pictures if path.name != "3.png"
    ]
    assert second.done[0] == first.done[0]
    assert second.done[2].summary != first.done[2].summary
    after = stamps(out)
    assert {name for name in after if after[name] == before.get(name)} == {"0_overlay.png"}
    # The failed picture is tried again, and mended.
    Image.fromarray(draw_street(3, (48, 64))[0]).save(pictures[3])
    third = predict_files(model, pictures, out, resume=True, progress=False)
    assert (third.resumed, len(third.failed)) == (4, 0)


def test_a_cut_line_costs_one_picture_only(
    tmp_path: Path, model: SegmentationModel, pictures: list[Path]
) -> None:
    out = tmp_path / "out"
    predict_files(model, pictures, out, resume=True, progress=False)
    record = out / "predict.jsonl"
    text = record.read_text()
    record.write_text(text[:-20])
    report = predict_files(model, pictures, out, resume=True, progress=False)
    assert (report.resumed, len(report.done), len(report.failed)) == (3, 4, 1)
    assert sorted(map(json.dumps, lines(record))) == sorted(text.splitlines())


def test_another_model_or_other_results_are_not_mixed_in(
    tmp_path: Path, model: SegmentationModel, pictures: list[Path]
) -> None:
    out = tmp_path / "out"
    predict_files(model, pictures, out, resume=True, progress=False)
    before = stamps(out)
    with pytest.raises(ResumeError, match="another results"):
        predict_files(model, pictures, out, resume=True, labels=True, progress=False)
    certain = tmp_path / "certain"
    predict_files(model, pictures, certain, resume=True, confidence=True, progress=False)
    with pytest.raises(ResumeError, match="confidence: 'probability', now 'margin'"):
        predict_files(
            tsz.Predictor(model, confidence="margin"), pictures, certain,
            resume=True, confidence=True, progress=False,
        )  # fmt: skip
    torch.manual_seed(1)
    other = tsz.bisenet_x39(num_classes=5)
    with pytest.raises(ResumeError, match="another weights_sha256"):
        predict_files(other, pictures, out, resume=True, progress=False)
    assert stamps(out) == before
    (out / "predict.jsonl").write_text('{"version": 99}\n')
    with pytest.raises(ResumeError, match="no record"):
        predict_files(model, pictures, out, resume=True, progress=False)
    with pytest.raises(ArgumentError, match="need a folder"):
        predict_files(model, pictures[:1], tmp_path / "one.png", resume=True, progress=False)


def test_a_killed_batch_resumes_to_the_same_files(tmp_path: Path, pictures: list[Path]) -> None:
    folder = pictures[0].parent
    for seed in range(20):
        Image.fromarray(draw_street(seed, (96, 128))[0]).save(folder / f"more{seed}.png")

    def command(out: Path) -> list[str]:
        verb = [sys.executable, "-m", "torchseg_zoo", "predict", str(folder), "-o", str(out)]
        return [*verb, "--resume", "--labels", "--device", "cpu"]

    out = tmp_path / "out"
    process = subprocess.Popen(command(out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*_labels.png"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 6 <= len(list(out.glob("*_labels.png"))) < 24
    again = subprocess.run(command(out), capture_output=True, text=True, check=False)
    assert again.returncode == 3 and "3.png" in again.stderr  # the bad picture
    subprocess.run(command(tmp_path / "straight"), capture_output=True, check=False)

    def results(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("*.png")}

    assert results(out) == results(tmp_path / "straight")
    assert len(results(out)) == 48
    kept = [path.name for path in out.iterdir() if path.suffix not in (".png", ".jsonl")]
    assert len(kept) <= 1  # at most the file that was being written


def test_a_full_disk_stops_the_batch_and_leaves_nothing_half(
    tmp_path: Path, model: SegmentationModel, pictures: list[Path]
) -> None:
    """/dev/full says "no space" like a disk does."""

    class Full:
        def save(self, path: Path) -> Path:
            try:
                Path("/dev/full").write_bytes(b"x")
            except OSError as error:
                raise DataError("cannot be written", where=path) from error
            return path

        save_labels = save_confidence = save

    with pytest.raises(DataError, match="cannot be written"):
        label_job(lambda path: Full(), Job(pictures[0], {"overlay": tmp_path / "o.png"}))


def test_shards_on_the_command_line(tmp_path: Path, pictures: list[Path]) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "torchseg_zoo", "predict", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = run(str(pictures[0].parent), "-o", str(tmp_path / "out"), "--shard", "2/2", "--json")
    assert done.returncode == 3
    assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == [str(pictures[1])]
    for text in ("0/2", "3/2", "2", "a/b"):
        refused = run("x.png", "--shard", text)
        assert refused.returncode == 2 and text in refused.stderr


RAY_SCRIPT = """
import functools, json, os, signal, sys, threading, time
from pathlib import Path
import ray
import torchseg_zoo as tsz
from torchseg_zoo.inference.jobs import find_pictures
from torchseg_zoo.inference.ray import predict_files

def kill_one(out):
    # One worker dies once some results are there.
    while len(list(out.glob("*_overlay.png"))) < 3:
        time.sleep(0.01)
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"PictureWorker" in name:
            os.kill(int(pid), signal.SIGKILL)
            print("killed", flush=True)
            return

if __name__ == "__main__":
    pictures, out = sys.argv[1], Path(sys.argv[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    threading.Thread(target=kill_one, args=(out,), daemon=True).start()
    load = functools.partial(tsz.create_model, "bisenet_x39.camvid")
    report = predict_files(load, find_pictures([pictures]), out, labels=True, batch_size=2)
    Path(pictures, "3.png").unlink()
    again = predict_files(load, find_pictures([pictures]), out, labels=True, resume=True)
    result = [len(report.done), [str(e) for e in report.failed], again.resumed]
    Path(sys.argv[3]).write_text(json.dumps(result))
"""


@pytest.mark.soak  # a killed worker is also tried by the journey to a cluster
def test_a_ray_cluster_does_what_one_process_does_and_survives_a_killed_worker(
    tmp_path: Path, pictures: list[Path]
) -> None:
    folder = pictures[0].parent
    for seed in range(30):
        Image.fromarray(draw_street(seed, (192, 256))[0]).save(folder / f"more{seed}.png")
    script = tmp_path / "cluster.py"
    script.write_text(RAY_SCRIPT)
    done = subprocess.run(
        [sys.executable, script, folder, tmp_path / "ray", tmp_path / "result.json"],
        capture_output=True, text=True, check=False, timeout=240,
        env={**os.environ, "RAY_TMPDIR": "/tmp", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "killed" in done.stdout.splitlines()
    count, failed, resumed = json.loads((tmp_path / "result.json").read_text())
    assert (count, resumed) == (34, 34)
    assert len(failed) == 1 and "3.png" in failed[0]
    model = tsz.bisenet_x39(pretrained="camvid")
    wanted = predict_files(
        tsz.Predictor(model, keep_memory=False), [folder / "more4.png"], tmp_path / "one",
        labels=True, progress=False,
    )  # fmt: skip
    for file in wanted.done[0].files:
        with Image.open(file) as one, Image.open(tmp_path / "ray" / file.name) as other:
            same = np.asarray(one) == np.asarray(other)
        assert same.mean() > 0.999  # rounding differs with the number of threads


def test_without_ray_the_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from torchseg_zoo.inference.ray import predict_files\n"
        f"predict_files(print, [], {str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "MissingExtraError" in done.stderr and "torchseg-zoo[ray]" in done.stderr


def test_outcomes_cross_process_borders(pictures: list[Path], model: SegmentationModel) -> None:
    """Errors and results are pickled on their way back from a worker."""
    import pickle

    outcome = label_job(lambda path: tsz.predict(model, path), Job(pictures[3], {}))
    back = pickle.loads(pickle.dumps(outcome))
    assert isinstance(back, ZooError) and str(back) == str(outcome)
