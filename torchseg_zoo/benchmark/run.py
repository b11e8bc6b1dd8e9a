"""Measures models on runtimes: each artefact is exported once, timed and scored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torchseg_zoo.benchmark.machine import describe_machine, describe_software, usable_cores
from torchseg_zoo.benchmark.measure import Measurement, Plan, Subject
from torchseg_zoo.benchmark.result import Benchmark, Failure, Row
from torchseg_zoo.benchmark.runtimes import default_runtimes, find_runtime
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.evaluation.samples import check_classes
from torchseg_zoo.export.quantize import CalibrationSet, Spread
from torchseg_zoo.files import make_folder
from torchseg_zoo.types import Size

__all__ = ["DEFAULT_SIZE", "Subject", "benchmark"]

DEFAULT_SIZE: Size = (512, 1024)

_LEAST_SIDE = 32  # of drawn streets


def benchmark(
    subjects: Sequence[Subject],
    *,
    runtimes: Sequence[str] | None = None,
    sizes: Sequence[Size] = (DEFAULT_SIZE,),
    batch: int = 1,
    threads: int | None = None,
    rounds: int = 10,
    dataset: Dataset | None = None,
    pictures: int | None = None,
    calibration: CalibrationSet | Spread | None = None,
    device: str = "auto",
    folder: Path | None = None,
    watch: Callable[[str], object] = lambda _: None,
) -> Benchmark:
    """Measures speed, memory and mIoU of the same artefacts.

    Every runtime runs in a process of its own, so that its threads and its memory are its own; a
    script that calls this needs the guard ``if __name__ == "__main__":``. The runtimes of a model
    take turns, round by round, after warm-up. Sizes go from small to large, models one after the
    other. A runtime that fails is in ``Benchmark.failures``; the others go on.

    Args:
        subjects: the models.
        runtimes: names in ``RUNTIMES``; by default PyTorch and what is installed of ONNX Runtime
            and OpenVINO.
        sizes: (height, width) of the drawn pictures that are timed, each side at least 32.
        batch: pictures at a time.
        threads: of the CPU, for each runtime; by default one per usable core.
        rounds: how often each runtime has its turn of three calls.
        dataset: labelled pictures to score each artefact on, one by one and whole.
        pictures: how many of them, from the first on; all by default.
        calibration: pictures that int8 is calibrated on.
        device: ``"cpu"``, ``"cuda"``, or ``"auto"``: a GPU for the runtimes that can use one.
        folder: where artefacts are written, and stay; created if need be. By default a temporary
            one.
        watch: told what is being done.

    Raises:
        ArgumentError: if an argument cannot work, or there is no such runtime.
        DataError: if the data set has other classes than a trained model, or cannot be read; if the
            folder cannot be written to.
    """
    chosen = [find_runtime(name) for name in runtimes] if runtimes else list(default_runtimes())
    threads = usable_cores() if threads is None else threads
    for name, value in {"batch": batch, "threads": threads, "rounds": rounds}.items():
        if value < 1:
            raise ArgumentError(f"{value} is below 1", where=name, fix="give 1 or more")
    if not subjects or not sizes:
        raise ArgumentError("nothing to measure", where="subjects, sizes", fix="give one of each")
    for size in sizes:
        if min(size) < _LEAST_SIDE:
            raise ArgumentError(
                f"{size[0]}×{size[1]} is too small",
                where="size",
                fix=f"give sides of {_LEAST_SIDE} or more",
            )
    for subject in subjects:
        if dataset is not None and subject.trained:
            check_classes(subject.model, dataset)
    plan = Plan(
        runtimes=tuple(dict.fromkeys(chosen)),
        sizes=tuple(sorted(set(sizes), key=lambda size: (size[0] * size[1], size))),
        batch=batch,
        threads=threads,
        rounds=rounds,
        dataset=dataset,
        pictures=0 if dataset is None else min(len(dataset), pictures or len(dataset)),
        calibration=calibration,
        device=device,
        watch=watch,
    )
    machine = describe_machine()
    rows: list[Row] = []
    failures: list[Failure] = []
    with _place_for_files(folder) as place:
        for subject in subjects:
            measurement = Measurement(subject, plan, place)
            rows += measurement.run()
            failures += measurement.failures
    return Benchmark(
        tuple(rows),
        tuple(failures),
        machine,
        describe_software(runtime.module for runtime in plan.runtimes),
        plan.describe(subjects),
    )


@contextmanager
def _place_for_files(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield make_folder(folder)
        return
    with tempfile.TemporaryDirectory(prefix="torchseg_zoo-") as temporary:
        yield Path(temporary)
