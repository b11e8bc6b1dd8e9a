"""Two Ray actors of one thread each against one, on a cluster of this machine.

    python benchmarks/ray_actors.py [--pictures 80] [--rounds 3]

Starting a cluster and loading models is left out: the rate is taken from the times at which results
appeared, from the moment when every actor had finished a batch.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from pathlib import Path

import numpy as np
import ray
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.inference.ray import predict_files

GOAL = 1.6
BATCH = 4


def pictures_per_second(pictures: list[Path], actors: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        load = functools.partial(tsz.create_model, "bisenet_x39.camvid")
        predict_files(load, pictures, folder, actors=actors, batch_size=BATCH)
        times = sorted(file.stat().st_mtime for file in Path(folder).glob("*_overlay.png"))
    begun = 2 * BATCH * actors
    return (len(times) - begun) / (times[-1] - times[begun - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for seed in range(options.pictures):
            pictures.append(Path(folder, f"{seed:03d}.png"))
            Image.fromarray(np.kron(draw_street(seed)[0], np.ones((2, 2, 1), np.uint8))).save(
                pictures[-1]
            )
        ratios = []
        for _ in range(options.rounds):
            one, two = (pictures_per_second(pictures, actors) for actors in (1, 2))
            ratios.append(two / one)
            print(f"{one:.2f} and {two:.2f} pictures/s: {two / one:.2f}", flush=True)
    print(f"two actors / one: {statistics.median(ratios):.2f}  >= {GOAL}")


if __name__ == "__main__":
    main()
