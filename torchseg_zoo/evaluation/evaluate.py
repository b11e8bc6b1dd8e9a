"""Evaluation on labelled pictures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import ArgumentError, DataError, EvaluationError, ZooError
from torchseg_zoo.evaluation.counts import Outcome, PictureCounts, Tally
from torchseg_zoo.evaluation.measure import ENOUGH, Plan, measured
from torchseg_zoo.evaluation.outputs import plan_outputs
from torchseg_zoo.evaluation.protocol import (
    METRICS_VERSION,
    Origin,
    describe_device,
    describe_run,
    list_digest,
    software,
)
from torchseg_zoo.evaluation.record import EvaluationRecord, clear_records
from torchseg_zoo.evaluation.result import Evaluation, PictureScore
from torchseg_zoo.evaluation.samples import check_classes
from torchseg_zoo.evaluation.workers import Workers
from torchseg_zoo.files import printable
from torchseg_zoo.inference.modes import (
    Mode,
    MultiScaleFlip,
    Sliding,
    check_mode,
    default_mode,
)
from torchseg_zoo.journal import flat
from torchseg_zoo.metrics import Scores
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size
from torchseg_zoo.weights.save import tensors_digest

__all__ = ["OnBadSample", "evaluate"]

OnBadSample = Literal["stop", "skip"]


def evaluate(
    model: SegmentationModel,
    dataset: Dataset,
    *,
    mode: Mode | None = None,
    label_size: Size | None = None,
    boundary_share: float | None = None,
    reliability: bool = False,
    on_bad_sample: OnBadSample = "stop",
    fast: bool = False,
    workers: Workers | Ranks | None = None,
    record: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_labels: str | os.PathLike[str] | None = None,
    save_pictures: str | os.PathLike[str] | None = None,
    watch: Callable[[PictureScore, Scores], object] | None = None,
    origin: Origin | None = None,
    progress: bool = True,
) -> Evaluation:
    """Scores a model at the size of the label maps.

    Scores are made of whole numbers per picture. So they do not depend on who counted which
    picture, in which order, or after how many interruptions.

    Args:
        model: the model; whether it was training is put back afterwards.
        dataset: pictures with labels in the model's classes.
        mode: ``Whole``, ``Sliding`` or ``MultiScaleFlip``; by default ``Whole`` (single scale, no
            flip), or for a model of one fixed input size windows of that size.
        label_size: (height, width) that label maps are brought to, by nearest neighbour, and scored
            at; by default their own. A score at another size is not comparable.
        boundary_share: also measure boundary IoU, in bands of this share of the picture's diagonal;
            see ``metrics.BoundaryOverlap``.
        reliability: also measure whether confidences are true; they take some time.
        on_bad_sample: ``"skip"`` leaves out samples that cannot be read and lists them in the
            result; ``"stop"`` raises for the first one.
        fast: measure a fused copy of the model, as ``Predictor`` prepares it. Its logits differ by
            about 1e-5, which moves single pixels; published digits are compared without it.
        workers: processes to share the pictures among: ``Workers`` on this machine, or ``Ranks``
            of a launcher, all of which must call this and get the same result.
        record: folder to write down in what was counted, picture by picture.
        resume: go on from the records in that folder.
        save_labels: folder to write each predicted label map to, a palette PNG of class indices.
        save_pictures: folder to write photo, truth and prediction to, side by side.
        watch: called with each picture's score and the scores of all so far; a ``ZooError`` that it
            raises ends the evaluation, among ranks that of all.
        origin: where model and data came from, for the protocol.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if the model cannot work in ``mode``, or an argument is out of range.
        DataError: if the classes differ, the set is empty, a sample cannot be read or has no
            labels, a file cannot be written, or no pixel of all label maps has a class.
        ResumeError: if the record is of another run; it names the differences.
        EvaluationError: if the processes that share the pictures died, or ranks differ in what they
            would count.
    """
    if on_bad_sample not in get_args(OnBadSample):
        raise ArgumentError(
            f"no way {on_bad_sample!r}", where="on_bad_sample", fix="give 'stop' or 'skip'"
        )
    if resume and record is None:
        raise ArgumentError("there is no record", where="resume", fix="name its folder: record=")
    check_classes(model, dataset)
    labels = dataset.labels
    mode = default_mode(model.input_rule) if mode is None else mode
    check_mode(mode, model.input_rule)
    tally = Tally(
        model.num_classes,
        ignore_index=labels.ignore_index,
        boundary_share=boundary_share,
        reliability=reliability,
    )
    plan = Plan(
        mode=mode,
        label_size=label_size,
        boundary_share=boundary_share,
        reliability=reliability,
        skip_bad=on_bad_sample == "skip",
        fast=fast,
        outputs=plan_outputs(dataset, save_labels, save_pictures),
    )
    origin = origin or Origin()
    run = _what_counts_depend_on(model, dataset, plan, origin, workers)
    if isinstance(workers, Ranks):
        _require_one_run(run, workers)
    with ExitStack() as stack:
        kept = None
        if record is not None:
            if isinstance(workers, Ranks) and not resume:
                _clear_together(Path(record), workers)
            kept = EvaluationRecord(
                Path(record),
                run,
                dataset,
                plan.outputs,
                num_classes=model.num_classes,
                rank=workers.rank if isinstance(workers, Ranks) else 0,
                resume=resume,
            )
            stack.enter_context(kept)
        notice = _SmallPictures(model, mode)
        bar = tqdm(total=len(dataset), desc="evaluate", disable=not progress, leave=False)
        stack.enter_context(bar)

        def take(outcome: Outcome) -> None:
            bar.update()
            score = tally.add(outcome)
            if isinstance(outcome, PictureCounts):
                notice.look_at(outcome)
            if score is not None and watch is not None:
                watch(score, tally.scores())

        _count(model, dataset, plan, workers, kept, take)
    return _evaluation(model, dataset, plan, tally, origin, _device(model, workers))


def _count(
    model: SegmentationModel,
    dataset: Dataset,
    plan: Plan,
    workers: Workers | Ranks | None,
    kept: EvaluationRecord | None,
    take: Callable[[Outcome], None],
) -> None:
    """Takes every picture once: what the record has, then what is measured now and recorded."""
    ranks = workers if isinstance(workers, Ranks) else None
    done = dict(kept.done) if kept is not None else {}
    if ranks is not None:
        for theirs in ranks.gather(done):
            done = theirs | done
    todo = [index for index in range(len(dataset)) if index not in done]
    if ranks is not None:
        todo = ranks.share(todo)
    each = (
        workers.run(model, dataset, plan, todo)
        if isinstance(workers, Workers)
        else measured(model, dataset, plan, _one_by_one(todo))
    )
    found: list[Outcome] = []
    with _raised_by_all(ranks):
        for recorded in done.values():
            take(recorded)
        for outcome in each:
            if kept is not None:
                kept.add(outcome)
            if ranks is not None:
                found.append(outcome)
            take(outcome)
    if ranks is not None:
        by_rank = ranks.gather(found)
        with _raised_by_all(ranks):
            for rank, others in enumerate(by_rank):
                for outcome in others if rank != ranks.rank else ():
                    take(outcome)


@contextmanager
def _raised_by_all(ranks: Ranks | None) -> Iterator[None]:
    """An error of one rank becomes an error of all, once the others have done their part too."""
    error = None
    try:
        yield
    except ZooError as caught:
        if ranks is None:
            raise
        error = caught
    for theirs in ranks.gather(error) if ranks is not None else ():
        if theirs is not None:
            raise error or theirs


def _one_by_one(indices: Sequence[int]) -> Callable[[bool], int]:
    rest = iter(indices)
    return lambda may_wait: next(rest, ENOUGH)


def _require_one_run(run: dict[str, Any], ranks: Ranks) -> None:
    """Refuses ranks that would count different things, as with other weights on one machine."""
    mine = dict(flat(run))
    for rank, theirs in enumerate(ranks.gather(mine)):
        # A folder may be mounted at another place on each machine.
        names = [
            name
            for name in dict.fromkeys((*mine, *theirs))
            if mine.get(name) != theirs.get(name) and name not in ("data.name", "data.root")
        ]
        if names:
            raise EvaluationError(
                f"rank {rank} has another {', '.join(names)}",
                where=f"rank {ranks.rank} of {ranks.size}",
                why="; ".join(f"{n}: {mine.get(n)!r}, there {theirs.get(n)!r}" for n in names),
                fix="give all machines the same model, data, options and versions",
            )


def _clear_together(folder: Path, ranks: Ranks) -> None:
    """The first rank removes old records, before anybody writes a new one."""
    if ranks.is_first and folder.is_dir():
        clear_records(folder)
    ranks.gather(None)


def _what_counts_depend_on(
    model: SegmentationModel,
    dataset: Dataset,
    plan: Plan,
    origin: Origin,
    workers: Workers | Ranks | None,
) -> dict[str, Any]:
    first = next(model.parameters())
    kinds = {first.device.type}
    if isinstance(workers, Workers):
        kinds = {device.partition(":")[0] for device in workers.devices}
    return {
        "data": {
            "name": origin.data,
            "split": origin.split,
            "root": origin.root,
            "count": len(dataset),
            "labels": dataset.labels.to_dict(),
        },
        "model": {
            "config": model.config.to_dict(),
            "weights_sha256": tensors_digest(model.state_dict()),
            "temperature": model.temperature,
            "fast": plan.fast,
        },
        "mode": plan.mode.to_dict(),
        "preprocess": model.preprocess.to_dict(),
        "label_size": plan.label_size,
        "boundary_share": plan.boundary_share,
        "reliability": plan.reliability,
        "metrics_version": METRICS_VERSION,
        "software": software(),
        "device": {"types": sorted(kinds), "dtype": str(first.dtype)},
    }


class _SmallPictures:
    """Says once that pictures are smaller than the windows, and what becomes of them."""

    def __init__(self, model: SegmentationModel, mode: Mode) -> None:
        view = mode.view if isinstance(mode, MultiScaleFlip) else mode
        self._window = view.window if isinstance(view, Sliding) else None
        self._input_size = model.preprocess.input_size

    def look_at(self, picture: PictureCounts) -> None:
        if self._window is None:
            return
        height, width = self._input_size(*picture.size)
        if height < self._window[0] and width < self._window[1]:
            window, name = f"{self._window[0]}×{self._window[1]}", printable(picture.name)
            warnings.warn(
                f"the window {window} is larger than {name} ({height}×{width}); such pictures are "
                "taken whole",
                stacklevel=4,
            )
            self._window = None


def _device(model: SegmentationModel, workers: Workers | Ranks | None) -> dict[str, Any]:
    """What the pictures were measured on, for the protocol."""
    if isinstance(workers, Workers):
        return dict(workers.device)
    own = describe_device(next(model.parameters()))
    return {**own, "processes": workers.size if isinstance(workers, Ranks) else 1}


def _evaluation(
    model: SegmentationModel,
    dataset: Dataset,
    plan: Plan,
    tally: Tally,
    origin: Origin,
    device: dict[str, Any],
) -> Evaluation:
    counts = tally.matrix.counts
    if not counts.any():
        skipped = f"; {len(tally.skipped)} could not be read" if tally.skipped else ""
        raise DataError(
            f"no pixel of the {len(dataset)} label maps has a class{skipped}",
            why=tally.skipped[0].message if tally.skipped else None,
            fix="check the label files and what their values mean",
        )
    return Evaluation(
        **vars(tally.scores()),
        confusion=counts.numpy(),
        pictures=tally.pictures,
        protocol=describe_run(
            model,
            dataset.labels,
            plan.mode,
            files_sha256=list_digest(tally.samples),
            count=len(tally.samples),
            labelled_pixels=int(counts.sum()),
            label_size=plan.label_size,
            origin=origin,
            device=device,
            skipped=len(tally.skipped),
            fast=plan.fast,
        ),
        boundary_share=plan.boundary_share,
        boundary_iou_percent=tally.boundary_iou_percent,
        reliability=tally.reliability,
        temperature=model.temperature,
        skipped=tally.skipped,
    )
