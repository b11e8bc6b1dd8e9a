"""The proof beside an exported file: that it labels pictures as the model does."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.errors import ArgumentError, DataError, ExportError
from torchseg_zoo.evaluation.samples import check_classes
from torchseg_zoo.files import atomic_write, printable
from torchseg_zoo.inference.modes import Whole
from torchseg_zoo.inference.predict import predict
from torchseg_zoo.inference.scoring import score
from torchseg_zoo.metrics import ConfusionMatrix
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime import Runner
from torchseg_zoo.runtime.proof import artefact_digest, proof_path
from torchseg_zoo.runtime.resample import resize_labels, resize_picture
from torchseg_zoo.types import Size

__all__ = [
    "MIOU_TOLERANCE_INT8",
    "SIZES",
    "TOLERANCES",
    "Parity",
    "SizeParity",
    "compare",
    "prove",
]

SIZES: tuple[Size, ...] = (
    (64, 64),
    (65, 97),
    (96, 160),
    (127, 200),
    (160, 224),
    (201, 129),
    (240, 320),
    (333, 251),
)
"""Sizes at which a file of any size is compared: even, odd, wide and tall."""

TOLERANCES = {"fp32": 0.999, "fp16": 0.995, "int8": 0.7}
"""Share of equal labels that a file of each precision must reach at every size.

That of int8 only tells a broken file from a whole one: on the drawn streets, where many classes
are nearly as good, the embedded checkpoint keeps 80 % of its labels at 64×64 and 99 % at 333×251,
and loses 0.2 to 0.7 points of mIoU. Whether a file is right, labelled pictures tell.
"""

MIOU_TOLERANCE_INT8 = 1.0
"""Points of mIoU that int8 may cost; where it is known, it counts instead of equal labels."""

_CLOSE = 1e-3  # of the logits' standard deviation: a label may change where two classes are so near


@dataclass(frozen=True)
class SizeParity:
    """Comparison at one size.

    Args:
        size: (height, width).
        equal: share of pixels with the model's label, in 0..1.
        equal_clear: the same among pixels whose best class leads by more than rounding; 1.0 where
            there are none.
        logit_difference: largest difference of any logit, in standard deviations of the model's;
            ``None`` if they were not compared.
    """

    size: Size
    equal: float
    equal_clear: float
    logit_difference: float | None


@dataclass(frozen=True)
class Parity:
    """What was compared.

    Args:
        runtime: class of the runner.
        precision: of the file.
        sizes: one entry per size.
        tolerance: least share of equal labels at every size; ``None`` if the mIoU alone counts.
        pictures: labelled pictures on which both were scored; 0 for none.
        miou_percent: (of the model, of the file) on them; ``None`` for none.
        miou_tolerance: points of mIoU that may be lost; ``None`` if it does not count.
    """

    runtime: str
    precision: str
    sizes: tuple[SizeParity, ...]
    tolerance: float | None
    pictures: int = 0
    miou_percent: tuple[float, float] | None = None
    miou_tolerance: float | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing is past its tolerance."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """What is past its tolerance; ``None`` if nothing is."""
        tolerance, allowed = self.tolerance, self.miou_tolerance
        if tolerance is not None and any(entry.equal < tolerance for entry in self.sizes):
            return f"labels differ by more than {100 * (1 - tolerance):g} % of the pixels"
        if allowed is not None and self.miou_percent is not None:
            before, after = self.miou_percent
            if not after >= before - allowed:  # also where one is no number
                return f"mIoU falls by more than {allowed:g} points"
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "holds": self.holds}

    def describe(self) -> str:
        """One line for people."""
        worst = min(self.sizes, key=lambda entry: entry.equal)
        text = (
            f"{self.runtime}: labels equal on {100 * worst.equal:.3f} % of the pixels or more at "
            f"{len(self.sizes)} sizes (worst at {worst.size[0]}×{worst.size[1]})"
        )
        if self.miou_percent is not None:
            before, after = self.miou_percent
            text += f"; mIoU {before:.2f} % before, {after:.2f} % after on {self.pictures} pictures"
        return text


def compare(
    model: SegmentationModel,
    runner: Runner,
    *,
    logits_runner: Runner | None = None,
    sizes: Sequence[Size] | None = None,
    dataset: Dataset | None = None,
    pictures: int | None = None,
    tolerance: float | None = None,
    miou_tolerance: float | None = None,
) -> Parity:
    """Compares a file with the model it was made of, on drawn streets and on labelled pictures.

    Args:
        model: the model, in evaluation mode or not; it is compared as ``predict`` runs it, whole.
        runner: the file.
        logits_runner: the same graph with logits as output; see ``export.onnx.logits_model``.
        sizes: (height, width) of the pictures; by default ``SIZES``, or the file's one size.
        dataset: labelled pictures to score both on, brought to the file's one size if it has one.
        pictures: how many of them, from the first on; all by default.
        tolerance: least share of equal labels; by default ``TOLERANCES`` of the file's precision.
        miou_tolerance: points of mIoU that may be lost; by default ``MIOU_TOLERANCE_INT8`` for
            int8, and else what equal labels leave room for. With int8 and a data set, equal
            labels count only if ``tolerance`` is given.

    Raises:
        ArgumentError: if ``miou_tolerance`` is given without a data set.
        DataError: if the data set is of other classes, or empty.
    """
    fixed = runner.artefact.size
    sizes = (fixed,) if fixed is not None else tuple(sizes or SIZES)
    precision = runner.artefact.precision
    if dataset is None and miou_tolerance is not None:
        raise ArgumentError(
            "there are no labelled pictures", where="miou_tolerance", fix="give dataset= (--data)"
        )
    by_miou = precision == "int8" and dataset is not None
    if by_miou and miou_tolerance is None:
        miou_tolerance = MIOU_TOLERANCE_INT8
    if tolerance is None and not by_miou:
        tolerance = TOLERANCES[precision]
    parity = Parity(
        type(runner).__name__,
        precision,
        tuple(_at_size(model, runner, logits_runner, size) for size in sizes),
        tolerance,
        miou_tolerance=miou_tolerance,
    )
    if dataset is None:
        return parity
    check_classes(model, dataset)
    count = min(len(dataset), pictures or len(dataset))
    matrices = [
        ConfusionMatrix(model.num_classes, ignore_index=dataset.labels.ignore_index)
        for _ in range(2)
    ]
    for index in range(count):
        _score_both(model, runner, dataset[index], matrices)
    before, after = (matrix.scores().miou_percent for matrix in matrices)
    return replace(parity, pictures=count, miou_percent=(before, after))


def prove(path: str | os.PathLike[str], parities: Mapping[str, Parity]) -> Path:
    """Writes ``<file>.parity.json``, which also holds the file's digest.

    Args:
        path: the exported file.
        parities: comparison per runtime.

    Returns:
        Where.

    Raises:
        ExportError: if a comparison is past its tolerance; the proof is written first.
        DataError: if it cannot be written.
    """
    path = Path(path)
    record = {
        "sha256": artefact_digest(path),
        "runtimes": {name: parity.to_dict() for name, parity in parities.items()},
    }
    target = proof_path(path)
    atomic_write(target, lambda file: file.write(json.dumps(record, indent=1).encode() + b"\n"))
    for parity in parities.values():
        if parity.refusal is not None:
            raise ExportError(
                parity.refusal,
                where=printable(path),
                why=parity.describe(),
                fix="export in a higher precision, or allow it with another tolerance",
            )
    return target


def _at_size(
    model: SegmentationModel, runner: Runner, logits_runner: Runner | None, size: Size
) -> SizeParity:
    picture, _ = draw_street(size[0] * 1000 + size[1], size)
    logits = score(model, picture, Whole(merge="logit-mean")).scores().float().cpu()
    ordered = logits.sort(0, descending=True).values
    clear = (ordered[0] - ordered[min(1, len(ordered) - 1)] > _CLOSE * logits.std()).numpy()
    same = logits.argmax(0).numpy() == runner.labels(picture)
    difference = None
    if logits_runner is not None:
        (found,) = logits_runner.run(logits_runner.batch(picture))
        difference = float(np.abs(found[0] - logits.numpy()).max() / float(logits.std()))
    return SizeParity(
        size,
        float(same.mean()),
        float(same[clear].mean()) if clear.any() else 1.0,
        difference,
    )


def _score_both(
    model: SegmentationModel, runner: Runner, sample: Sample, matrices: Sequence[ConfusionMatrix]
) -> None:
    if sample.label is None:
        raise DataError("has no labels", where=sample.name, fix="give a labelled split")
    truth = torch.from_numpy(sample.label)
    taken = runner.artefact.size
    shown = sample.image if taken is None else resize_picture(sample.image, taken)
    found = predict(model, shown, mode=Whole()).labels, runner.labels(shown)
    for matrix, labels in zip(matrices, found, strict=True):
        matrix.update(truth, torch.from_numpy(resize_labels(labels, sample.label.shape)))
