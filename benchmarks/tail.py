"""The label tail against eager ``interpolate`` + ``argmax``, at 1024×2048.

    python benchmarks/tail.py [--rounds 15] [--threads 1 2]

Two inputs: random logits of 19 classes, of which every pixel must be interpolated, and those of the
embedded model (11 classes) on a drawn street, most of whose pixels lie between four equal labels.
Labels are compared before any time is taken. Memory is the peak of a first call above what the
process held.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.inference.tail import label_map

SIZE = (1024, 2048)
GOALS = {"random": 0.20, "model's": 0.12}
MEMORY_GOAL_MIB = 8


def eager(logits: Tensor, align_corners: bool) -> Tensor:
    full = F.interpolate(logits, SIZE, mode="bilinear", align_corners=align_corners)
    return full.argmax(1).to(torch.uint8)


def ours(logits: Tensor, align_corners: bool) -> Tensor:
    return label_map(logits, SIZE, align_corners=align_corners)


def inputs() -> dict[str, tuple[Tensor, bool]]:
    """Logits (1, K, 128, 256), and whether they are resized with aligned corners."""
    generator = torch.Generator().manual_seed(0)
    model = tsz.bisenet_x39(pretrained="camvid").eval()
    picture = draw_street(5, SIZE)[0]
    with torch.inference_mode():
        logits = model(model.preprocess.tensor(picture), upsample=False)
    random = torch.randn(1, 19, 128, 256, generator=generator)
    return {
        "random": (random, model.config.align_corners),
        "model's": (logits.contiguous(), model.config.align_corners),
    }


def peak_mib(action: Callable[[], object]) -> float:
    """What a call takes above what the process held before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
    rest = _status("VmRSS")
    action()
    return (_status("VmHWM") - rest) / 1024


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def _first_call(values: np.ndarray, align_corners: bool, threads: int) -> float:
    torch.set_num_threads(threads)
    logits = torch.from_numpy(values)
    label_map(logits[:, :, :8, :8], (32, 32), align_corners=align_corners)  # code and threads
    return peak_mib(lambda: ours(logits, align_corners))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print("logits    threads   ratio   goal      ours     eager  memory")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, (logits, align_corners) in inputs().items():
            differing = int((ours(logits, align_corners) != eager(logits, align_corners)).sum())
            assert differing <= 2, f"{differing} labels differ"  # of logits that tie
            times = []
            for _ in range(options.rounds):
                round_ = []
                for action in (ours, eager):
                    start = time.perf_counter()
                    action(logits, align_corners)
                    round_.append(time.perf_counter() - start)
                times.append(round_)
            ratio = statistics.median(own / other for own, other in times)
            own, other = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                memory = pool.apply(_first_call, (logits.numpy(), align_corners, threads))
            print(
                f"{name:<9} {threads:>7} {ratio:7.3f}  <={GOALS[name]:.2f}  {own:6.1f} ms "
                f"{other:6.1f} ms  {memory:.1f} MiB (<= {MEMORY_GOAL_MIB})"
            )


if __name__ == "__main__":
    main()
