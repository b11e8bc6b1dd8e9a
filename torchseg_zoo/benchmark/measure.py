"""Times and scores one model on all runtimes that were asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchseg_zoo.benchmark.artefacts import Artefacts, Exported
from torchseg_zoo.benchmark.contenders import Assignment
from torchseg_zoo.benchmark.process import ContenderProcess
from torchseg_zoo.benchmark.result import Failure, Row, Timing
from torchseg_zoo.benchmark.runtimes import Runtime, require
from torchseg_zoo.benchmark.worker import Loaded, Warmed
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ZooError
from torchseg_zoo.evaluation.samples import read_labelled
from torchseg_zoo.export.quantize import CalibrationSet, Spread
from torchseg_zoo.files import sha256_of
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.metrics import ConfusionMatrix
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["Measurement", "Plan", "Subject"]

_CALLS = 3  # timed ones in each round
_WARM_CALLS = 2  # after the first
_FIRST_SCENE = 5


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Args:
        name: for tables and files.
        model: it is left as it is, but in evaluation mode.
        trained: whether it is worth scoring.
    """

    name: str
    model: SegmentationModel
    trained: bool = True


@dataclass(frozen=True)
class Plan:
    """The arguments of ``benchmark``, checked; sizes from small to large."""

    runtimes: tuple[Runtime, ...]
    sizes: tuple[Size, ...]
    batch: int
    threads: int
    rounds: int
    dataset: Dataset | None
    pictures: int
    calibration: CalibrationSet | Spread | None
    device: str
    watch: Callable[[str], object]

    def describe(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """The protocol, JSON-able."""
        return {
            "end_to_end": "decoded uint8 RGB in, uint8 labels at the picture's size out",
            "network": "normalised floats in, logits at the head's stride out",
            "order": "the runtimes of a model take turns, round by round, each in its own process; "
            "models one after the other",
            "batch": self.batch,
            "threads": self.threads,
            "rounds": self.rounds,
            "calls_per_round": _CALLS,
            "untimed_calls_per_round": 1,
            "warm_up_calls": 1 + _WARM_CALLS,
            "pictures": "drawn streets",
            "scored_pictures": self.pictures,
            "random_weights": [one.name for one in subjects if not one.trained],
        }


@dataclass
class _Entry:
    """A contender while it is measured."""

    runtime: Runtime
    sizes: tuple[Size, ...]
    files: Exported
    process: ContenderProcess
    loaded: Loaded
    rows: dict[Size, Row] = field(default_factory=dict)


class Measurement:
    """All runtimes of one model.

    Attributes:
        failures: so far.
    """

    def __init__(self, subject: Subject, plan: Plan, folder: Path) -> None:
        self._subject = subject
        self._plan = plan
        self._artefacts = Artefacts(
            subject.model.eval(),
            re.sub(r"[^\w.-]", "_", subject.name),
            folder,
            batch=plan.batch,
            device=plan.device,
            calibration=plan.calibration,
        )
        self._entries: list[_Entry] = []
        self.failures: list[Failure] = []

    def run(self) -> list[Row]:
        """Measures; what fails is in ``failures``."""
        with ExitStack() as stack:
            for runtime in self._plan.runtimes:
                self._start(runtime, stack)
            for size in self._plan.sizes:
                self._time_labels(size)
            if self._subject.trained and self._plan.dataset is not None:
                self._score(self._plan.dataset)
            # Last, because what is loaded for it is not to count as the artefact's memory.
            for size in self._plan.sizes:
                self._time_network(size)
        return [
            entry.rows[size]
            for size in self._plan.sizes
            for entry in self._entries
            if size in entry.rows
        ]

    def _start(self, runtime: Runtime, stack: ExitStack) -> None:
        """Exports and loads for a runtime: one file and process for all sizes, or one for each."""
        plan = self._plan
        with self._noting(runtime, None) as missing:
            require(runtime)
        if missing:
            return
        whole = self._artefacts.takes_any_size(runtime)
        for sizes in [plan.sizes] if whole else [(size,) for size in plan.sizes]:
            with self._noting(runtime, None if whole else sizes[0]):
                plan.watch(f"{self._subject.name}: exporting for {runtime.name}")
                files = self._artefacts.export(runtime, "dynamic" if whole else sizes[0])
                assignment = Assignment(
                    runtime.name, files.file, files.network, plan.threads, plan.device
                )
                process = stack.enter_context(ContenderProcess(assignment))
                self._entries.append(_Entry(runtime, sizes, files, process, process.load()))

    def _time_labels(self, size: Size) -> None:
        plan = self._plan
        entries = [entry for entry in self._entries if size in entry.sizes]
        if not entries:
            return
        pictures = _draw(size, plan.batch)
        wanted = np.stack([_labels(self._subject.model, picture) for picture in pictures])
        first: dict[Runtime, Warmed] = {}
        for entry in entries:
            with self._noting(entry.runtime, size):
                plan.watch(f"{self._subject.name}: {entry.runtime.name} warms up")
                first[entry.runtime] = entry.process.warm("end to end", pictures, _WARM_CALLS)
        ready = [entry for entry in entries if entry.runtime in first]
        for entry, times in self._turns(ready, size):
            warmed = first[entry.runtime]
            with self._noting(entry.runtime, size):
                entry.rows[size] = self._row(entry, size, times, warmed, wanted)

    def _time_network(self, size: Size) -> None:
        pictures = _draw(size, self._plan.batch)
        ready = []
        for entry in self._entries:
            if size in entry.rows:
                with self._noting(entry.runtime, size):
                    entry.process.warm("network", pictures, _WARM_CALLS)
                    ready.append(entry)
        for entry, times in self._turns(ready, size):
            entry.rows[size] = replace(entry.rows[size], network=Timing.of(times))

    def _turns(self, entries: Sequence[_Entry], size: Size) -> list[tuple[_Entry, list[float]]]:
        """Milliseconds of every call, contender by contender; those that failed are left out."""
        times: dict[Runtime, list[float]] = {entry.runtime: [] for entry in entries}
        for number in range(self._plan.rounds):
            height, width = size
            self._plan.watch(f"{self._subject.name}: {height}×{width}, round {number + 1}")
            for entry in entries:
                if entry.runtime in times:
                    with self._noting(entry.runtime, size) as noted:
                        times[entry.runtime] += entry.process.turn(_CALLS)
                    if noted:
                        del times[entry.runtime]
        return [(entry, times[entry.runtime]) for entry in entries if entry.runtime in times]

    def _row(
        self, entry: _Entry, size: Size, times: list[float], warmed: Warmed, wanted: np.ndarray
    ) -> Row:
        assert warmed.labels is not None
        memory = entry.process.memory()
        timing = Timing.of(times)
        file = entry.files.file
        return Row(
            model=self._subject.name,
            runtime=entry.runtime.name,
            precision=entry.runtime.precision,
            size=size,
            batch=self._plan.batch,
            device=entry.loaded.device,
            end_to_end=timing,
            network=None,
            pictures_per_second=round(1e3 * self._plan.batch / timing.p50_ms, 3),
            equal_percent=round(100 * float((warmed.labels == wanted).mean()), 4),
            peak_memory_mib=round(memory.peak, 1),
            running_memory_mib=None if memory.running is None else round(memory.running, 1),
            load_s=round(entry.loaded.seconds, 3),
            first_call_s=round(warmed.seconds, 3),
            miou_percent=None,
            artefact={
                "file": file.name,
                "bytes": file.stat().st_size,
                "sha256": sha256_of(file),
            },
        )

    def _score(self, dataset: Dataset) -> None:
        """The mIoU of every artefact that was timed."""
        for entry in self._entries:
            if not entry.rows:
                continue
            self._plan.watch(f"{self._subject.name}: scoring {entry.runtime.name}")
            matrix = ConfusionMatrix(
                self._subject.model.num_classes, ignore_index=dataset.labels.ignore_index
            )
            with self._noting(entry.runtime, None) as noted:
                for index in range(self._plan.pictures):
                    sample, truth = read_labelled(dataset, index)
                    found = entry.process.label(sample.image)
                    matrix.update(torch.from_numpy(truth), torch.from_numpy(found))
            if not noted:
                miou = round(matrix.scores().miou_percent, 4)
                for size, row in entry.rows.items():
                    entry.rows[size] = replace(row, miou_percent=miou)

    @contextmanager
    def _noting(self, runtime: Runtime, size: Size | None) -> Iterator[list[Failure]]:
        """Notes a failure, once for each runtime and size, and goes on.

        Yields:
            A list that holds the failure afterwards, if there was one.
        """
        noted: list[Failure] = []
        try:
            yield noted
        except ZooError as error:
            noted.append(Failure(self._subject.name, runtime.name, size, error))
            if all((one.runtime, one.size) != (runtime.name, size) for one in self.failures):
                self.failures += noted


def _draw(size: Size, batch: int) -> np.ndarray:
    """(N, H, W, 3) uint8: so many different street scenes."""
    return np.stack([draw_street(_FIRST_SCENE + index, size)[0] for index in range(batch)])


def _labels(model: SegmentationModel, picture: np.ndarray) -> np.ndarray:
    found: np.ndarray = label(model, picture).cpu().numpy()
    return found
