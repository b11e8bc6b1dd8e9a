"""Sliding multi-scale-flip inference against the bare forwards of its windows, and against MONAI.

    python benchmarks/sliding.py [--rounds 5] [--threads 1] [--size 384 768] [--window 256]

Contenders are interleaved; medians of per-round ratios are printed, with the goal beside each. The
bare forwards are those of the same windows, one at a time, by the same prepared model, each with
its upsampling to the window; nothing is merged. MONAI is raced where it is installed: with the
plain model, as its user would have it, and with ours as ``fuse`` prepares it.
"""

from __future__ import annotations

import argparse
import copy
import functools
import platform
import statistics
import time
from collections.abc import Callable

import torch

from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.inference.modes import Mode, MultiScaleFlip, Sliding
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.inference.views import cut, scaled
from torchseg_zoo.models import bisenet_r18, bisenet_x39
from torchseg_zoo.models.base import SegmentationModel

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def bare_forwards(model: SegmentationModel, pixels: torch.Tensor, mode: Mode) -> int:
    """The windows of a mode through the network, one by one; how many there were."""
    views = mode if isinstance(mode, MultiScaleFlip) else MultiScaleFlip((1,), False, mode)
    flips = (False, True) if views.flip else (False,)
    count = 0
    for scale in views.scales:
        view = cut(scaled(pixels, scale, views.merge), model, views.view, flip=views.flip)
        for x in view.inputs(flips, paired=views.merge == "torchseg"):
            model(x[None])
            count += 1
    return count


def monai_labels(
    model: SegmentationModel, x: torch.Tensor, window: int, batch: int
) -> torch.Tensor:
    from monai.inferers import sliding_window_inference

    probabilities = sliding_window_inference(
        x, (window, window), batch, lambda part: model(part).softmax(1), overlap=1 / 3
    )
    assert isinstance(probabilities, torch.Tensor)
    return probabilities.argmax(1)


def race(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Wall seconds per round; prints CPU seconds beside the medians."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, action in contenders.items():
            times[name].append(seconds(action))
    for name, found in times.items():
        wall, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"  {name:<46} wall {wall:8.3f} s   CPU {cpu:8.3f} s")
    # CPU time is what other work on the machine disturbs least.
    return {name: [cpu for _, cpu in found] for name, found in times.items()}


def ratio(times: dict[str, list[float]], mine: str, other: str, goal: str) -> None:
    values = [a / b for a, b in zip(times[mine], times[other], strict=True)]
    name = f"{mine} / {other}, CPU time"
    print(f"  {name:<62} {statistics.median(values):6.3f}   {goal}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 768))
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--models", nargs="+", default=["bisenet_r18", "bisenet_x39"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"picture {options.size[0]}×{options.size[1]}, window {options.window}"
    )
    window = (options.window, options.window)
    image = DrawnStreets(1, size=tuple(options.size))[0].image
    pixels = torch.from_numpy(image.copy())
    for build in (bisenet_r18, bisenet_x39):
        if build.__name__ not in options.models:
            continue
        torch.manual_seed(0)
        plain = build(num_classes=19).eval()
        model = copy.deepcopy(plain).fuse()
        with torch.inference_mode():
            for merge in ("probability-mean", "torchseg"):
                inner = Sliding.at_rate(window, merge=merge)
                mode = MultiScaleFlip(tuple(options.scales), True, inner, merge)
                count = bare_forwards(model, pixels, mode)
                print(f"\n{build.__name__}, multi-scale and flip, {merge}: {count} windows")
                mine = lambda: label(model, image, mode, batch=options.batch)  # noqa: B023, E731
                mine()
                times = race(
                    {
                        "sliding": mine,
                        "bare forwards": lambda: bare_forwards(model, pixels, mode),  # noqa: B023
                    },
                    options.rounds,
                )
                ratio(times, "sliding", "bare forwards", "<= 0.95, never above 1.10")
            try:
                import monai
            except ImportError:
                print("\nMONAI is not installed")
                continue
            stride = int(options.window * (1 - 1 / 3))  # MONAI's rounding, so that labels agree
            single = Sliding(window, (stride, stride))
            x = model.preprocess.tensor(image)
            print(f"\n{build.__name__}, one scale, MONAI {monai.__version__}")
            contenders: dict[str, Callable[[], object]] = {
                "sliding": lambda: label(model, image, single, batch=options.batch)  # noqa: B023
            }
            for batch in (1, 4):
                for name, given in (("plain", plain), ("fused", model)):
                    contenders[f"MONAI, {name} model, batch {batch}"] = functools.partial(
                        monai_labels, given, x, options.window, batch
                    )
            theirs = monai_labels(model, x, options.window, 1)[0]
            differing = (label(model, image, single) != theirs).float().mean()
            print(f"  labels differing from MONAI's: {differing:.4%}")
            times = race(contenders, options.rounds)
            for name in list(contenders)[1:]:
                ratio(times, "sliding", name, "<= 0.60")


if __name__ == "__main__":
    main()
