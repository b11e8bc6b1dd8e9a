"""Small training runs in processes of their own, to be killed, stopped and compared."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import CheckpointFormatError, ZooError
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.loop import TrainResult, train
from torchseg_zoo.weights.load import read_meta, read_tensors

Lists = tuple[Path, Path]  # of training and of validation

# A server that has imported everything once; its children start in no time, and without threads.
CONTEXT = multiprocessing.get_context("forkserver")
# Optimizers import torch._dynamo when the first of them is made.
CONTEXT.set_forkserver_preload(["torch._dynamo", "torchseg_zoo.training.launch", __name__])


def write_lists(folder: Path, train: int = 8, val: int = 3) -> Lists:
    """Drawn streets in files; every label map has pixels that do not count."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, count in (("train", train), ("val", val)):
        scenes = DrawnStreets(count, seed=count, size=(48, 64))
        lines = []
        for index in range(count):
            scene = scenes[index]
            assert scene.label is not None
            label = np.minimum(scene.label, 3)
            label[: 4 + 3 * index] = 255  # more of some pictures than of others
            Image.fromarray(scene.image).save(folder / f"{split}{index}.png")
            Image.fromarray(label).save(folder / f"{split}{index}_label.png")
            lines.append(f"{split}{index}.png\t{split}{index}_label.png\n")
        paths.append(folder / f"{split}.txt")
        paths[-1].write_text("".join(lines))
    return paths[0], paths[1]


def settings(out: Path, data: Lists, **changes: Any) -> TrainConfig:
    """Eight samples, two steps an epoch."""
    return TrainConfig(
        **{
            "model": "bisenet_x39", "data": str(data[0]), "val_data": str(data[1]),
            "out": str(out), "num_classes": 4, "epochs": 3, "batch_size": 4, "crop": (32, 48),
            "ema": 0.9, "lr": 2e-3, "seed": 3, "label_stride": 8, "device": "cpu", "cache": True,
            **changes,
        }
    )  # fmt: skip


@dataclass
class Run:
    """A process that trains, and what it answers."""

    process: Any
    pipe: Any

    def outcome(self) -> Any:
        """``TrainResult``, ``ZooError`` or, of a process that was killed, its exit code."""
        try:
            answer = self.pipe.recv()
        except EOFError:
            answer = None
        self.process.join()
        return self.process.exitcode if answer is None else answer


def start(
    config: TrainConfig, *, rank: int = 0, size: int = 1, port: int = 0, resume: bool = False,
    before: Callable[[int], object] | None = None,
) -> Run:  # fmt: skip
    """Starts one process; ``before`` is called in it with the rank."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(theirs, config, rank, size, port, resume, before))
    process.start()
    theirs.close()
    return Run(process, ours)


def start_ranks(config: TrainConfig, size: int = 2, **options: Any) -> list[Run]:
    """Starts processes that train together, as torchrun would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [start(config, rank=rank, size=size, port=port, **options) for rank in range(size)]


def _run(
    pipe: Any, config: TrainConfig, rank: int, size: int, port: int, resume: bool,
    before: Callable[[int], object] | None,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as where torchrun starts
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.simplefilter("error")
    if before is not None:
        before(rank)
    options: dict[str, Any] = {"resume": resume, "progress": False}
    try:
        if size == 1:
            pipe.send(train(config, **options))
        else:
            with Ranks(rank, size, rank) as ranks:
                pipe.send(train(config, ranks=ranks, **options))
    except ZooError as error:
        pipe.send(error)


def wait_for_step(run: Run, state: Path, step: int) -> None:
    """Waits until a state after ``step`` steps or more is saved, or the process has ended."""
    while run.process.is_alive():
        try:
            if int(read_meta(state)["progress"]["step"]) >= step:
                return
        except CheckpointFormatError:
            pass  # not there, or just being replaced
        time.sleep(0.005)


def newest_step(folder: Path) -> int:
    """Of the states that a killed run left."""
    states = [path for path in folder.glob("*.safetensors") if path.name != "best.safetensors"]
    return max(int(read_meta(path)["progress"]["step"]) for path in states)


def log_of(result: TrainResult) -> list[dict[str, str]]:
    """The log without what a clock says."""
    with result.log.open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of tensors that are not the same in two files, bit for bit."""
    got, want = read_tensors(ours, mapped=False), read_tensors(theirs, mapped=False)
    assert set(got) == set(want)
    return [name for name in want if not torch.equal(got[name], want[name])]


def assert_same_runs(result: TrainResult, whole: TrainResult) -> None:
    """Two runs ended with the same weights, state, scores and log."""
    assert differences(result.last, whole.last) == []
    assert differences(result.best, whole.best) == []
    assert (result.miou_percent, result.epoch) == (whole.miou_percent, whole.epoch)
    assert log_of(result) == log_of(whole)


def largest_difference(ours: Path, theirs: Path) -> float:
    """Of all weights and running statistics of two models."""
    got, want = read_tensors(ours, mapped=False), read_tensors(theirs, mapped=False)
    return max(
        float((got[name] - value).abs().max())
        for name, value in want.items()
        if name.startswith("model.")
    )
