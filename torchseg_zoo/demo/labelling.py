"""What the process with the models does: a picture file in, a folder of result files out."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from torchseg_zoo.data.image import read_image, write_png
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.demo.results import FILES, Pixel, Result
from torchseg_zoo.devices import find_device
from torchseg_zoo.errors import DataError
from torchseg_zoo.inference import render
from torchseg_zoo.inference.predictor import Predictor
from torchseg_zoo.inference.scored import Scored
from torchseg_zoo.inference.scoring import score
from torchseg_zoo.models.checkpoint import load_model
from torchseg_zoo.registry import create_model

__all__ = ["Labeller"]

_KEPT_MODELS = 2
_KEPT_BYTES = 512 << 20  # of scores, so that pixels can be asked about
_BYTES_PER_PIXEL = 12  # of the network's input, which lives as long as its scores
_TOP = 3  # classes of a pixel that are shown
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 92, "subsampling": 0}


class Labeller:
    """Models that were used last, ready to label.

    Args:
        device: as in ``find_device``.
        own_file: path of the model that ``""`` names.
        max_pixels: largest picture.
    """

    def __init__(self, device: str, own_file: str | None, max_pixels: int) -> None:
        self._device, self._own_file, self._max_pixels = device, own_file, max_pixels
        self._models: OrderedDict[str, Predictor] = OrderedDict()
        self._scores: OrderedDict[str, _Scores] = OrderedDict()
        self._loading_seconds = 0.0

    def load(self, model: str) -> None:
        """Makes a model ready.

        Args:
            model: ``"model.tag"``, or "" for the file of one's own.

        Raises:
            ZooError: as loading does.
        """
        self._loading_seconds = 0.0
        if model in self._models:
            self._models.move_to_end(model)
            return
        started = time.monotonic()
        while len(self._models) >= _KEPT_MODELS:  # before the next one needs the room
            self._models.popitem(last=False)
        found = load_model(self._own_file) if not model and self._own_file else create_model(model)
        self._models[model] = Predictor(found.to(find_device(self._device)))
        self._loading_seconds = time.monotonic() - started

    def label(self, model: str, picture: Path, folder: Path) -> Result:
        """Labels a picture with a loaded model.

        Args:
            model: as in ``load``.
            picture: the file.
            folder: exists and is empty; gets ``FILES``.

        Raises:
            DataError: if the file is not a picture, is damaged or too big, or there is not enough
                memory for it.
        """
        started = time.monotonic()
        predictor = self._models[model]
        self._make_room()
        try:
            image = read_image(picture, max_pixels=self._max_pixels, name=picture.name)
            scored = score(predictor.model, image, predictor.mode)
            labels = scored.labels().cpu().numpy()
            confidence = scored.confidence(temperature=predictor.model.temperature).cpu().numpy()
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _too_big(picture) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # what a CPU's allocator says
                raise
            raise _too_big(picture) from error
        label_set = predictor.model.labels
        _write(folder, image, labels, confidence, label_set)
        self._scores[folder.name] = _Scores(scored, predictor.model.temperature)
        counts = np.bincount(labels.reshape(-1), minlength=label_set.num_classes)
        order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        return Result(
            height=labels.shape[0],
            width=labels.shape[1],
            classes=label_set.classes,
            colors=label_set.palette,
            shares=tuple((index, float(counts[index] / labels.size)) for index in order),
            mean_confidence=float(confidence.mean()),
            seconds=time.monotonic() - started,
            loading_seconds=self._loading_seconds,
        )

    def pixel(self, key: str, x: int, y: int) -> Pixel | None:
        """The most probable classes of a pixel.

        Args:
            key: name of the folder that ``label`` was given.
            x, y: column and row, of the picture.

        Returns:
            ``None`` if the scores are not kept any more.
        """
        found = self._scores.get(key)
        return None if found is None else found.pixel(x, y)

    def _make_room(self) -> None:
        """Forgets scores, the oldest first, beyond what may be kept beside a new picture's."""
        while sum(scores.size for scores in self._scores.values()) > _KEPT_BYTES:
            self._scores.popitem(last=False)


class _Scores:
    """Scores of a picture that was labelled."""

    def __init__(self, scored: Scored, temperature: float) -> None:
        self._scored, self._temperature = scored, temperature
        tensors = [value for value in vars(scored).values() if isinstance(value, Tensor)]
        height, width = scored.size
        self.size = sum(tensor.nbytes for tensor in tensors) + _BYTES_PER_PIXEL * height * width

    def pixel(self, x: int, y: int) -> Pixel | None:
        """See ``Labeller.pixel``."""
        height, width = self._scored.size
        for (rows, columns), band in self._scored.log_bands():
            row, column = range(height)[rows], range(width)[columns]
            if y in row and x in column:
                scores = band[:, y - row.start, x - column.start].float() / self._temperature
                top = scores.softmax(0).topk(min(_TOP, len(scores)))
                pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
                return Pixel(x, y, tuple(pairs))
        return None


def _write(
    folder: Path,
    image: np.ndarray,
    labels: np.ndarray,
    confidence: np.ndarray,
    label_set: LabelSet,
) -> None:
    overlay = render.overlay(image, labels, label_set, legend=False)
    certain = render.confidence_picture(confidence)
    Image.fromarray(image).save(folder / FILES["photo"], **_JPEG)
    overlay.save(folder / FILES["overlay"], **_JPEG)
    Image.fromarray(certain).save(folder / FILES["confidence"], format="JPEG", quality=92)
    write_png(folder / FILES["labels"], labels, palette=label_set.palette_array())


def _too_big(picture: Path) -> DataError:
    return DataError(
        "there is not enough memory to label it", where=picture.name, fix="try a smaller picture"
    )
