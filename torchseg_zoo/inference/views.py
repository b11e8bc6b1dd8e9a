"""One view of a picture: scaled, normalised, padded, cut into windows, sent through the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import InputShapeError
from torchseg_zoo.inference.modes import Merge, Sliding, Whole
from torchseg_zoo.inference.resize import resize_photo
from torchseg_zoo.inference.windows import visits, window_size, window_starts
from torchseg_zoo.models.base import InputRule
from torchseg_zoo.types import Size

__all__ = [
    "Network",
    "View",
    "cut",
    "device_and_type",
    "each_logits",
    "head_logits",
    "scaled",
    "usual_batch",
]

# Pixels that go through the network at once unless the caller says otherwise. On a CPU more of them
# push activations out of the cache; on a GPU fewer leave it idle.
_CPU_BATCH_PX = 1 << 18
_GPU_BATCH_PX = 1 << 23


Place = tuple[slice, slice]


class _Config(Protocol):
    @property
    def align_corners(self) -> bool: ...


class Network(Protocol):
    """What scoring needs of a model; every ``SegmentationModel`` has it."""

    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def input_rule(self) -> InputRule: ...
    @property
    def config(self) -> _Config: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def __call__(self, x: Tensor, /, *, upsample: bool) -> Any: ...


@dataclass(frozen=True)
class View:
    """A padded, normalised picture and the windows on it.

    Args:
        x: (C, H', W') normalised and padded.
        mirrored: the same of the mirrored picture, which is padded on the same side.
        origin: (row, column) of the picture within ``x``.
        size: (height, width) of the picture.
        window: (height, width) of the windows.
        corners: (row, column) of each window within ``x``.
        weight: (height, width) one over the number of windows that see a pixel; ``None`` if 1.
    """

    x: Tensor
    mirrored: Tensor
    origin: Size
    size: Size
    window: Size
    corners: tuple[Size, ...]
    weight: Tensor | None

    @property
    def direct(self) -> bool:
        """Whether one window is exactly the picture."""
        return len(self.corners) == 1 and self.window == self.size

    def inputs(self, flips: Sequence[bool], *, paired: bool = False) -> list[Tensor]:
        """(C, h, w) per window and flip.

        Args:
            flips: which pictures; ``True`` is the mirrored one.
            paired: a window is followed by its own mirror image, not by the mirrored picture's.
        """
        height, width = self.window
        found = []
        for row, column in self.corners:
            for flip in flips:
                x = self.mirrored if flip and not paired else self.x
                part = x[:, row : row + height, column : column + width]
                found.append(part.flip(-1) if flip and paired else part)
        return found

    def place(self, corner: Size, *, mirrored: bool) -> tuple[Place, Place]:
        """What a window covers: (rows, columns) of the picture, and the same within the window.

        Args:
            corner: of the window.
            mirrored: the window lies on the mirrored picture, and its logits were mirrored back.
        """
        picture, window = [], []
        for axis in (0, 1):
            start = corner[axis] - self.origin[axis]
            low, high = max(0, start), min(self.size[axis], start + self.window[axis])
            inside = low - start, high - start
            if mirrored and axis == 1:
                low, high = self.size[1] - high, self.size[1] - low
                inside = self.window[1] - inside[1], self.window[1] - inside[0]
            picture.append(slice(low, high))
            window.append(slice(*inside))
        return (picture[0], picture[1]), (window[0], window[1])


def scaled(pixels: Tensor, scale: float, merge: Merge) -> Tensor:
    """The photo at one scale, by the rounding and the source coordinates of the rule's origin."""
    height, width = pixels.shape[:2]
    if merge == "torchseg":
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return resize_photo(pixels, size, factor=scale)
    size = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    return resize_photo(pixels, size)


def cut(photo: Tensor, model: Network, view: Whole | Sliding, *, flip: bool = False) -> View:
    """Normalises and pads a photo (H, W, C) uint8 and lays the windows.

    Raises:
        InputShapeError: if the model takes another number of channels.
    """
    channels = len(model.preprocess.mean)
    if photo.shape[2] != channels:
        raise InputShapeError(
            f"the model takes {channels} channels, and a picture has {photo.shape[2]}",
            where="model",
            fix="call the model itself with tensors of your own, model(x)",
        )
    size = (photo.shape[0], photo.shape[1])
    window = window_size(size, view, model.input_rule)
    padded = max(size[0], window[0]), max(size[1], window[1])
    origin = (0, 0)
    if view.merge == "torchseg":
        origin = (padded[0] - size[0]) // 2, (padded[1] - size[1]) // 2
        if padded not in (window, size):
            # TorchSeg pads with black where it slides, with zeros after normalisation otherwise.
            photo = _black(photo, padded, origin)
    scale, shift = (
        torch.from_numpy(value).to(photo.device) for value in model.preprocess.scale_and_shift()
    )

    def normalised(photo: Tensor) -> Tensor:
        values = photo.to(scale.dtype) * scale + shift
        if values.shape[:2] != padded:
            whole = values.new_zeros((*padded, values.shape[2]))
            whole[origin[0] : origin[0] + size[0], origin[1] : origin[1] + size[1]] = values
            values = whole
        return values.to(device_and_type(model)[1]).permute(2, 0, 1)

    x = normalised(photo)
    mirrored = normalised(photo.flip(1)) if flip else x
    stride = view.stride if isinstance(view, Sliding) else window
    rows = window_starts(padded[0], window[0], min(stride[0], window[0]))
    columns = window_starts(padded[1], window[1], min(stride[1], window[1]))
    weight = None
    if view.merge != "torchseg" and len(rows) * len(columns) > 1:
        down, across = visits(padded[0], window[0], rows), visits(padded[1], window[1], columns)
        weight = (1 / (down[: size[0], None] * across[: size[1]])).to(x.device)
    corners = tuple((row, column) for row in rows for column in columns)
    return View(x, mirrored, origin, size, window, corners, weight)


def _black(photo: Tensor, size: Size, origin: Size) -> Tensor:
    height, width, channels = photo.shape
    out = photo.new_zeros((*size, channels))
    out[origin[0] : origin[0] + height, origin[1] : origin[1] + width] = photo
    return out


def usual_batch(size: Size, device: torch.device) -> int:
    """How many windows of ``size`` go through a network at once, unless the caller says."""
    budget = _CPU_BATCH_PX if device.type == "cpu" else _GPU_BATCH_PX
    return max(1, budget // (size[0] * size[1]))


def head_logits(model: Network, inputs: Sequence[Tensor], batch: int | None) -> Iterator[Tensor]:
    """Sends (C, h, w) inputs of one size through the network, ``batch`` at a time.

    Yields:
        (n, K, h/s, w/s) float32 logits, contiguous, in the order of the inputs.
    """
    channels, height, width = inputs[0].shape
    batch = batch or usual_batch((height, width), inputs[0].device)
    for start in range(0, len(inputs), batch):
        chunk = inputs[start : start + batch]
        if len(chunk) == 1:
            x = chunk[0][None]
        else:
            x = torch.empty(
                (len(chunk), channels, height, width),
                dtype=chunk[0].dtype,
                device=chunk[0].device,
                memory_format=torch.channels_last,
            )
            for target, part in zip(x, chunk, strict=True):
                target.copy_(part)
        logits: Tensor = model(x, upsample=False)
        # Planes, because everything after this reduces over classes and walks along rows.
        yield logits.float().contiguous()


def each_logits(model: Network, inputs: Sequence[Tensor], batch: int | None) -> Iterator[Tensor]:
    """(K, h/s, w/s) logits of one input after the other."""
    for chunk in head_logits(model, inputs, batch):
        yield from chunk


def device_and_type(model: Network) -> tuple[torch.device, torch.dtype]:
    parameter = next(iter(model.parameters()), None)
    if parameter is None:
        return torch.device("cpu"), torch.float32
    return parameter.device, parameter.dtype
