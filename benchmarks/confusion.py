"""Confusion counts against the original's numpy histogram and other libraries'.

    python benchmarks/confusion.py [--rounds 15] [--size 1024 2048] [--data CAMVID_FOLDER ...]

Label maps are drawn streets, or with ``--data`` those of a data set, brought to the wanted size;
predictions are the same maps, shifted by a few pixels. Noise has every pixel at random. Every
contender gets the label maps in the types that its library's own evaluation has them in (the
original: int64 both), and must find the same counts before any time is taken. Contenders are
interleaved; medians of per-round ratios of CPU time are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from torchseg_zoo.data.datasets import DrawnStreets, open_dataset
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.data.transforms import resize_label
from torchseg_zoo.metrics import count_pairs

CLASSES = 19
Maps = tuple[np.ndarray, np.ndarray]


def histogram(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """What TorchSeg's evaluation computes, with its three further sums left out."""
    labelled = (truth >= 0) & (truth < CLASSES)
    pairs = CLASSES * truth[labelled].astype(int) + prediction[labelled]
    return np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def contenders(truth: np.ndarray, prediction: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Name → function that counts these two maps."""
    wide = truth.astype(np.int64), prediction.astype(np.int64)
    tensors = torch.from_numpy(truth), torch.from_numpy(prediction)
    found = {
        "torchseg_zoo": lambda: count_pairs(*tensors, CLASSES)[:-1, :-1].numpy(),
        "original": lambda: histogram(*wide),
    }
    try:
        from torchmetrics.functional.classification import multiclass_confusion_matrix
    except ImportError:
        print("torchmetrics is not installed")
    else:
        longs = tuple(torch.from_numpy(values) for values in wide)
        found["torchmetrics"] = lambda: multiclass_confusion_matrix(
            longs[1], longs[0], CLASSES, ignore_index=255
        ).numpy()
    return found


def real_maps(data: Dataset, size: tuple[int, int], count: int) -> list[Maps]:
    """Label maps and the same shifted; what has no class keeps 255 in the truth only."""
    pairs = []
    for index in range(min(count, len(data))):
        label = data[index].label
        if label is None:
            continue
        truth = np.ascontiguousarray(resize_label(label, size))
        prediction = np.roll(truth, (3, 5), (0, 1))
        pairs.append((truth, np.where(prediction == 255, 0, prediction).astype(np.uint8)))
    return pairs


def noise(size: tuple[int, int], count: int) -> list[Maps]:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, CLASSES, (count, 2, *size)).astype(np.uint8)
    return [(truth, prediction) for truth, prediction in maps]


def race(name: str, pairs: list[Maps], rounds: int, goal: str) -> None:
    """Prints milliseconds per map and ratios to the original."""
    runners = [contenders(*pair) for pair in pairs]
    for runner in runners:
        want = runner["original"]()
        for who, count in runner.items():
            assert np.array_equal(count(), want), who
    times: dict[str, list[float]] = {who: [] for who in runners[0]}
    for _ in range(rounds):
        for who, taken in times.items():
            start = time.process_time()
            for runner in runners:
                runner[who]()
            taken.append((time.process_time() - start) / len(runners))
    print(f"\n{name}, {len(pairs)} maps; all counts are equal")
    for who, taken in times.items():
        ratios = [mine / theirs for mine, theirs in zip(taken, times["original"], strict=True)]
        note = goal if who == "torchseg_zoo" else ""
        print(
            f"  {who:<14} {1e3 * statistics.median(taken):8.2f} ms   "
            f"{statistics.median(ratios):6.3f} × original   {note}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--maps", type=int, default=3)
    parser.add_argument("--data", help="data set whose label maps are taken, as in evaluate --data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = (options.size[0], options.size[1])
    print(
        f"{platform.processor() or platform.machine()}, one thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, "
        f"{size[0]}×{size[1]}, {CLASSES} classes"
    )
    data = open_dataset(options.data, "val", None) if options.data else DrawnStreets(size=size)
    race("label maps", real_maps(data, size, options.maps), options.rounds, "<= 0.15")
    race("noise", noise(size, options.maps), options.rounds, "<= 0.30")


if __name__ == "__main__":
    main()
