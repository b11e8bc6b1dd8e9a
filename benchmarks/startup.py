"""Start-up and loading, as ratios within one run.

    python benchmarks/startup.py [--rounds 7]

Contenders are interleaved and medians of per-round ratios are printed, with the goal beside each.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from torchseg_zoo.models import bisenet_r18
from torchseg_zoo.weights.load import assign, read_tensors

HEAVY = ("torch", "timm", "torchvision")


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def modules_after(code: str) -> str:
    """Which of the heavy modules are loaded once ``code`` has run."""
    check = f"{code}\nimport sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def cli(*arguments: str) -> str:
    return (
        f"import torchseg_zoo.cli as c\ntry: c.main({list(arguments)!r})\nexcept SystemExit: pass"
    )


def report(name: str, ratios: list[float], goal: str) -> None:
    print(f"{name:<58} {statistics.median(ratios):7.3f}   {goal}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}\n"
    )

    predict = (
        "import numpy as np, torchseg_zoo as tsz\n"
        "tsz.predict(tsz.bisenet_x39(), np.zeros((64, 64, 3), np.uint8))"
    )
    print("heavy modules loaded by")
    for name, code in {
        "import torchseg_zoo": "import torchseg_zoo",
        "torchseg-zoo --help": cli("--help"),
        "torchseg-zoo list": cli("list"),
        "a first bisenet_x39 prediction": predict,
    }.items():
        print(f"  {name:<56} {modules_after(code)}")

    print(f"\n{'':<58}  median   goal")
    starts: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, code in {
            "python": "pass",
            "torch": "import torch",
            "import torchseg_zoo": "import torchseg_zoo",
            "torchseg-zoo --help": cli("--help"),
            "torchseg-zoo list": cli("list"),
        }.items():
            starts.setdefault(name, []).append(seconds(run(code)))
    for name in ("import torchseg_zoo", "torchseg-zoo --help", "torchseg-zoo list"):
        report(f"{name}, seconds (python start included)", starts[name], "<= 0.2 s")
        ratios = [mine / torch_ for mine, torch_ in zip(starts[name], starts["torch"], strict=True)]
        report(f"{name} / import torch", ratios, "")

    def build_meta() -> torch.nn.Module:
        with torch.device("meta"):
            return bisenet_r18()

    bisenet_r18()  # timm is imported once, outside the clock
    builds = [(seconds(build_meta), seconds(bisenet_r18)) for _ in range(rounds)]
    report("build on meta / initialised build (bisenet_r18)", [a / b for a, b in builds], "<= 0.35")

    with tempfile.TemporaryDirectory() as folder:
        pickled, native = Path(folder, "model.pth"), Path(folder, "model.safetensors")
        state = bisenet_r18().state_dict()
        torch.save(state, pickled)
        save_file(state, native)
        empty, full = build_meta(), bisenet_r18()

        def load_pickled() -> None:
            full.load_state_dict(torch.load(pickled, weights_only=True), strict=True)

        def load_native() -> None:
            assign(empty, read_tensors(native, mapped=True), where=str(native))

        load_pickled(), load_native()
        loads = []
        for _ in range(rounds):
            empty = build_meta()
            loads.append((seconds(load_native), seconds(load_pickled)))
        same = all(
            torch.equal(value, empty.state_dict()[name])
            for name, value in full.state_dict().items()
        )
        print(f"{'':<58} {'tensors equal' if same else 'TENSORS DIFFER'}")
        report(
            f"{native.stat().st_size / 2**20:.0f} MiB native / torch.load + load_state_dict",
            [a / b for a, b in loads],
            "<= 0.15",
        )  # fmt: skip


if __name__ == "__main__":
    main()
