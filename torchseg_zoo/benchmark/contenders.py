"""What is timed, as it lives in a process of its own: bytes in, labels out; and the network alone.

Free of torch, unless the contender is torch: a runtime's memory is to be its own.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from torchseg_zoo.benchmark.runtimes import RUNTIMES
from torchseg_zoo.errors import InputShapeError

if TYPE_CHECKING:
    from torchseg_zoo.inference.views import View
    from torchseg_zoo.runtime import Runner

__all__ = ["Assignment", "Contender", "open_contender"]


@dataclass(frozen=True)
class Assignment:
    """What a process is to run.

    Args:
        runtime: name in ``RUNTIMES``.
        file: the artefact.
        network: the same network without what lies before and after it, for runtimes whose
            artefact has all of that inside; else ``None``.
        threads: of the CPU.
        device: see ``runtime.load`` and ``find_device``.
    """

    runtime: str
    file: Path
    network: Path | None
    threads: int
    device: str


class Contender(abc.ABC):
    """A model on a runtime.

    Attributes:
        device: what it runs on: ``"cpu"``, or a GPU's name.
    """

    device: str

    @abc.abstractmethod
    def labels(self, pictures: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 → (N, H, W) uint8."""

    @abc.abstractmethod
    def network(self, pictures: np.ndarray) -> Callable[[], object]:
        """What computes the logits of these pictures, at the head's stride, again and again.

        Normalised floats go in; they are prepared now.
        """


def open_contender(assignment: Assignment) -> Contender:
    """Loads an artefact.

    Raises:
        ZooError: what loading raises.
    """
    if RUNTIMES[assignment.runtime].format == "safetensors":
        return _Torch(assignment)
    return _Exported(assignment)


class _Exported(Contender):
    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._runner = self._load(assignment.file)
        self.device = _device_of(assignment, self._runner)

    def labels(self, pictures: np.ndarray) -> np.ndarray:
        if len(pictures) == 1:
            return self._runner.labels(pictures[0])[None]
        batch = np.concatenate([self._runner.batch(picture) for picture in pictures])
        return self._runner.run(batch)[0]

    def network(self, pictures: np.ndarray) -> Callable[[], object]:
        assert self._assignment.network is not None
        network = self._load(self._assignment.network)
        prepared = np.concatenate([network.batch(picture) for picture in pictures])
        return lambda: network.run(prepared)

    def _load(self, file: Path) -> Runner:
        from torchseg_zoo import runtime

        assignment = self._assignment
        return runtime.load(
            file,
            runtime=RUNTIMES[assignment.runtime].opens,
            device=assignment.device,
            threads=assignment.threads,
            resize=True,  # of labelled pictures, where the file takes one size only
        )


class _Torch(Contender):
    def __init__(self, assignment: Assignment) -> None:
        import torch

        from torchseg_zoo.inference.predictor import Predictor
        from torchseg_zoo.models.checkpoint import load_model

        torch.set_num_threads(assignment.threads)
        self._predictor = Predictor(
            load_model(assignment.file),
            device=assignment.device,
            compile=RUNTIMES[assignment.runtime].compiled,
        )
        self.device = _torch_device(assignment.device)

    def labels(self, pictures: np.ndarray) -> np.ndarray:
        if len(pictures) == 1:
            return self._predictor.labels(pictures[0])[None]
        import torch

        from torchseg_zoo.inference.tail import label_map
        from torchseg_zoo.inference.views import head_logits

        model = self._predictor.model
        height, width = pictures.shape[1:3]
        with torch.inference_mode():
            views = self._views(pictures)
            if len(views[0].corners) > 1 or views[0].size != (height, width):
                raise InputShapeError(
                    f"pictures of {height}×{width} are not seen whole, so not several at once",
                    where=model.config.model,
                    fix="use a batch of 1, or the size that the model works at",
                )
            inputs = [view.inputs((False,))[0] for view in views]
            (logits,) = head_logits(model, inputs, len(inputs))
            maps = label_map(logits, views[0].window, align_corners=model.config.align_corners)
            found: np.ndarray = maps[:, :height, :width].cpu().numpy()
        return found

    def network(self, pictures: np.ndarray) -> Callable[[], object]:
        import torch

        from torchseg_zoo.inference.views import head_logits

        with torch.inference_mode():
            inputs = [x for view in self._views(pictures) for x in view.inputs((False,))]

        @torch.inference_mode()
        def run() -> None:
            for _ in head_logits(self._predictor.model, inputs, len(pictures)):
                pass
            if self._predictor.device.type == "cuda":
                torch.cuda.synchronize(self._predictor.device)

        return run

    def _views(self, pictures: np.ndarray) -> list[View]:
        import torch

        from torchseg_zoo.inference.modes import MultiScaleFlip, default_mode
        from torchseg_zoo.inference.resize import resize_photo
        from torchseg_zoo.inference.views import cut

        model = self._predictor.model
        mode = default_mode(model.input_rule)
        assert not isinstance(mode, MultiScaleFlip)
        size = model.preprocess.input_size(*pictures.shape[1:3])
        photos = torch.from_numpy(pictures).to(self._predictor.device)
        return [cut(resize_photo(photo, size), model, mode) for photo in photos]


def _device_of(assignment: Assignment, runner: Runner) -> str:
    if (session := getattr(runner, "session", None)) is not None:
        return "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    uses_torch = RUNTIMES[assignment.runtime].format in ("program", "aoti", "engine")
    return _torch_device(assignment.device) if uses_torch else "cpu"


def _torch_device(name: str) -> str:
    """``"cpu"``, or the GPU's name."""
    import torch

    from torchseg_zoo.devices import find_device

    device = find_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
