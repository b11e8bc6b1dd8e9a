"""A picture of 1 megapixel through the demo's page against the library called for the same.

    python benchmarks/demo.py [--rounds 15] [--size 1024x1024] [--model bisenet_x39.camvid]

The demo runs as the command does, and is asked over HTTP as a browser asks it: the picture is
uploaded, the call joins the queue, and the time ends when the overlay's bytes have arrived. The
library reads the same file with a ``Predictor`` that is ready, makes labels, shares and confidence,
and saves overlay and labels as PNG, which is what the page shows. "Bare" ends with labels and
confidence in memory: the goal is held against that. All have had pictures before and take turns.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from demo_server import DemoServer, User

GOAL = 1.2


def by_page(user: User, content: bytes, model: str) -> Callable[[], object]:
    """Upload, label, fetch the overlay."""

    def run() -> object:
        user.ask_to_label(user.upload(content), model)
        return user.file(user.shown().slider[1])

    return run


def by_library(file: Path, predictor: Any, folder: Path) -> Callable[[], object]:
    """What the page shows, as files."""

    def run() -> object:
        prediction = predictor(file)
        prediction.save_labels(folder / "labels.png")
        prediction.save(folder / "overlay.png")
        return prediction.to_dict()

    return run


def bare(file: Path, predictor: Any) -> Callable[[], object]:
    """Labels and confidence."""

    def run() -> object:
        prediction = predictor(file)
        return prediction.labels, prediction.confidence

    return run


def main() -> None:
    """Prints medians and the median of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", default="1024x1024", help="HxW")
    parser.add_argument("--model", default="bisenet_x39.camvid")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))

    import torchseg_zoo as tsz
    from torchseg_zoo.data.datasets.drawn import draw_street

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "street.jpg"
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(draw_street(819, (height, width))[0])).save(
            buffer, "JPEG", quality=95
        )
        file.write_bytes(buffer.getvalue())
        predictor = tsz.Predictor(tsz.create_model(options.model))
        with DemoServer(folder, "-m", options.model) as server:
            contenders = {
                "page": by_page(User(server), file.read_bytes(), options.model),
                "library": by_library(file, predictor, folder),
                "bare": bare(file, predictor),
            }
            taken: dict[str, list[float]] = {name: [] for name in contenders}
            for round_ in range(options.rounds + 2):
                for name, run in contenders.items():
                    started = time.perf_counter()
                    run()
                    if round_ >= 2:
                        taken[name].append(time.perf_counter() - started)
    for name, seconds in taken.items():
        print(f"{name:<8} median {1000 * statistics.median(seconds):.0f} ms")
    for peer in ("library", "bare"):
        ratio = statistics.median(a / b for a, b in zip(taken["page"], taken[peer], strict=True))
        goal = f" (goal {GOAL})" if peer == "bare" else ""
        print(f"page / {peer}: {ratio:.2f}{goal}")


if __name__ == "__main__":
    main()
