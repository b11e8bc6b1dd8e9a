"""Joint augmentation of picture and labels: mirror, random scale, crop, pad, brightness.

The part of the picture that ends in the crop is chosen first, and nothing else is resized. Its
borders lie between whole pixels, so that bytes are resized to bytes by a fast kernel. ``exact``
keeps TorchSeg's arithmetic to the pixel (mirror, scale the whole, crop, centred padding; linear for
the picture, nearest for the labels) at a higher price. Nothing here draws global random numbers: a
:class:`Plan` is a pure function of its generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from torchseg_zoo.data.lookup import look_up
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
        exact: compute what scaling the whole picture and cropping it would give, to the pixel.
            Otherwise the crop's borders are rounded to whole pixels of the source, which moves
            them by less than one and changes the factor by as much.
    """

    crop: Size
    scales: tuple[float, ...] = (1.0,)
    continuous: bool = False
    mirror: bool = True
    brightness: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)
    ignore_index: int = 255
    exact: bool = False

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
        cut = _cut_exactly if self.exact else _cut
        image, label = cut(sample.image, sample.label, plan, self.crop)
        return (
            crop_and_pad(_lit(image, plan.gain), (0, 0), self.crop, np.array(self.fill, np.uint8)),
            crop_and_pad(label, (0, 0), self.crop, self.ignore_index),
        )


def _cut_exactly(
    image: np.ndarray, label: np.ndarray, plan: Plan, crop: Size
) -> tuple[np.ndarray, np.ndarray]:
    """Mirror, scale and crop in this order; at most (h, w) of the crop come out."""
    if plan.flip:
        image, label = mirror(image), mirror(label)
    window = (*plan.origin, *crop)
    return resize_image(image, plan.scaled, window), resize_label(label, plan.scaled, window)


def _cut(
    image: np.ndarray, label: np.ndarray, plan: Plan, crop: Size
) -> tuple[np.ndarray, np.ndarray]:
    """The same up to a source pixel, from whole pixels and mirrored at the end.

    Labels are those at the centres of pixels, where linear resizing puts the picture's; TorchSeg's
    lie up to half a pixel of the smaller grid higher and further left.
    """
    height, width = label.shape
    kept = min(plan.scaled[0], crop[0]), min(plan.scaled[1], crop[1])
    left = plan.scaled[1] - kept[1] - plan.origin[1] if plan.flip else plan.origin[1]
    rows = _source(height, plan.scaled[0], plan.origin[0], kept[0])
    columns = _source(width, plan.scaled[1], left, kept[1])
    image = _resize_bytes(image[rows, columns], kept, plan.flip)
    part = label[rows, columns]
    row_index, col_index = _nearest(part.shape[0], kept[0]), _nearest(part.shape[1], kept[1])
    if plan.flip:
        col_index = col_index[::-1]
    return image, part.take(row_index, axis=0).take(col_index, axis=1)


def _nearest(source: int, target: int) -> np.ndarray:
    """The source pixel that each target pixel's centre lies in."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _source(side: int, scaled: int, origin: int, kept: int) -> slice:
    """Whole source pixels of which ``kept`` of ``scaled`` pixels from ``origin`` on are made."""
    count = min(side, max(1, round(kept * side / scaled)))
    start = min(side - count, round(origin * side / scaled))
    return slice(start, start + count)


def _resize_bytes(image: np.ndarray, size: Size, flip: bool) -> np.ndarray:
    """Linear resize of (H, W, 3) uint8 as ``resize_image``, within one level of it."""
    import torch  # here, because reading and checking data does without
    from torch.nn import functional

    # The stride of the batch is what tells torch that channels come last, and stay so.
    height, width, channels = image.shape
    pixels = torch.from_numpy(np.ascontiguousarray(image)).view(1, height, width, channels)
    pixels = pixels.permute(0, 3, 1, 2)
    if (height, width) != size:
        pixels = functional.interpolate(pixels, size, mode="bilinear", align_corners=False)
    if flip:
        pixels = pixels.flip(3)
    resized: np.ndarray = pixels[0].permute(1, 2, 0).numpy()
    return resized


def _lit(image: np.ndarray, gain: float) -> np.ndarray:
    """(H, W, 3) uint8 times ``gain``, rounded, at most 255."""
    if gain == 1.0:
        return image
    table = np.minimum(np.arange(256) * gain + 0.5, 255).astype(np.uint8)
    return look_up(table, image)


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
