"""A model prepared once, for many pictures."""

from __future__ import annotations

import copy
import ctypes
import sys

import numpy as np
import torch

from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.devices import find_device
from torchseg_zoo.inference.modes import Mode, check_mode
from torchseg_zoo.inference.predict import predict
from torchseg_zoo.inference.prediction import Confidence, Prediction, check_confidence
from torchseg_zoo.inference.scoring import label
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.weights.save import tensors_digest

__all__ = ["Predictor"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


class Predictor:
    """Labels pictures with a copy of a model that is ready for speed.

    The copy is fused (batch norms folded, channels-last, fast convolutions on a CPU), on its
    device and, if asked, compiled. Bytes go to the device and byte labels come back; normalising,
    the network and the label tail run there.

        predictor = Predictor(bisenet_x39(pretrained="camvid"))
        for file in files:
            predictor(file).save(...)

    Args:
        model: a model of this package; it is left as it is.
        mode: how pictures are seen, as in ``predict``.
        confidence: what ``Prediction.confidence`` says, as in ``predict``.
        device: as in ``find_device``; by default the model's.
        compile: compile the network with ``torch.compile``, at its first call for each input size
            (tens of seconds; a C++ compiler on a CPU, Triton on a GPU). On a GPU that also records
            CUDA graphs, which leave no launch costs. Outputs stay equal up to rounding.
        keep_memory: let this process keep freed memory for the next picture instead of giving it
            back to the system page by page, which costs a CPU up to a quarter of its time. It holds
            for the whole process, under glibc; the memory held is at most the largest picture's.

    Attributes:
        weights_sha256: digest of the model's weights, see ``weights.save.tensors_digest``.

    Raises:
        ArgumentError: if the device is not there, the model cannot work in the mode, or there is
            no such confidence.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        mode: Mode | None = None,
        confidence: Confidence = "probability",
        device: str | torch.device | None = None,
        compile: bool = False,
        keep_memory: bool = True,
    ) -> None:
        if mode is not None:
            check_mode(mode, model.input_rule)
        check_confidence(confidence)
        self.mode = mode
        self.confidence: Confidence = confidence
        self.weights_sha256 = tensors_digest(model.state_dict())
        self.model = copy.deepcopy(model)
        if device is not None:
            self.model.to(find_device(str(device)))
        self.model.fuse()
        on_cpu = self.device.type == "cpu"
        if compile:
            self.model.compile(
                dynamic=False,
                **({"options": {"freezing": True}} if on_cpu else {"mode": "max-autotune"}),
            )
        if keep_memory and on_cpu:
            _keep_freed_memory()

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.model.parameters()).device

    def __call__(self, image: object) -> Prediction:
        """Labels one picture; arguments, result and errors are those of ``predict``."""
        return predict(self.model, image, mode=self.mode, confidence=self.confidence)

    def labels(self, image: object) -> np.ndarray:
        """(H, W) uint8 class indices of a picture, and nothing else; errors as ``predict``'s."""
        found: np.ndarray = label(self.model, as_rgb(image), self.mode).cpu().numpy()
        return found


def _keep_freed_memory() -> None:
    """Tells glibc neither to map large blocks one by one nor to give the heap's end back.

    PyTorch allocates each activation anew, and a page's first touch costs more than a convolution
    spends on it. Elsewhere than under glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 16 << 20)
