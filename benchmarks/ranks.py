"""Training on two processes of one thread each, against one process of one thread.

    python benchmarks/ranks.py [--rounds 5] [--steps 5] [--crop 256] [--batch 8]

Both train BiSeNet-R18 on drawn streets at the same batch: alone it is one process's, together each
takes half of it, with synced batch norm. Rounds take one after the other; a round's samples per
second are of whole steps, reading and augmentation included, after a first step that is not
counted. Medians of the rounds' ratios are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.loop import train
from torchseg_zoo.training.step import TrainStep

GOAL = 1.6


def run(rank: int, size: int, port: int, config: TrainConfig, samples: int, pipe: Any) -> None:
    """Trains one epoch in this process and sends when each step ended."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ends: list[float] = []
    step = TrainStep.__call__

    def timed(self: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> float:
        loss = step(self, images, labels)
        ends.append(time.perf_counter())
        return loss

    TrainStep.__call__ = timed  # type: ignore[method-assign]
    side = config.crop[0] * 3 // 2
    sets = {
        "train_set": DrawnStreets(samples, seed=1, size=(side, side)),
        "val_set": DrawnStreets(1, seed=2, size=(side, side)),
    }
    if size == 1:
        train(config, progress=False, **sets)
    else:
        with Ranks(rank, size, rank) as ranks:
            train(config, ranks=ranks, progress=False, **sets)
    pipe.send(ends)


def samples_per_second(size: int, options: argparse.Namespace) -> float:
    """Of all processes together."""
    context = multiprocessing.get_context("spawn")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store  # free again, and not soon given to others
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(
            model="bisenet_r18", out=str(Path(out, "run")), epochs=1, batch_size=options.batch,
            crop=(options.crop, options.crop), device="cpu", cache=True,
        )  # fmt: skip
        ours, theirs = context.Pipe(duplex=False)
        samples = options.batch * (options.steps + 1)
        processes = [
            context.Process(target=run, args=(rank, size, port, config, samples, theirs))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        ends = [ours.recv() for _ in processes]
        for process in processes:
            process.join()
    return options.batch * options.steps / max(times[-1] - times[0] for times in ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    ratios = []
    for number in range(options.rounds):
        one, two = samples_per_second(1, options), samples_per_second(2, options)
        ratios.append(two / one)
        print(f"round {number + 1}: {one:.2f} and {two:.2f} samples/s, ratio {two / one:.2f}")
    print(
        f"two processes of one thread / one: {statistics.median(ratios):.2f} "
        f"(goal: at least {GOAL}); {platform.machine()}, {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
