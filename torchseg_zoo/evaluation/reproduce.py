"""The published tables, row by row: what was printed, by which protocol, and what comes out here.

The rows are those of TorchSeg's README: Cityscapes, PASCAL VOC 2012, ADE20K, and real-time models,
whose labels that project shrank to 96×192; each of these has a second row at full size, for which
nobody printed a number. CamVid's row needs no download.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.distributed import Ranks
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation.verify import TOLERANCE_POINTS, Trial, departures, measure_trials
from torchseg_zoo.evaluation.workers import Workers
from torchseg_zoo.files import printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.registry import create_model
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.manifest import Checkpoint, Metric

__all__ = ["Reproduction", "Row", "find_row", "reproduce", "rows"]

_ORIGINS = ("TorchSeg (", "measured by this project")


@dataclass(frozen=True)
class _Needs:
    """What data a row needs: its place by default, and what to put there."""

    data: str
    put: str


_NEEDS = {
    "cityscapes": _Needs(
        "cityscapes:data/cityscapes",
        "leftImg8bit/val and gtFine/val, as leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip unpack (500 pictures)",
    ),
    "voc": _Needs(
        "voc:data/VOCdevkit/VOC2012",
        "JPEGImages, SegmentationClass and ImageSets, as VOCtrainval_11-May-2012.tar unpacks "
        "(1449 pictures in val)",
    ),
    "ade20k": _Needs(
        "ade20k:data/ADEChallengeData2016",
        "images/validation and annotations/validation, as ADEChallengeData2016.zip unpacks "
        "(2000 pictures)",
    ),
    "camvid": _Needs(
        "camvid:data/camvid",
        "val and valannot, as the SegNet tutorial distributes CamVid (101 pictures, 360×480)",
    ),
}

# Printed, and never released as a file: it has no entry among the checkpoints.
_FCN = Metric(
    dataset="voc",
    split="val",
    mode="sliding",
    miou_percent=71.26,
    source="TorchSeg (ycszen/TorchSeg), README of May 2019",
    protocol="windows of 512×512 every 342 pixels, scores summed; single scale; labels at full "
    "size",
    replay={
        "mode": {
            "mode": "sliding",
            "window": [512, 512],
            "stride": [342, 342],
            "merge": "torchseg",
        }
    },
)


@dataclass(frozen=True)
class Row:
    """One row of a published table.

    Args:
        name: model, tag and mode, e.g. ``"bisenet_r18 cityscapes msf"``.
        model: factory name.
        tag: of the checkpoint.
        metric: what was published, with its protocol.
        at_full_size: whether labels are scored at their own size although the published score is of
            smaller ones; nothing is published then.
    """

    name: str
    model: str
    tag: str
    metric: Metric
    at_full_size: bool = False

    @property
    def data(self) -> str:
        """Where its data are by default, as ``open_dataset`` takes it."""
        return _NEEDS[self.metric.dataset].data

    def describe(self) -> str:
        """What was published, by which protocol, and the data it needs, in lines for people."""
        metric, needs = self.metric, _NEEDS[self.metric.dataset]
        lines = [self.name]
        if self.at_full_size:
            lines.append(
                f"published: nothing at full size; {metric.miou_percent:.2f} % mIoU at "
                "{}×{}".format(*metric.replay["label_size"])
            )
            lines.append(f"protocol: {metric.protocol.partition(';')[0]}; labels at full size")
        else:
            accuracy = metric.pixel_accuracy_percent
            numbers = {"miou_percent": metric.miou_percent}
            numbers |= {} if accuracy is None else {"pixel_accuracy_percent": accuracy}
            lines.append(f"published for this file: {_in_words(numbers)} ({metric.source})")
            lines += [
                f"{name}: {_in_words(values)}"
                for name, values in (
                    ("earlier README of 2019", metric.earlier),
                    ("paper", metric.paper),
                )
                if values
            ]
            lines.append(f"protocol: {metric.protocol}")
        lines.append(f"data: {metric.dataset} {metric.split}: {needs.put}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Reproduction:
    """What was measured for a row.

    Args:
        row: what was published.
        trials: one for each preprocessing that comes into question.
        differences: where this measurement departs from the published protocol, in words.
    """

    row: Row
    trials: tuple[Trial, ...]
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether a trial reaches the published numbers within half a point, or there are none."""
        metric = self.row.metric
        return self.row.at_full_size or any(
            abs(trial.scores.miou_percent - metric.miou_percent) <= TOLERANCE_POINTS
            and abs(trial.scores.pixel_accuracy_percent - self._accuracy(trial)) <= TOLERANCE_POINTS
            for trial in self.trials
        )

    def _accuracy(self, trial: Trial) -> float:
        """The published pixel accuracy, or the measured one where none was published."""
        published = self.row.metric.pixel_accuracy_percent
        return trial.scores.pixel_accuracy_percent if published is None else published

    def report(self) -> str:
        """The row, what was measured, and how far apart they are, in lines for people."""
        lines = [self.row.describe()]
        for trial in self.trials:
            std = ", ".join(f"{value:g}" for value in trial.preprocess.std)
            scores = trial.scores
            apart = "" if self.row.at_full_size else self._apart(trial)
            lines.append(
                f"measured with std ({std}): {scores.miou_percent:.2f} % mIoU, "
                f"{scores.pixel_accuracy_percent:.2f} % pixel accuracy{apart}"
            )
        lines += [f"differs: {difference}" for difference in self.differences]
        if not self.row.at_full_size:
            reached = "reached" if self.holds else "not reached"
            lines.append(f"the published score is {reached} within {TOLERANCE_POINTS:g} points")
        return "\n".join(lines)

    def _apart(self, trial: Trial) -> str:
        metric = self.row.metric
        parts = [f"{_signed(trial.scores.miou_percent - metric.miou_percent)} points of mIoU"]
        if metric.pixel_accuracy_percent is not None:
            off = trial.scores.pixel_accuracy_percent - metric.pixel_accuracy_percent
            parts.append(f"{_signed(off)} of accuracy")
        return f" ({', '.join(parts)})"


def rows() -> list[Row]:
    """All rows, by data set and model."""
    found = [Row("fcn32s_r101 voc sliding", "fcn32s_r101", "voc", _FCN)]
    for entry in manifest.list_checkpoints():
        for metric in entry.metrics:
            if metric.source.startswith(_ORIGINS):
                found += _rows_of(entry, metric)
    order = list(_NEEDS)
    return sorted(found, key=lambda row: (order.index(row.metric.dataset), row.name))


def _rows_of(entry: Checkpoint, metric: Metric) -> list[Row]:
    name = f"{entry.model} {entry.tag.removesuffix('.torchseg')} {metric.mode}"
    found = [Row(name, entry.model, entry.tag, metric)]
    if "label_size" in metric.replay:
        full = f"{name} full-size"
        found.append(Row(full, entry.model, entry.tag, metric, at_full_size=True))
    return found


def find_row(name: str) -> Row:
    """The row of a name; spaces may be any.

    Raises:
        ArgumentError: if there is none; it names near ones.
    """
    known = {row.name: row for row in rows()}
    wanted = " ".join(name.split()).lower()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    raise ArgumentError(
        f"no row {name!r}",
        where="row",
        fix=f"did you mean {' or '.join(map(repr, near))}?" if near else "list them all first",
    )


def reproduce(
    row: Row,
    *,
    data: str | None = None,
    model: SegmentationModel | None = None,
    device: str = "cpu",
    workers: Workers | Ranks | None = None,
    record: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Reproduction:
    """Measures a row by its published protocol.

    Args:
        row: which one.
        data: where the data are, as ``open_dataset`` takes it; by default ``row.data``.
        model: instead of the released checkpoint, such as one trained anew.
        device: where to compute, unless ``workers`` do.
        workers: as in ``evaluate``, also ``record``, ``resume`` and ``progress``.

    Raises:
        DataError: if the data are not there; it says what to put where.
        UnknownCheckpointError: if the row's file was never released and no ``model`` is given.
        DownloadError, IntegrityError: if the checkpoint cannot be fetched.
    """
    _require_data(row, data)
    if model is None:
        entry = manifest.find(row.model, row.tag)
        model = create_model(f"{row.model}.{row.tag}")
    else:
        entry = _entry_of(row, model)
    model = model.to(device)
    dataset = open_dataset(data or row.data, row.metric.split, model.labels)
    trials = measure_trials(
        model,
        entry,
        row.metric,
        dataset,
        at_full_size=row.at_full_size,
        workers=workers,
        record=record,
        resume=resume,
        progress=progress,
    )
    return Reproduction(row, trials, departures(entry, row.metric, dataset, row.metric.split))


def _require_data(row: Row, data: str | None) -> None:
    name, _, place = row.data.partition(":")
    if data is None and not Path(place).exists():
        raise DataError(
            f"the data of this row, {row.metric.dataset} {row.metric.split}, are not here",
            where=printable(Path(place).absolute()),
            fix=f"put {_NEEDS[row.metric.dataset].put} there, or give their place: data= "
            f"(--data {name}:PATH)",
        )


def _entry_of(row: Row, model: SegmentationModel) -> Checkpoint:
    """What stands for the released checkpoint when another model is measured."""
    return Checkpoint(
        model=row.model,
        tag=row.tag,
        config=model.config.to_dict(),
        sources=(),
        sha256="",
        size_bytes=None,
        layout="native",
        preprocess=model.preprocess,
        labels=model.labels,
    )


def _in_words(numbers: Mapping[str, float]) -> str:
    words = {"miou_percent": "mIoU", "pixel_accuracy_percent": "pixel accuracy"}
    return ", ".join(
        f"{numbers[key]:.2f} % {word}" for key, word in words.items() if key in numbers
    )


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"
