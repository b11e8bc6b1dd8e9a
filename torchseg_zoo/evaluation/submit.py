"""Predictions in the files that the test servers of benchmarks take."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from torchseg_zoo.data.image import write_png
from torchseg_zoo.data.label_sets import CITYSCAPES, LABEL_SETS
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation.samples import check_classes, evaluating
from torchseg_zoo.files import make_folder, printable
from torchseg_zoo.inference.modes import Mode
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["BENCHMARKS", "submit"]


@dataclass(frozen=True)
class _Server:
    """What one benchmark's server takes.

    Args:
        folder: where its files belong below the submission's, by split.
        name: pattern of a picture's name without ending.
        example: such a name, for messages.
        values: (K,) uint8, what each train id is in a file.
        palette: (256, 3) uint8 colours of the file, or ``None`` for grey.
    """

    folder: Callable[[str], str]
    name: re.Pattern[str]
    example: str
    values: np.ndarray
    palette: np.ndarray | None = None


def _raw_values(name: str) -> np.ndarray:
    """(K,) uint8: train id → what the data set's own label files hold."""
    raw_ids = LABEL_SETS[name].raw_ids
    assert raw_ids is not None
    values = np.zeros(len(raw_ids), np.uint8)
    for raw, train in raw_ids.items():
        values[train] = raw
    return values


_SERVERS = {
    "cityscapes": _Server(
        lambda split: "",
        re.compile(r"[^_]+_\d{6}_\d{6}_leftImg8bit"),
        "berlin_000000_000019_leftImg8bit",
        _raw_values(CITYSCAPES.name),
    ),
    "voc": _Server(
        lambda split: f"results/VOC2012/Segmentation/comp6_{split}_cls",
        re.compile(r"\d{4}_\d{6}"),
        "2008_000006",
        np.arange(21, dtype=np.uint8),
        LABEL_SETS["voc"].palette_array(),
    ),
    "ade20k": _Server(
        lambda split: "",
        re.compile(r"ADE_[a-z]+_\d{8}"),
        "ADE_test_00000001",
        _raw_values("ade20k"),
    ),
}

BENCHMARKS = tuple(_SERVERS)
"""Label sets with a test server whose files ``submit`` writes."""


@torch.inference_mode()
def submit(
    model: SegmentationModel,
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    split: str = "test",
    mode: Mode | None = None,
    progress: bool = True,
) -> list[Path]:
    """Labels every picture at its own size and writes what the benchmark's server takes.

    - Cityscapes: label ids (7, 8, 11, ...), one grey PNG with the picture's name each.
    - VOC: palette PNG of 0..20 in ``results/VOC2012/Segmentation/comp6_<split>_cls``.
    - ADE20K: grey PNG of 1..150.

    Args:
        model: the model; whether it was training is put back afterwards.
        dataset: pictures of one of ``BENCHMARKS``; labels are not needed and not looked at.
        out: folder for the files, created if need be. Files of the same name are replaced.
        split: for VOC, whose folder names it.
        mode: as in ``evaluate``.
        progress: show a bar on stderr.

    Returns:
        The files, in the order of the pictures.

    Raises:
        ArgumentError: if the data set has no such server, or a file would replace a picture.
        DataError: if the classes differ from the model's, a picture's name is not as released, two
            have the same name, or a file cannot be read or written.
    """
    check_classes(model, dataset)
    name = dataset.labels.name
    if name not in _SERVERS or dataset.labels.classes != LABEL_SETS[name].classes:
        raise ArgumentError(
            f"no test server is known for {name!r}",
            where="submit",
            fix=f"submit {', '.join(BENCHMARKS)}; "
            "for files of class indices, use `torchseg-zoo predict --labels`",
        )
    server = _SERVERS[name]
    folder = make_folder(Path(out) / server.folder(split))
    written: dict[Path, str] = {}
    with evaluating(model):
        for index in tqdm(range(len(dataset)), desc="submit", disable=not progress, leave=False):
            sample = dataset[index]
            target = folder / f"{_checked_name(sample.name, server)}.png"
            if target in written:
                raise DataError(
                    f"this picture has the name of {written[target]}",
                    where=sample.name,
                    fix="list each picture once",
                )
            if target.resolve() == Path(sample.name).resolve():
                raise ArgumentError(
                    "the result would replace this picture",
                    where=sample.name,
                    fix="choose another folder for the submission",
                )
            labels = label(model, sample.image, mode).cpu().numpy()
            write_png(target, server.values[labels], palette=server.palette)
            written[target] = sample.name
    return list(written)


def _checked_name(name: str, server: _Server) -> str:
    stem = Path(name).stem
    if server.name.fullmatch(stem) is None:
        raise DataError(
            f"the test server does not know the name {printable(stem)}",
            where=name,
            fix=f"keep the released names, like {server.example}",
        )
    return stem
