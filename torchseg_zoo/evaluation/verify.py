"""Does a checkpoint reach its published score here, and which preprocessing does it want?

TorchSeg's checkpoints were published on the day on which its code began to divide pictures by a
standard deviation, and nothing in the files says whether they were trained before or after. So a
checkpoint whose std is unverified is scored with both, and the published score decides.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchseg_zoo.data.preprocess import IMAGENET_STD, Preprocess
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.evaluation.result import Evaluation
from torchseg_zoo.evaluation.workers import Workers
from torchseg_zoo.inference.modes import Mode, mode_from_dict
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.weights.manifest import Checkpoint, Metric

__all__ = [
    "TOLERANCE_POINTS",
    "Trial",
    "Verification",
    "departures",
    "measure_trials",
    "mode_of",
    "verify",
]

TOLERANCE_POINTS = 0.5
"""How far a score may be from the published one by default, in points of mIoU percent: resizing and
rounding of other libraries move it by tenths, a wrong preprocessing by whole points."""

_UNDIVIDED = (1.0, 1.0, 1.0)
_STD = "preprocess.std"
# Pictures of each validation split, as published.
_PICTURES = {
    ("ade20k", "val"): 2000,
    ("camvid", "val"): 101,
    ("cityscapes", "val"): 500,
    ("coco_stuff10k", "val"): 1000,
    ("coco_stuff164k", "val"): 5000,
    ("voc", "val"): 1449,
}


@dataclass(frozen=True)
class Trial:
    """Scores under one preprocessing."""

    preprocess: Preprocess
    scores: Evaluation


@dataclass(frozen=True)
class Verification:
    """What was measured, beside what is published.

    Args:
        checkpoint: the manifest's entry.
        metric: its published score.
        tolerance_points: how far from it a score may be, in points of mIoU percent.
        trials: one for each candidate preprocessing.
        differences: where this measurement departs from the published protocol, in words.
    """

    checkpoint: Checkpoint
    metric: Metric
    tolerance_points: float
    trials: tuple[Trial, ...]
    differences: tuple[str, ...]

    @property
    def holding(self) -> tuple[Trial, ...]:
        """The trials whose score is the published one, within the tolerance."""
        return tuple(t for t in self.trials if abs(self._off(t)) <= self.tolerance_points)

    @property
    def nearest(self) -> Trial:
        """The trial whose score is nearest to the published one."""
        return min(self.trials, key=lambda trial: abs(self._off(trial)))

    @property
    def verified(self) -> bool:
        """Whether exactly one preprocessing reaches the published score."""
        return len(self.holding) == 1

    def _off(self, trial: Trial) -> float:
        miou = trial.scores.miou_percent
        return miou - self.metric.miou_percent if miou == miou else float("inf")

    def report(self) -> str:
        """All of it in lines for people: the measured, the verdict, and what to write where."""
        metric = self.metric
        where = f"{metric.dataset} {metric.split}, {metric.mode}"
        lines = [
            f"{self.checkpoint.name}: published {metric.miou_percent:.2f} % mIoU ({where}; "
            f"{metric.source or 'source not stated'})"
        ]
        if metric.protocol:
            lines.append(f"protocol: {metric.protocol}")
        lines += [
            f"std {_numbers(trial.preprocess.std)}: {trial.scores.miou_percent:.2f} % mIoU, "
            f"{round(self._off(trial), 2) + 0.0:+.2f} points"
            for trial in self.trials
        ]
        lines += [f"differs: {difference}" for difference in self.differences]
        return "\n".join([*lines, self._verdict(), *self._advice()])

    def _verdict(self) -> str:
        within = f"within the tolerance of {self.tolerance_points:g} points"
        doubt = ", but the protocol differs" if self.differences else ""
        near = f"std {_numbers(self.nearest.preprocess.std)}"
        if len(self.trials) == 1:
            reached = "is reached" if self.verified else "is not reached"
            return f"verdict: the published score {reached}, {within}{doubt}"
        if self.verified:
            return f"verdict: {near} holds, {within}{doubt}"
        if self.holding:
            return f"verdict: both are {within}, so this data cannot tell; {near} is nearer{doubt}"
        return f"verdict: neither is {within}; {near} is nearer{doubt}"

    def _advice(self) -> list[str]:
        if not self.verified:
            first = "evaluate by the protocol above" if self.differences else "check the labels"
            return [f"to do: {first}; the manifest stays as it is"]
        if self.differences:
            return ["to do: evaluate by the protocol above before changing the manifest"]
        entry, std = self.checkpoint, list(self.nearest.preprocess.std)
        changes = []
        if tuple(std) != entry.preprocess.std:
            changes.append(f'set "std": {std} in its "preprocess"')
        if _STD in entry.unverified:
            changes.append(f'take "{_STD}" out of its "unverified"')
        if entry.status != "scored":
            changes.append('set its "status": "scored"')
        if not changes:
            return []
        return [
            f"to do: in weights_manifest.json, entry {entry.name}: {', '.join(changes)}; then run "
            "tools/readme_tables.py"
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "checkpoint": self.checkpoint.name,
            "published": dataclasses.asdict(self.metric),
            "tolerance_points": self.tolerance_points,
            "trials": [
                {"preprocess": trial.preprocess.to_dict(), "scores": trial.scores.to_dict()}
                for trial in self.trials
            ],
            "differences": list(self.differences),
            "verified": self.verified,
        }


def verify(
    model: SegmentationModel,
    checkpoint: Checkpoint,
    dataset: Dataset,
    *,
    split: str = "val",
    score: str = "",
    tolerance_points: float = TOLERANCE_POINTS,
    workers: Workers | Ranks | None = None,
    record: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Verification:
    """Scores a released checkpoint by its published protocol, under each candidate preprocessing.

    Args:
        model: the checkpoint's model; its preprocessing is put back afterwards.
        checkpoint: the manifest's entry.
        dataset: labelled pictures of the data set that the score was published for.
        split: what ``dataset`` is of it, e.g. ``"val"``.
        score: mode of the published score, e.g. ``"msf"``; by default the single-scale one.
        tolerance_points: how far from it a score may be, in points of mIoU percent, 0..100.
        workers: as in ``evaluate``.
        record: folder for the records of all candidates; as in ``evaluate``, also ``resume``.
        progress: show a bar on stderr for each candidate.

    Raises:
        ArgumentError: if no such score is published, or the tolerance is none.
        DataError: as ``evaluate``.
    """
    metric = checkpoint.metric(score)
    if metric is None:
        known = ", ".join(sorted({one.mode for one in checkpoint.metrics})) or "none"
        raise ArgumentError(
            f"{checkpoint.name} has no published {score or 'single-scale'} score",
            where="score",
            fix=f"published: {known}",
        )
    if not 0 <= tolerance_points <= 100:
        raise ArgumentError(
            f"{tolerance_points} is no tolerance", where="tolerance_points", fix="e.g. 0.5"
        )
    trials = measure_trials(
        model,
        checkpoint,
        metric,
        dataset,
        workers=workers,
        record=record,
        resume=resume,
        progress=progress,
    )
    differences = departures(checkpoint, metric, dataset, split)
    return Verification(checkpoint, metric, tolerance_points, trials, differences)


def measure_trials(
    model: SegmentationModel,
    checkpoint: Checkpoint,
    metric: Metric,
    dataset: Dataset,
    *,
    at_full_size: bool = False,
    workers: Workers | Ranks | None = None,
    record: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> tuple[Trial, ...]:
    """Scores a checkpoint by a metric's protocol, under each candidate preprocessing.

    Args:
        model: see ``verify``, also for ``checkpoint``, ``dataset``, and what is passed on.
        metric: whose mode, resizing and label size are taken.
        at_full_size: score labels at their own size whatever the metric says.
    """
    size = None if at_full_size else metric.replay.get("label_size")
    before = model.preprocess
    trials = []
    try:
        for preprocess in _candidates(checkpoint):
            model.preprocess = _fitted(preprocess, metric.replay.get("resize"))
            scores = evaluate(
                model,
                dataset,
                mode=mode_of(metric),
                label_size=(size[0], size[1]) if size else None,
                workers=workers,
                record=None if record is None else Path(record) / _folder_of(preprocess),
                resume=resume,
                progress=progress,
            )
            trials.append(Trial(preprocess, scores))
    finally:
        model.preprocess = before
    return tuple(trials)


def mode_of(metric: Metric) -> Mode | None:
    """The inference mode that a score was published for; ``None`` if that is not known."""
    return mode_from_dict(metric.replay["mode"]) if "mode" in metric.replay else None


def _folder_of(preprocess: Preprocess) -> str:
    return "std-" + "-".join(f"{value:g}" for value in preprocess.std)


def _candidates(checkpoint: Checkpoint) -> list[Preprocess]:
    """The entry's own preprocessing first, then what else an unverified std may be."""
    own = checkpoint.preprocess
    if _STD not in checkpoint.unverified:
        return [own]
    others = [std for std in (IMAGENET_STD, _UNDIVIDED) if std != own.std]
    return [own, *(dataclasses.replace(own, std=std) for std in others)]


def _fitted(preprocess: Preprocess, resize: Mapping[str, int] | None) -> Preprocess:
    """The same with the published score's own resizing."""
    if not resize:
        return preprocess
    return dataclasses.replace(
        preprocess,
        resize=None,
        short_side=resize.get("short_side"),
        long_side=resize.get("long_side"),
    )


def departures(
    checkpoint: Checkpoint, metric: Metric, dataset: Dataset, split: str
) -> tuple[str, ...]:
    """Where a measurement on this data departs from a metric's protocol, in words."""
    found = []
    if dataset.labels.name != checkpoint.labels.name:
        found.append(
            f"the labels are those of {dataset.labels.name}, not of {checkpoint.labels.name}"
        )
    if split != metric.split:
        found.append(f"this is {split}, the score is for {metric.split}")
    expected = _PICTURES.get((metric.dataset, metric.split))
    if expected is not None and len(dataset) != expected:
        found.append(f"{len(dataset)} pictures, {metric.dataset} {metric.split} has {expected}")
    if mode_of(metric) is None and metric.mode != "whole":
        found.append(f"the published mode, {metric.mode}, cannot be replayed; pictures went whole")
    return tuple(found)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
