"""Picture in, label map out."""

from __future__ import annotations

import numpy as np
import torch

from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.inference.modes import Mode
from torchseg_zoo.inference.prediction import Confidence, Prediction, check_confidence
from torchseg_zoo.inference.scoring import score
from torchseg_zoo.models.base import SegmentationModel

__all__ = ["predict"]


@torch.inference_mode()
def predict(
    model: SegmentationModel,
    image: object,
    *,
    mode: Mode | None = None,
    confidence: Confidence = "probability",
) -> Prediction:
    """Labels one picture, by default whole and at its own resolution.

    Pictures are resized only if the model's ``preprocess`` says so, and padded only if its
    ``input_rule`` does. The model is put into evaluation mode.

    Args:
        model: a model of this package.
        image: path; PIL image; numpy array (H, W), (H, W, 3) or (H, W, 4), uint8, uint16 or float
            in 0..1; or tensor (3, H, W), uint8 or float in 0..1. RGB.
        mode: ``Whole``, ``Sliding`` or ``MultiScaleFlip``; by default ``Whole``, or for a model of
            one fixed input size windows of that size.
        confidence: what ``Prediction.confidence`` says: the chosen class's ``"probability"``, its
            ``"margin"`` over the runner-up, or ``"entropy"``; all in 0..1 with 1 for certain. A
            calibrated model's ``temperature`` is applied.

    Returns:
        Labels at the picture's size, whatever its sides.

    Raises:
        DataError: if a file cannot be read as a picture.
        ArgumentError: if ``image`` is of another kind, or the model cannot work in ``mode``.
        InputShapeError: if the model takes no RGB pictures of this size.
    """
    check_confidence(confidence)
    model.eval()
    pixels = as_rgb(image)
    result = score(model, pixels, mode)
    labels = result.labels().cpu().numpy()

    def computed() -> np.ndarray:
        found = result.confidence(confidence, temperature=model.temperature)
        return found.cpu().numpy()

    if result.light:
        return Prediction(labels, pixels, model.labels, computed, confidence)
    # Full-size scores of all classes are not kept until somebody may ask.
    kept = computed()
    return Prediction(labels, pixels, model.labels, lambda: kept, confidence)
