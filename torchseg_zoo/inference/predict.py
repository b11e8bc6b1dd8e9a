"""Picture in, label map out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.data.transforms import resize_image, resize_label
from torchseg_zoo.errors import InputShapeError
from torchseg_zoo.inference import tail
from torchseg_zoo.inference.prediction import Prediction
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["predict"]


@torch.inference_mode()
def predict(model: SegmentationModel, image: object) -> Prediction:
    """Labels one picture, whole and at its own resolution.

    Pictures are resized only if the model's ``preprocess`` says so, and padded only if its
    ``input_rule`` does. The model is put into evaluation mode.

    Args:
        model: a model of this package.
        image: path; PIL image; numpy array (H, W), (H, W, 3) or (H, W, 4), uint8, uint16 or float
            in 0..1; or tensor (3, H, W), uint8 or float in 0..1. RGB.

    Returns:
        Labels at the picture's size, whatever its sides.

    Raises:
        DataError: if a file cannot be read as a picture.
        ArgumentError: if ``image`` is of another kind.
        InputShapeError: if the model takes no RGB pictures of this size.
    """
    model.eval()
    pixels = as_rgb(image)
    size: Size = (pixels.shape[0], pixels.shape[1])
    scaled = pixels
    if model.preprocess.resize is not None:
        scaled = resize_image(pixels, model.preprocess.resize)
    kept: Size = (scaled.shape[0], scaled.shape[1])
    padded = model.input_rule.nearest(*kept)
    if padded[0] < kept[0] or padded[1] < kept[1]:
        raise InputShapeError(
            f"picture is {kept[0]}×{kept[1]} but {model.config.model} works at "
            f"{padded[0]}×{padded[1]} only",
            fix="make it smaller, or cut it into windows of that size",
        )
    device = next(model.parameters()).device
    x = model.preprocess.tensor(_extend(scaled, padded, model.preprocess.mean)).to(device)
    logits: Tensor = model(x, upsample=False)
    align_corners = model.config.align_corners

    def at_picture_size(compute: tail.Tail) -> np.ndarray:
        if padded == kept:
            return compute(logits, size, align_corners=align_corners)[0].cpu().numpy()
        whole = compute(logits, padded, align_corners=align_corners)[0].cpu().numpy()
        return resize_label(whole[: kept[0], : kept[1]], size)

    return Prediction(
        labels=at_picture_size(tail.label_map),
        image=pixels,
        label_set=model.labels,
        _confidence=lambda: at_picture_size(tail.confidence),
    )


def _extend(image: np.ndarray, size: Size, mean: tuple[float, ...]) -> np.ndarray:
    """Pads right and below with the mean colour, which is zero after normalisation."""
    if image.shape[:2] == size:
        return image
    out = np.empty((*size, image.shape[2]), np.uint8)
    out[...] = np.rint(255 * np.asarray(mean))
    out[: image.shape[0], : image.shape[1]] = image
    return out
