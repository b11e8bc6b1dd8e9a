"""Temperature scaling: one number that makes a model's confidences true.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, arXiv
1706.04599, section 4.2. Logits are divided by a temperature T that minimises the mean negative
log-likelihood of a held-out split. That is convex in 1 / T, so halving an interval by the sign of
its slope always ends, and always at the same T; the paper does not say how to look for it.

Where scores are merged from several views, there are no logits: the logarithms of the merged
probabilities are divided, which comes to the same for one view, and changes no label either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation.samples import check_classes, scored_samples
from torchseg_zoo.inference.modes import Mode, default_mode
from torchseg_zoo.inference.scored import Scored
from torchseg_zoo.metrics import Reliability, ReliabilityCounts
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["Calibration", "calibrate"]

_LIMITS = 0.05, 20.0  # temperatures outside mean that the split says nothing about confidence
_HALVINGS = 24


@dataclass(frozen=True)
class Calibration:
    """What calibrating found.

    Args:
        temperature: logits are to be divided by it; above 1 the model was too sure of itself.
        pixels: labelled pixels it was fitted to.
        loss_before: mean negative log-likelihood of their classes at temperature 1, in nats.
        loss_after: the same at ``temperature``.
        before: reliability of their confidences at temperature 1.
        after: the same at ``temperature``.
    """

    temperature: float
    pixels: int
    loss_before: float
    loss_after: float
    before: Reliability
    after: Reliability

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "temperature": self.temperature,
            "pixels": self.pixels,
            "loss_before": round(self.loss_before, 6),
            "loss_after": round(self.loss_after, 6),
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }


@torch.inference_mode()
def calibrate(
    model: SegmentationModel,
    dataset: Dataset,
    *,
    mode: Mode | None = None,
    pixels: int = 1 << 18,
    progress: bool = True,
) -> Calibration:
    """Fits the temperature of a model's confidences to a labelled split, and sets it.

    ``model.temperature`` is set, is saved with the model, and is applied to the confidences of
    ``predict``. Labels stay as they are. The split should be one that the model was not trained on,
    and another than the one that scores are reported on.

    Args:
        model: the model; whether it was training is put back afterwards.
        dataset: pictures with labels in the model's classes.
        mode: how pictures will be predicted, as in ``evaluate``.
        pixels: how many to fit to, taken evenly from all pictures; their scores are held in memory,
            which takes 4 · K bytes each.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if the model cannot work in ``mode``, or ``pixels`` is below 1.
        DataError: as ``evaluate``; or if the best temperature lies outside 0.05..20.
    """
    if pixels < 1:
        raise ArgumentError(f"{pixels} is below 1", where="pixels", fix="give 100000 or more")
    check_classes(model, dataset)
    mode = default_mode(model.input_rule) if mode is None else mode
    share = max(1, pixels // len(dataset))
    found: list[tuple[Tensor, Tensor]] = []
    for truth, result in scored_samples(model, dataset, mode, progress=progress):
        labelled = (truth < model.num_classes) & (truth != dataset.labels.ignore_index)
        places = labelled.reshape(-1).nonzero()[:, 0]
        if len(places):
            chosen = torch.linspace(0, len(places) - 1, min(share, len(places))).long()
            places = places[chosen.to(places.device)]
            found.append((_at(result, places), truth.reshape(-1)[places].long()))
        del result  # as in evaluate: the next picture's scores must not lie beside them
    if not found:
        raise DataError(
            f"no pixel of the {len(dataset)} label maps has a class",
            fix="check the label files and what their values mean",
        )
    scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
    temperature = _best_temperature(scores, classes)
    model.temperature = temperature
    return Calibration(
        temperature=temperature,
        pixels=len(classes),
        loss_before=_loss(scores, classes, 1.0),
        loss_after=_loss(scores, classes, temperature),
        before=_reliability(scores, classes, 1.0),
        after=_reliability(scores, classes, temperature),
    )


def _at(result: Scored, places: Tensor) -> Tensor:
    """(n, K) float32 log-scores at n flat positions in rising order."""
    width = result.size[1]
    rows, columns = places // width, places % width
    out: Tensor | None = None
    for (down, across), band in result.log_bands():
        left, right, _ = across.indices(width)
        inside = (rows >= down.start) & (rows < down.stop) & (columns >= left) & (columns < right)
        wanted = inside.nonzero()[:, 0]
        if out is None:
            out = band.new_empty(len(places), len(band), dtype=torch.float32)
        out[wanted] = band[:, rows[wanted] - down.start, columns[wanted] - left].T.float()
    assert out is not None
    return out


def _best_temperature(scores: Tensor, classes: Tensor) -> float:
    """Where the loss's slope changes its sign, to six digits."""
    true = scores.gather(1, classes[:, None])[:, 0]

    def slope(log_temperature: float) -> float:
        """Of the loss over 1 / T: expected less true score, which falls as T rises."""
        weights = (scores / math.exp(log_temperature)).softmax(1)
        return float(((weights * scores).sum(1) - true).double().mean())

    low, high = map(math.log, _LIMITS)
    if not slope(low) > 0 > slope(high):
        raise DataError(
            f"no temperature between {_LIMITS[0]:g} and {_LIMITS[1]:g} fits",
            why="the model is right nearly everywhere on this split, or nearly nowhere",
            fix="calibrate on a split that was not trained on, with labels in the model's classes",
        )
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return math.exp((low + high) / 2)


def _loss(scores: Tensor, classes: Tensor, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(scores / temperature, classes))


def _reliability(scores: Tensor, classes: Tensor, temperature: float) -> Reliability:
    confidence, chosen = (scores / temperature).softmax(1).max(1)
    counts = ReliabilityCounts()
    counts.update(confidence, chosen == classes, torch.ones_like(chosen, dtype=torch.bool))
    return counts.table()
