"""Joint augmentation of picture and labels: mirror, random scale, crop, pad, brightness.

The order and the arithmetic are TorchSeg's (mirror, scale, crop, centred padding; linear for the
picture, nearest for the labels), but the window is chosen first and only what it keeps is resized;
the result is the same. Nothing here draws global random numbers: a :class:`Plan` is a pure function
of its generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchseg_zoo.data.sample import Sample
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.types import Size

__all__ = ["Augmentation", "Plan", "crop_and_pad", "generator", "mirror", "resize_image",
           "resize_label", "subsample"]  # fmt: skip


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Random numbers that depend on these three alone, the same on every machine."""
    return np.random.Generator(np.random.PCG64((seed, epoch, index)))


@dataclass(frozen=True)
class Plan:
    """What will be done to one sample, decided before any pixel is touched.

    Args:
        flip: mirror left and right.
        scaled: (height, width) of the whole picture after scaling.
        origin: (row, column) of the crop in the scaled picture.
        gain: factor on the brightness.
    """

    flip: bool
    scaled: Size
    origin: Size
    gain: float = 1.0


@dataclass(frozen=True)
class Augmentation:
    """Random mirror, scale, crop and brightness.

    Args:
        crop: (height, width) of what comes out.
        scales: factors to choose from, uniformly.
        continuous: choose any factor between the smallest and the largest instead.
        mirror: mirror every second picture.
        brightness: gains are uniform in 1 ± this; 0 leaves the light alone.
        fill: colour around pictures smaller than the crop, RGB 0..255.
        ignore_index: label around pictures smaller than the crop.
    """

    crop: Size
    scales: tuple[float, ...] = (1.0,)
    continuous: bool = False
    mirror: bool = True
    brightness: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)
    ignore_index: int = 255

    def __post_init__(self) -> None:
        if min(self.crop) < 1:
            raise ArgumentError(f"crop is {self.crop}", fix="give two positive sides")
        if not self.scales or min(self.scales) <= 0:
            raise ArgumentError(f"scales are {self.scales}", fix="give positive factors")
        if not 0 <= self.brightness < 1:
            raise ArgumentError(f"brightness is {self.brightness}", fix="give a share in [0, 1)")

    def plan(self, size: Size, random: np.random.Generator) -> Plan:
        """Decides what happens to a picture of ``size``; always draws the same count of numbers."""
        flip, scale, row, column, light = random.random(5)
        if self.continuous:
            low, high = min(self.scales), max(self.scales)
            factor = low + scale * (high - low)
        else:
            factor = self.scales[int(scale * len(self.scales))]
        scaled = max(1, int(size[0] * factor)), max(1, int(size[1] * factor))
        room = [max(0, whole - kept) for whole, kept in zip(scaled, self.crop, strict=True)]
        return Plan(
            flip=self.mirror and bool(flip < 0.5),
            scaled=scaled,
            origin=(int(row * (room[0] + 1)), int(column * (room[1] + 1))),
            gain=1.0 + self.brightness * (2.0 * light - 1.0),
        )

    def __call__(
        self, sample: Sample, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (h, w, 3) uint8 and (h, w) uint8 of the crop's size; the sample needs labels."""
        assert sample.label is not None
        height, width = sample.label.shape
        plan = self.plan((height, width), random)
        image, label = sample.image, sample.label
        if plan.flip:
            image, label = mirror(image), mirror(label)
        window = (*plan.origin, *self.crop)
        image = resize_image(image, plan.scaled, window)
        label = resize_label(label, plan.scaled, window)
        if plan.gain != 1.0:
            table = np.minimum(np.arange(256) * plan.gain + 0.5, 255).astype(np.uint8)
            image = table[image]
        return (
            crop_and_pad(image, (0, 0), self.crop, np.array(self.fill, np.uint8)),
            crop_and_pad(label, (0, 0), self.crop, self.ignore_index),
        )


def mirror(array: np.ndarray) -> np.ndarray:
    """(H, W, ...) mirrored left and right."""
    return array[:, ::-1]


def resize_image(
    image: np.ndarray, size: Size, window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Linear resize of (H, W, C) uint8, half-pixel centres, no anti-aliasing, as OpenCV's.

    Args:
        image: the picture.
        size: (height, width) of the whole result.
        window: (row, column, height, width) of the part to compute; cut at the borders.

    Returns:
        (h, w, C) uint8. Off by at most one level from OpenCV, whose weights have 11 bits.
    """
    rows, cols = _window(size, window)
    top, bottom, down = _linear_taps(image.shape[0], size[0], rows)
    left, right, across = _linear_taps(image.shape[1], size[1], cols)
    # Only the source rectangle that the window sees is touched.
    first, last = left[0], right[-1] + 1
    part = image[top[0] : bottom[-1] + 1, first:last].astype(np.float32)
    upper, lower = part[top - top[0]], part[bottom - top[0]]
    band = upper + (lower - upper) * down[:, None, None]
    near, far = band[:, left - first], band[:, right - first]
    resized: np.ndarray = (near + (far - near) * across[:, None] + 0.5).astype(np.uint8)
    return resized


def resize_label(
    label: np.ndarray, size: Size, window: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Nearest resize of (H, W): source index is floor(i · source / target), as OpenCV's."""
    rows, cols = _window(size, window)
    row_index = np.minimum(rows * label.shape[0] // size[0], label.shape[0] - 1)
    col_index = np.minimum(cols * label.shape[1] // size[1], label.shape[1] - 1)
    resized: np.ndarray = label[row_index[:, None], col_index]
    return resized


def _window(size: Size, window: tuple[int, int, int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    row, col, height, width = window or (0, 0, *size)
    return (
        np.arange(row, min(row + height, size[0])),
        np.arange(col, min(col + width, size[1])),
    )


def _linear_taps(
    source: int, target: int, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lower index, upper index and weight of the upper one, for each wanted target index."""
    position = np.clip((index + 0.5) * (source / target) - 0.5, 0, source - 1)
    lower = position.astype(np.int64)
    return lower, np.minimum(lower + 1, source - 1), (position - lower).astype(np.float32)


def crop_and_pad(
    array: np.ndarray, origin: Size, size: Size, fill: float | np.ndarray
) -> np.ndarray:
    """Cuts (H, W, ...) at ``origin`` and pads to ``size``, centred.

    A window that reaches over the border is cut there before it is padded; of an odd rest the
    bottom and the right get the larger half.
    """
    height, width = size
    part = array[origin[0] : origin[0] + height, origin[1] : origin[1] + width]
    missing = height - part.shape[0], width - part.shape[1]
    if missing == (0, 0):
        return np.ascontiguousarray(part)
    out = np.empty((height, width, *array.shape[2:]), array.dtype)
    out[...] = fill
    top, left = missing[0] // 2, missing[1] // 2
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out


def subsample(label: np.ndarray, stride: int, *, aligned: bool = True) -> np.ndarray:
    """Takes one label per ``stride`` × ``stride`` cell: (H, W) → (ceil(H/s), ceil(W/s)).

    Args:
        label: (H, W).
        stride: 1 keeps all.
        aligned: take the pixels that an ``align_corners`` resize of the logits would be compared
            with at full size; otherwise every ``stride``-th pixel, as TorchSeg does.
    """
    if stride == 1:
        return label
    if not aligned:
        return label[::stride, ::stride]
    index = [
        np.rint(np.linspace(0, side - 1, -(-side // stride))).astype(np.int64)
        for side in label.shape
    ]
    return label[index[0][:, None], index[1]]
