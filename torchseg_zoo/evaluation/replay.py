"""A recorded score, measured again."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.data.datasets.classes import read_classes
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, ZooError
from torchseg_zoo.evaluation.evaluate import evaluate
from torchseg_zoo.evaluation.protocol import Difference, Origin
from torchseg_zoo.evaluation.result import Card, Evaluation, compared_scores, read_card
from torchseg_zoo.files import printable
from torchseg_zoo.inference.modes import mode_from_dict
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import load_model
from torchseg_zoo.registry import create_model

__all__ = ["TOLERANCE_POINTS", "Replay", "replay"]

TOLERANCE_POINTS = 0.01


@dataclass(frozen=True)
class Replay:
    """A recorded score beside the one measured now.

    Args:
        card: what was recorded.
        evaluation: what was measured now.
        differences: fields in which the protocols differ, decisive ones first.
        moved: score → (recorded, now) of every score further apart than the tolerance.
    """

    card: Card
    evaluation: Evaluation
    differences: tuple[Difference, ...]
    moved: dict[str, tuple[float, float]]

    @property
    def holds(self) -> bool:
        """Whether all scores were found again, on the same data, model and rules."""
        return not self.moved and not any(one.decisive for one in self.differences)

    def describe(self) -> str:
        """The outcome in lines for people: every difference, then the verdict."""
        lines = [f"{'differs' if one.decisive else 'note'}: {one}" for one in self.differences]
        lines += [
            f"moved: {name} was {before:.4f}, is {now:.4f}"
            for name, (before, now) in self.moved.items()
        ]
        recorded = self.card.scores["miou_percent"]
        verdict = "holds" if self.holds else "does not hold"
        lines.append(
            f"the score {verdict}: mean IoU {self.evaluation.miou_percent:.4f} %, "
            f"recorded {recorded:.4f} %"
        )
        return "\n".join(lines)


def replay(
    card: str | os.PathLike[str],
    *,
    model: SegmentationModel | None = None,
    dataset: Dataset | None = None,
    checkpoint: str | None = None,
    data: str | None = None,
    root: str | None = None,
    classes: str | None = None,
    device: torch.device | None = None,
    tolerance_points: float = TOLERANCE_POINTS,
    progress: bool = True,
) -> Replay:
    """Measures a recorded score again, by its own protocol.

    Args:
        card: file that ``write_card`` wrote.
        model: instead of the one that the card names.
        dataset: instead of the one that the card names.
        checkpoint: model file instead of the one that the card names.
        data: what ``open_dataset`` takes instead of what the card names; the split is the card's.
        root: of ``data``, or of the card's data.
        classes: classes file of ``data``, or of the card's data; see ``read_classes``.
        device: where to compute; by default where the model is.
        tolerance_points: how far a score may be from the recorded one, in points of percent. The
            default allows for the rounding of other machines.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if the card names no model or data set that can be opened, and none is given.
        DataError: if it is no card; else as ``open_dataset`` and ``evaluate``.
        UnknownCheckpointError, CheckpointFormatError, DownloadError: as loading the model.
    """
    record = read_card(card)
    protocol = record.protocol
    try:
        mode = mode_from_dict(protocol.mode)
        label_size = _size(protocol.label_size)
    except (ZooError, TypeError, ValueError) as error:
        raise ArgumentError(
            "its protocol cannot be carried out",
            where=printable(card),
            why=str(error),
            fix="evaluate again and keep the new card",
        ) from error
    origin = _origin(protocol.origin, checkpoint, data, root, classes)
    if model is None:
        model = _model(origin, card)
    if device is not None:
        model = model.to(device)
    if dataset is None:
        dataset = _dataset(origin, model, card)
    evaluation = evaluate(
        model,
        dataset,
        mode=mode,
        label_size=label_size,
        boundary_share=record.boundary_share,
        on_bad_sample="skip" if record.skipped else "stop",
        fast=bool(protocol.model.get("fused")),
        origin=origin,
        progress=progress,
    )
    return Replay(
        record,
        evaluation,
        protocol.differences(evaluation.protocol),
        _moved(record.scores, compared_scores(evaluation.to_dict()), tolerance_points),
    )


def _origin(
    recorded: Origin,
    checkpoint: str | None,
    data: str | None,
    root: str | None,
    classes: str | None,
) -> Origin:
    """Where model and data are now: as recorded, unless something else was given."""
    origin = recorded
    if checkpoint:
        origin = dataclasses.replace(origin, model="", checkpoint=checkpoint)
    if data:
        origin = dataclasses.replace(origin, data=data, root="", classes="")
    if root:
        origin = dataclasses.replace(origin, root=root)
    return dataclasses.replace(origin, classes=classes) if classes else origin


def _dataset(origin: Origin, model: SegmentationModel, card: object) -> Dataset:
    if origin.data:
        return open_dataset(
            origin.data,
            origin.split,
            model.labels,
            root=origin.root or None,
            classes=read_classes(origin.classes) if origin.classes else None,
        )
    raise ArgumentError(
        "the card does not say which data",
        where=printable(card),
        why="the data set was made in Python",
        fix="give dataset= or data= (--data)",
    )


def _model(origin: Origin, card: object) -> SegmentationModel:
    if origin.model:
        return create_model(origin.model)
    if origin.checkpoint:
        return load_model(origin.checkpoint)
    raise ArgumentError(
        "the card does not say which model file",
        where=printable(card),
        why="the model was made in Python",
        fix="give model= or checkpoint= (-c FILE)",
    )


def _size(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(_is_side(v) for v in value):
        raise ValueError(f"label_size is {value!r}")
    return value[0], value[1]


def _is_side(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _moved(
    recorded: Mapping[str, float], now: Mapping[str, float], tolerance: float
) -> dict[str, tuple[float, float]]:
    found = {}
    for name in dict.fromkeys((*recorded, *now)):
        before, after = recorded.get(name, math.nan), now.get(name, math.nan)
        both_absent = math.isnan(before) and math.isnan(after)
        if not both_absent and not abs(before - after) <= tolerance:
            found[name] = (before, after)
    return found
