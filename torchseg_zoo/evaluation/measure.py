"""Measuring pictures in one process, on one device, without waiting for it longer than need be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.errors import DataError
from torchseg_zoo.evaluation.counts import Outcome, PictureCounts
from torchseg_zoo.evaluation.outputs import Outputs
from torchseg_zoo.evaluation.result import SkippedPicture
from torchseg_zoo.evaluation.samples import evaluating, read_labelled, scored
from torchseg_zoo.inference.modes import Mode
from torchseg_zoo.inference.predictor import Predictor
from torchseg_zoo.metrics import BoundaryOverlap, ReliabilityCounts, count_pairs
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["ENOUGH", "NOTHING_YET", "Plan", "ahead_of", "measured"]

NOTHING_YET, ENOUGH = -1, -2
"""What ``measured`` is told instead of an index: ask again later, and that there are no more."""

_AHEAD_OF_GPU = 3
_MOST_LANES = 4  # each holds the activations of a picture
_ALIGNMENT = 64  # bytes, of what PyTorch allocates on a CPU


@dataclass(frozen=True)
class Plan:
    """What is measured in every picture; for the fields see ``evaluate``.

    Args:
        skip_bad: whether a sample that cannot be read is left out.
        outputs: files to write.
    """

    mode: Mode
    label_size: Size | None = None
    boundary_share: float | None = None
    reliability: bool = False
    skip_bad: bool = False
    fast: bool = False
    outputs: Outputs = field(default_factory=Outputs)


def ahead_of(device: torch.device) -> int:
    """How many pictures to hand to this process at once, for a model on ``device``.

    A GPU must not wait while the next picture is read. On a CPU each picture is computed by one
    thread, because kernels round by how many threads share them; so several are in work at once.
    """
    if device.type == "cpu":
        return min(torch.get_num_threads(), _MOST_LANES)
    return _AHEAD_OF_GPU


def measured(
    model: SegmentationModel, dataset: Dataset, plan: Plan, more: Callable[[bool], int]
) -> Iterator[Outcome]:
    """Measures the pictures it is told to, on a CPU in any order.

    Args:
        model: on its device; whether it was training is put back afterwards.
        dataset: pictures with labels.
        plan: what to measure.
        more: gives the next index, or ``ENOUGH``; or, unless its argument says to wait,
            ``NOTHING_YET``. Called from this thread only.

    Raises:
        ArgumentError: if the model cannot work in the plan's mode.
        DataError: if a sample cannot be read and bad ones are not skipped, or a file cannot be
            written.
    """
    network = Predictor(model).model if plan.fast else model
    device = next(model.parameters()).device
    each = _on_cpu if device.type == "cpu" else _on_gpu
    if device.type == "cpu":
        _align(network)
    with evaluating(network):
        yield from each(network, dataset, plan, more, ahead_of(device))


def _align(model: SegmentationModel) -> None:
    """Moves weights to where PyTorch itself would have put them.

    Those of a mapped file lie where the file has them, those of a file that was read elsewhere, and
    convolutions round by the alignment: by 2e-6, which moves a pixel now and then.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def _on_cpu(
    model: SegmentationModel,
    dataset: Dataset,
    plan: Plan,
    more: Callable[[bool], int],
    lanes: int,
) -> Iterator[Outcome]:
    def one(index: int) -> Outcome:
        return _measure(model, dataset, plan, index, partial(read_labelled, dataset, index)).wait()

    working: set[Future[Outcome]] = set()
    open_ = True
    with _one_thread_each(), ThreadPoolExecutor(lanes) as pool:
        try:
            while True:
                while open_ and len(working) < lanes:
                    index = more(not working)
                    if index == NOTHING_YET:
                        break
                    open_ = index != ENOUGH
                    if open_:
                        working.add(pool.submit(one, index))
                if not working:
                    return
                # Pictures may be handed over while others are in work, so it is asked again soon.
                done, working = wait(working, None if not open_ else 0.02, FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Kernels run in the thread that calls them, throughout the process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _on_gpu(
    model: SegmentationModel,
    dataset: Dataset,
    plan: Plan,
    more: Callable[[bool], int],
    ahead: int,
) -> Iterator[Outcome]:
    waiting: deque[tuple[int, Future[tuple[Sample, np.ndarray]]]] = deque()
    pending: _Pending | None = None
    open_ = True
    with ThreadPoolExecutor(1) as reader:
        while True:
            while open_ and len(waiting) < ahead:
                index = more(not waiting and pending is None)
                if index == NOTHING_YET:
                    break
                open_ = index != ENOUGH
                if open_:
                    waiting.append((index, reader.submit(read_labelled, dataset, index)))
            following = None
            if waiting:
                index, reading = waiting.popleft()
                following = _measure(model, dataset, plan, index, reading.result)
            if pending is not None:
                yield pending.wait()
            pending = following
            if pending is not None and pending.ready:
                yield pending.wait()
                pending = None
            if pending is None and not waiting and not open_:
                return


def _measure(
    model: SegmentationModel,
    dataset: Dataset,
    plan: Plan,
    index: int,
    read: Callable[[], tuple[Sample, np.ndarray]],
) -> _Pending:
    try:
        sample, label = read()
    except DataError as error:
        if not plan.skip_bad:
            raise
        return _Pending(SkippedPicture(index, error.where or f"sample {index}", str(error)))
    classes, ignored = model.num_classes, dataset.labels.ignore_index
    with torch.inference_mode():
        truth, result = scored(model, sample, label, plan.mode, label_size=plan.label_size)
        found = result.labels()
        tables = {"pairs": count_pairs(truth, found, classes, ignore_index=ignored)}
        if plan.boundary_share is not None:
            boundary = BoundaryOverlap(classes, ignore_index=ignored, share=plan.boundary_share)
            boundary.update(truth, found)
            tables["boundary"] = boundary.sums
        if plan.reliability:
            bins = ReliabilityCounts()
            labelled = (truth < classes) & (truth != ignored)
            confidence = result.confidence(temperature=model.temperature)
            bins.update(confidence, truth == found, labelled)
            tables["reliability"] = bins.sums
    files: tuple[str, ...] = ()
    if plan.outputs:
        maps = truth.cpu().numpy(), found.cpu().numpy()
        files = plan.outputs.write(index, dataset, sample, *maps)
    size = sample.image.shape[0], sample.image.shape[1]
    about = {"name": sample.name, "size": size, "pixels": truth.numel(), "files": files}
    return _Pending({"index": index, **about}, tables)


class _Pending:
    """What was measured in a picture, on its way from the device.

    Args:
        known: an outcome that is known already, or the arguments of ``PictureCounts``.
        tables: its counts, on the device.
    """

    def __init__(
        self, known: SkippedPicture | dict[str, Any], tables: dict[str, Tensor] | None = None
    ) -> None:
        self._known = known
        # Copied behind the work that is queued already, and not waited for until more is queued.
        self._tables = {
            name: table.to("cpu", non_blocking=True) for name, table in (tables or {}).items()
        }
        self._arrived = None
        if any(table.device.type == "cuda" for table in (tables or {}).values()):
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    @property
    def ready(self) -> bool:
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def wait(self) -> Outcome:
        if isinstance(self._known, SkippedPicture):
            return self._known
        if self._arrived is not None:
            self._arrived.synchronize()
        tables: dict[str, Any] = {name: table.numpy() for name, table in self._tables.items()}
        flat = tables.pop("pairs").reshape(-1)
        positions = np.flatnonzero(flat)
        return PictureCounts(**self._known, pairs=np.stack([positions, flat[positions]]), **tables)
