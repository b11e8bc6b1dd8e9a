"""A report of an evaluation: one page that opens anywhere, and the card it was made from."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.evaluation.page import Exhibit, page
from torchseg_zoo.evaluation.result import Evaluation, write_card
from torchseg_zoo.evaluation.samples import evaluating
from torchseg_zoo.files import atomic_write, make_folder
from torchseg_zoo.inference.modes import mode_from_dict
from torchseg_zoo.inference.render import colorize
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["CARD", "PAGE", "Report", "write_report"]

CARD = "card.json"
PAGE = "report.html"
_THUMBNAIL_PX = 320


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Args:
        card: scores and protocol as JSON.
        page: the page for people.
    """

    card: Path
    page: Path


def write_report(
    evaluation: Evaluation,
    model: SegmentationModel,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    worst: int = 20,
) -> Report:
    """Writes ``card.json`` and ``report.html``; each appears whole or not at all.

    The page holds everything it shows and asks no network for anything. The worst pictures are
    labelled once more for it.

    Args:
        evaluation: of this model on this data set.
        model: see ``evaluation``.
        dataset: see ``evaluation``.
        folder: created if need be.
        worst: how many pictures of lowest mean IoU the page shows.

    Raises:
        DataError: if the folder or a file cannot be written, or a picture cannot be read any more.
    """
    target = make_folder(Path(folder))
    report = Report(target / CARD, target / PAGE)
    text = page(evaluation, dataset.labels, _exhibits(evaluation, model, dataset, worst))
    atomic_write(report.page, lambda file: file.write(text.encode()))
    write_card(evaluation, report.card)
    return report


def _exhibits(
    evaluation: Evaluation, model: SegmentationModel, dataset: Dataset, count: int
) -> list[Exhibit]:
    mode = mode_from_dict(evaluation.protocol.mode)
    found = []
    with evaluating(model):
        for picture in evaluation.worst(count):
            sample = dataset[picture.index]
            assert sample.label is not None  # it was scored
            predicted = label(model, sample.image, mode).cpu().numpy()
            found.append(
                Exhibit(
                    picture,
                    _photo(sample.image),
                    _map(sample.label, dataset.labels),
                    _map(predicted, dataset.labels),
                )
            )
    return found


def _photo(image: np.ndarray) -> str:
    return _data_uri(_small(Image.fromarray(image), Image.Resampling.BOX), "jpeg", quality=80)


def _map(labels: np.ndarray, label_set: LabelSet) -> str:
    picture = _small(Image.fromarray(labels), Image.Resampling.NEAREST)
    painted = Image.fromarray(colorize(np.asarray(picture), label_set))
    return _data_uri(painted, "png", optimize=True)


def _small(picture: Image.Image, how: Image.Resampling) -> Image.Image:
    factor = min(1.0, _THUMBNAIL_PX / max(picture.size))
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture if size == picture.size else picture.resize(size, how)


def _data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
