"""One score, however many processes count it, whichever die, and however often it is resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import DrawnStreets, camvid
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import DataError, EvaluationError
from torchseg_zoo.evaluation import Workers
from torchseg_zoo.evaluation.counts import Tally
from torchseg_zoo.evaluation.measure import ENOUGH, NOTHING_YET, Plan, _on_gpu
from torchseg_zoo.evaluation.result import Evaluation
from torchseg_zoo.inference.modes import Mode, MultiScaleFlip, Sliding, Whole
from torchseg_zoo.models.base import SegmentationModel

SIZE = (64, 80)
COUNT = 12
MODES: tuple[Mode, ...] = (
    Whole(),
    Sliding((48, 48), (32, 32), "torchseg"),
    MultiScaleFlip((0.75, 1.25), True, Sliding((48, 48), (32, 32))),
)


def write_camvid(root: Path, count: int) -> Path:
    """Drawn streets in CamVid's folders."""
    streets = DrawnStreets(count, seed=11, size=SIZE)
    for name in ("val", "valannot"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        sample = streets[index]
        assert sample.label is not None
        Image.fromarray(sample.image).save(root / "val" / f"{index:03}.png")
        Image.fromarray(sample.label).save(root / "valannot" / f"{index:03}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("camvid"), COUNT)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid")


@pytest.fixture(scope="module")
def alone(model: SegmentationModel, data: Path) -> list[Evaluation]:
    return [scored(model, data, mode) for mode in MODES]


def scored(model: SegmentationModel, data: Path, mode: Mode, **more: Any) -> Evaluation:
    return tsz.evaluate(
        model, camvid(data), mode=mode, boundary_share=0.02, reliability=True, progress=False,
        **more,
    )  # fmt: skip


def same(found: Evaluation, expected: Evaluation) -> bool:
    """Whether nothing but the description of the device differs."""
    records = [found.to_dict(), expected.to_dict()]
    for record in records:
        record["protocol"].pop("device")
    return bool(np.array_equal(found.confusion, expected.confusion)) and records[0] == records[1]


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for_end(processes: tuple[int, ...]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_alive, processes)):
        assert time.monotonic() < deadline, "processes are left over"
        time.sleep(0.05)


def test_processes_share_the_pictures_and_survive_each_other(
    model: SegmentationModel, data: Path, alone: list[Evaluation]
) -> None:
    with Workers(["cpu"] * 4) as workers:
        first = workers.processes
        assert len(set(first)) == 4 and os.getpid() not in first
        for mode, expected in zip(MODES, alone, strict=True):
            found = scored(model, data, mode, workers=workers)
            assert same(found, expected)
            assert found.protocol.device["processes"] == 4

        killed = [False]

        def kill_two(*_: object) -> None:
            if not killed[0]:
                killed[0] = True
                for process in workers.processes[:2]:
                    os.kill(process, signal.SIGKILL)

        with pytest.warns(UserWarning, match=r"of 4, cpu\) was ended by SIGKILL.*go on") as said:
            found = scored(model, data, MODES[2], workers=workers, watch=kill_two)
        assert same(found, alone[2]) and len(said) == 2
        assert {str(first[0]), str(first[1])} == {
            str(one.message).split()[1] for one in said
        }  # fmt: skip
        assert workers.processes == first[2:]
        for mode, expected in zip(MODES, alone, strict=True):
            assert same(scored(model, data, mode, workers=workers), expected)

        def kill_the_rest(*_: object) -> None:
            for process in workers.processes:
                os.kill(process, signal.SIGKILL)

        with (
            pytest.warns(UserWarning, match="the others go on"),
            pytest.raises(EvaluationError, match=r"no process is left, \d+ pictures are not done"),
        ):
            scored(model, data, MODES[2], workers=workers, watch=kill_the_rest)
    wait_for_end(first)


def test_what_a_worker_cannot_read_is_named_and_skipped_if_asked(
    model: SegmentationModel, tmp_path: Path
) -> None:
    broken = write_camvid(tmp_path / "broken", 6)
    label = broken / "valannot" / "003.png"
    values = np.asarray(Image.open(label)).copy()
    values[5, 7] = 200
    Image.fromarray(values).save(label)
    with Workers(["cpu"]) as workers:
        processes = workers.processes
        skipping = scored(model, broken, Whole(), workers=workers, on_bad_sample="skip")
        assert [one.index for one in skipping.skipped] == [3]
        assert same(skipping, scored(model, broken, Whole(), on_bad_sample="skip"))
        words = r"valannot/003.png: pixel \(7, 5\) = 200, allowed 0–11"
        assert "200" in skipping.skipped[0].message
        with pytest.raises(DataError, match=words):
            scored(model, broken, Whole(), workers=workers)
    wait_for_end(processes)


def test_pictures_in_flight_on_a_device_all_arrive(
    model: SegmentationModel, data: Path, alone: list[Evaluation]
) -> None:
    """The loop for GPUs, which reads ahead, told of its pictures late and in no order."""
    rng = random.Random(0)
    rest = [5, 0, 11, 3, 7, 1, 2, 10, 9, 4, 8, 6]

    def more(may_wait: bool) -> int:
        if not may_wait and rng.random() < 0.5:
            return NOTHING_YET
        return rest.pop(0) if rest else ENOUGH

    plan = Plan(MODES[0], boundary_share=0.02, reliability=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as pictures are computed on a CPU
    try:
        found = list(_on_gpu(model, camvid(data), plan, more, 3))
    finally:
        torch.set_num_threads(threads)
    tally = Tally(11, ignore_index=255, boundary_share=0.02, reliability=True)
    for outcome in found:
        tally.add(outcome)
    assert len(found) == COUNT
    assert tally.pictures == alone[0].pictures
    np.testing.assert_array_equal(tally.matrix.counts.numpy(), alone[0].confusion)
    assert tally.boundary_iou_percent == pytest.approx(alone[0].boundary_iou_percent, nan_ok=True)


@pytest.mark.gpu
def test_gpu_processes_count_what_one_does(model: SegmentationModel, data: Path) -> None:
    there = tsz.bisenet_x39(pretrained="camvid").to("cuda")
    with Workers(["cuda:0", "cuda:0"]) as workers:
        for mode in MODES:
            one = scored(there, data, mode)
            assert same(scored(model, data, mode, workers=workers), one)
            assert one.miou_percent == pytest.approx(scored(model, data, mode).miou_percent, abs=1)


def test_counts_do_not_depend_on_where_a_file_put_the_weights(
    data: Path, alone: list[Evaluation]
) -> None:
    for offset in (4, 16, 32):
        moved = tsz.bisenet_x39(pretrained="camvid")
        for tensor in (*moved.parameters(), *moved.buffers()):
            room = torch.empty(tensor.nbytes + 64, dtype=torch.uint8)
            start = -room.data_ptr() % 64 + (offset if tensor.element_size() == 4 else 32)
            place = room[start : start + tensor.nbytes].view(tensor.dtype)
            tensor.data = place.as_strided(tensor.shape, tensor.stride()).copy_(tensor.data)
        assert same(scored(moved, data, MODES[1]), alone[1])


# Ranks of a launcher

RANK = """
import sys, torchseg_zoo as tsz, torchseg_zoo.errors
from torchseg_zoo.data.datasets import camvid
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.inference.modes import mode_from_dict
import json
with Ranks.from_environment() as ranks:
    *modes, other = json.loads(sys.argv[2])
    for mode in modes:
        found = tsz.evaluate(
            tsz.load_model(sys.argv[4]), camvid(sys.argv[1]), mode=mode_from_dict(mode),
            boundary_share=0.02, reliability=True, progress=False, workers=ranks,
            record=sys.argv[3],
        )
    print(found.miou_percent)
    try:
        tsz.evaluate(
            tsz.load_model(sys.argv[4]), camvid(sys.argv[1]), mode=mode_from_dict(other),
            boundary_share=0.02, reliability=True, progress=False, workers=ranks,
        )
    except tsz.errors.EvaluationError as error:
        print(error)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_ranks_share_the_pictures_and_agree(
    model: SegmentationModel,
    data: Path,
    alone: list[Evaluation],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tmp_path / "record"
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    modes = json.dumps([mode.to_dict() for mode in (*MODES, MODES[1])])
    file = tmp_path / "model.safetensors"
    tsz.save_model(model, file)
    with (
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RANK, data, modes, record, file],
            env={**os.environ, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
            stdout=subprocess.PIPE, text=True,
        ) as other,
        Ranks(0, 2, 0) as ranks,
    ):  # fmt: skip
        for mode, expected in zip(MODES, alone, strict=True):
            found = scored(model, data, mode, workers=ranks, record=record)
            assert same(found, expected) and found.protocol.device["processes"] == 2
        with pytest.raises(EvaluationError, match=r"rank 1 has another mode.mode, .*'sliding'"):
            scored(model, data, Whole(), workers=ranks)
        said = other.communicate(timeout=120)[0]
    first, second = said.splitlines()
    assert first == str(alone[-1].miou_percent) and other.returncode == 0
    assert second.startswith("rank 1 of 2: rank 0 has another mode.mode, ")
    lines = {path.name: len(path.read_text().splitlines()) - 1 for path in sorted(record.iterdir())}
    assert lines == {"evaluate-rank-1.jsonl": COUNT // 2, "evaluate.jsonl": COUNT // 2}
    # One process goes on from what two of them recorded: nothing is left to measure.
    counted: list[int] = []
    again = scored(
        model, data, MODES[-1], record=record, resume=True,
        watch=lambda picture, _: counted.append(picture.index),
    )  # fmt: skip
    assert same(again, alone[-1]) and sorted(counted) == list(range(COUNT))
    assert len((record / "evaluate.jsonl").read_text().splitlines()) - 1 == COUNT // 2


# Killed runs


def options(data: Path, out: Path, *more: str) -> list[str]:
    return [
        "evaluate", "--data", str(data), "-o", str(out), "-d", "cpu", "--window", "48x48", *more,
    ]  # fmt: skip


def command(data: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "torchseg_zoo", *options(data, out, *more)]


def children_of(process: int) -> tuple[int, ...]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(status.parent.name))
    return tuple(found)


def killed_in_the_middle(arguments: list[str], record: Path, rng: random.Random) -> None:
    """Runs the command and kills it at a random moment, once it has begun to count anew."""
    before = record.stat().st_ino if record.exists() else None
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    try:
        while not record.exists() or record.stat().st_ino == before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.6))
        workers = children_of(process.pid)
    finally:
        process.kill()
        process.wait()
    wait_for_end(workers)  # nobody works for a run that is gone


def check_kills(folder: Path, seed: int, kills: int, count: int) -> None:
    rng = random.Random(seed)
    data, out = write_camvid(folder / "data", count), folder / "out"
    assert main(options(data, folder / "whole")) == 0
    record = out / "evaluate.jsonl"
    for kill in range(kills):
        more = ["--processes", "2"] if kill % 2 else []
        killed_in_the_middle(
            command(data, out, *more, *(["--resume"] if kill else [])), record, rng
        )
        assert not list(out.glob(".tmp-*"))
    assert main(options(data, out, "--resume")) == 0
    for name in ("card.json", "report.html"):
        assert (out / name).read_bytes() == (folder / "whole" / name).read_bytes()


def test_a_run_that_was_killed_twice_resumes_to_the_same_card(tmp_path: Path) -> None:
    check_kills(tmp_path, seed=random.randrange(10**6), kills=2, count=24)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_runs_that_were_killed_often_resume_to_the_same_card(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path, seed=seed, kills=8, count=120)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    data = write_camvid(tmp_path / "data", 200)
    process = subprocess.Popen(
        command(data, tmp_path / "out", "--processes", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    record = tmp_path / "out" / "evaluate.jsonl"
    deadline = time.monotonic() + 120
    while not record.exists() or record.read_bytes().count(b"\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.soak
def test_ctrl_c_ends_all_processes_with_one_line(running: subprocess.Popen[str]) -> None:
    workers = children_of(running.pid)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.replace("\r", "\n").splitlines()[-1].endswith("torchseg-zoo: interrupted")
    assert "Traceback" not in err
    wait_for_end(workers)


@pytest.mark.soak
@pytest.mark.parametrize("processes", [2, 3])
def test_torchrun_gives_the_card_of_one_process(tmp_path: Path, processes: int) -> None:
    data = write_camvid(tmp_path / "data", 10)
    assert main(options(data, tmp_path / "one")) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-port", str(free_port())]
    arguments = command(data, tmp_path / "many")[3:]  # -m torchseg_zoo ...
    done = subprocess.run([*launcher, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.count("mean IoU") == 1
    cards = [json.loads((tmp_path / name / "card.json").read_text()) for name in ("one", "many")]
    for card in cards:
        card["protocol"].pop("device")
    assert cards[0] == cards[1]
