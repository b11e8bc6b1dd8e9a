"""``torchseg-zoo benchmark``: speed, memory and mIoU of the same artefacts, side by side."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torchseg_zoo.benchmark.runtimes import RUNTIMES
from torchseg_zoo.cli._data_options import (
    add_calibration,
    add_data,
    chosen_calibration,
    open_data,
)
from torchseg_zoo.cli._options import add_device, parse_size
from torchseg_zoo.files import printable

if TYPE_CHECKING:
    from torchseg_zoo.benchmark.result import Benchmark
    from torchseg_zoo.benchmark.run import Subject
    from torchseg_zoo.types import Size

__all__ = ["add_parser"]

_SOME_FAILED = 3


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "benchmark",
        help="compare speed, memory and mIoU of models on runtimes",
        description="Exports each model once for each runtime, and times and scores that file: "
        "from a picture's bytes to its labels, and the network alone. Every runtime has a process "
        "of its own; they take turns. Exit code 3 when some runtimes failed; the others are "
        "measured.",
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL",
        help="MODEL.TAG; MODEL, with random weights and without a score; or a model file",
    )  # fmt: skip
    parser.add_argument(
        "--runtime", metavar="NAME,NAME,...",
        help=f"{', '.join(RUNTIMES)} (default: torch, and those of onnx and openvino that are "
        "installed)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=_parse_sizes, metavar="HxW,HxW,...",
        help="of the pictures that are timed (default: 512x1024)",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="pictures at a time (default: 1)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of each runtime (default: one per core)"
    )
    parser.add_argument(
        "--rounds", type=int, default=10, metavar="N", help="turns of three calls (default: 10)"
    )
    add_device(parser)
    add_data(parser, purpose="labelled pictures to score on: ")
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="score on the first N of them only"
    )
    add_calibration(parser)
    parser.add_argument(
        "--save-json", metavar="FILE", help="write all that was measured there, as JSON"
    )
    parser.add_argument(
        "-o", "--out", metavar="DIR",
        help="write table.md, benchmark.json, speed_accuracy.png (with --data) and the artefacts",
    )  # fmt: skip
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if (options.pictures or options.split != "val") and not options.data:
        parser.error("--pictures and --split go with --data")

    from torchseg_zoo.benchmark.run import DEFAULT_SIZE, benchmark
    from torchseg_zoo.cli._scoring import require_json, write_json

    require_json(options.save_json)
    subjects = [_subject(name) for name in dict.fromkeys(options.models)]
    labels = next((one.model.labels for one in subjects if one.trained), None)
    result = benchmark(
        subjects,
        runtimes=options.runtime.split(",") if options.runtime else None,
        sizes=options.size or (DEFAULT_SIZE,),
        batch=options.batch,
        threads=options.threads,
        rounds=options.rounds,
        dataset=open_data(options, labels) if options.data else None,
        pictures=options.pictures,
        calibration=chosen_calibration(options, labels),
        device=options.device,
        folder=Path(options.out) if options.out else None,
        watch=_show if sys.stderr.isatty() else lambda _: None,
    )
    if result.rows:
        print(result.table(), end="")
    write_json(options.save_json, result.to_dict())
    if options.out:
        for file in result.write(Path(options.out)):
            print(printable(file))
    return _told(result)


def _parse_sizes(text: str) -> tuple[Size, ...]:
    """``512x1024,256x512`` → both."""
    return tuple(map(parse_size, text.split(",")))


def _told(result: Benchmark) -> int:
    """Names what failed; the exit code."""
    for failure in result.failures:
        print(f"torchseg-zoo: {printable(failure.describe())}", file=sys.stderr)
    if result.failures and not result.rows and len(result.failures) == 1:
        return result.failures[0].error.exit_code
    return _SOME_FAILED if result.failures else 0


def _show(text: str) -> None:
    print(f"torchseg-zoo: {text}", file=sys.stderr)


def _subject(name: str) -> Subject:
    """The model of a name or file."""
    import torch

    from torchseg_zoo.benchmark.run import Subject
    from torchseg_zoo.models.checkpoint import load_model
    from torchseg_zoo.registry import create_model, known_model

    if Path(name).is_file():
        return Subject(Path(name).stem, load_model(name))
    if "." in name:
        return Subject(name, create_model(name))
    known_model(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Subject(name, create_model(name), trained=False)
