"""What all runtimes share: a picture in, a ``Prediction`` out."""

from __future__ import annotations

import abc
from pathlib import Path

import numpy as np

from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.errors import ExportError, InputShapeError
from torchseg_zoo.files import printable
from torchseg_zoo.inference.prediction import Confidence, Prediction
from torchseg_zoo.runtime.artefact import Artefact
from torchseg_zoo.runtime.resample import resize_labels, resize_picture

__all__ = ["Runner", "input_batch"]


class Runner(abc.ABC):
    """An exported model that is ready to run.

    Args:
        path: the file.
        artefact: what it says of itself.
        resize: bring pictures of other sizes to the one size of the file, and the labels back.

    Attributes:
        path, artefact: as given.
        label_set: classes and colours.
    """

    def __init__(self, path: Path, artefact: Artefact, *, resize: bool = False) -> None:
        self.path = path
        self.artefact = artefact
        self.label_set = artefact.labels
        self._resize = resize

    @abc.abstractmethod
    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Runs the file as it is.

        Args:
            batch: (N, H, W, 3) or (N, 3, H, W), as the artefact's ``layout`` says.

        Returns:
            The outputs that the artefact's ``output`` names, in its order.
        """

    def __call__(self, image: object) -> Prediction:
        """Same as ``predict``."""
        return self.predict(image)

    def predict(self, image: object) -> Prediction:
        """Labels one picture, whole.

        Args:
            image: what ``torchseg_zoo.predict`` takes: path, PIL image, array or tensor. RGB.

        Returns:
            Labels at the picture's size. Its ``confidence`` needs a file with that output.

        Raises:
            DataError: if a file cannot be read as a picture.
            ArgumentError: if ``image`` is of another kind.
            InputShapeError: if the file takes another size only.
        """
        pixels = as_rgb(image)
        labels, confidence = self._outputs(pixels)

        def known() -> np.ndarray:
            if confidence is None:
                raise ExportError(
                    "was exported without confidence",
                    where=printable(self.path),
                    fix='export it again with output="labels+confidence" (--output)',
                )
            return confidence

        kind: Confidence | None = None if confidence is None else "probability"
        return Prediction(labels, pixels, self.label_set, known, kind)

    def labels(self, image: object) -> np.ndarray:
        """(H, W) uint8 class indices of a picture, and nothing else; errors as ``predict``'s."""
        return self._outputs(as_rgb(image))[0]

    def _outputs(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        size = pixels.shape[0], pixels.shape[1]
        shown = resize_picture(pixels, self.artefact.preprocess.input_size(*size))
        taken = self.artefact.size
        if taken is not None and shown.shape[:2] != taken:
            if not self._resize:
                raise InputShapeError(
                    f"picture is {size[0]}×{size[1]} but the file takes {taken[0]}×{taken[1]} only",
                    where=printable(self.path),
                    fix='load it with resize=True, or export it with size="dynamic"',
                )
            shown = resize_picture(pixels, taken)
        labels, confidence = self._reduced(self.run(self.batch(shown)))
        labels = resize_labels(labels, size)
        return labels, None if confidence is None else resize_labels(confidence, size)

    def batch(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 → what ``run`` takes, a batch of one; nothing is resized."""
        return input_batch(self.artefact, pixels)

    def _reduced(self, outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        if self.artefact.output == "labels":
            return outputs[0][0], None
        if self.artefact.output == "labels+confidence":
            return outputs[0][0], outputs[1][0]
        logits = outputs[0][0]
        best = logits.max(0)
        confidence = 1 / np.exp(logits - best).sum(0)
        return logits.argmax(0).astype(np.uint8), confidence.astype(np.float32)


def input_batch(artefact: Artefact, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → a batch of one in the artefact's layout; nothing is resized."""
    if artefact.layout == "nhwc":
        return np.ascontiguousarray(pixels[None])
    if artefact.layout == "float":
        pixels = artefact.preprocess.array(pixels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
