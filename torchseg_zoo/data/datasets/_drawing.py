"""Camera, light and paint for drawn scenes: picture and labels come from the same shapes.

World coordinates are metres from the camera's foot: x right, y up, z ahead. ``Canvas`` projects
them, paints the picture at twice its size (halved at the end, so edges are smooth), and paints the
same outlines into the label map, of which every second pixel is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[float, float, float]
Point = tuple[float, float, float]
T = TypeVar("T")

# Train ids of CAMVID.
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)

_NEAR_M = 0.4
# Texture strength per train id, as a share of brightness: (single pixels, patches of a few pixels).
_GRAIN = np.array(
    [
        (0.0, 0.0),  # sky
        (0.025, 0.02),  # building
        (0.02, 0.02),  # pole
        (0.03, 0.008),  # road
        (0.03, 0.015),  # pavement
        (0.13, 0.15),  # tree
        (0.015, 0.015),  # sign
        (0.06, 0.05),  # fence
        (0.012, 0.006),  # car
        (0.04, 0.03),  # pedestrian
        (0.04, 0.03),  # bicyclist
    ],
    np.float32,
)
# The same for the texture that lies on the ground in perspective.
_GROUND = np.array([0, 0, 0, 0.10, 0.09, 0.14, 0, 0, 0, 0, 0], np.float32)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of ``choices``, each equally likely."""
    return choices[int(rng.integers(len(choices)))]


def vary(rng: np.random.Generator, color: Color, amount: float = 0.12) -> Color:
    """``color`` made lighter or darker by up to ``amount``, with a little less change of hue."""
    gain = 1 + amount * (2 * rng.random() - 1)
    warm = 0.4 * amount * (2 * rng.random() - 1)
    return (color[0] * (gain + warm), color[1] * gain, color[2] * (gain - warm))


@dataclass(frozen=True)
class Light:
    """How a scene is lit.

    Args:
        gain: factor on each colour channel of everything but the sky.
        zenith: sky colour at the top of the picture.
        skyline: sky colour at the horizon; distant things fade to it.
        clouds: how much of the sky's own colour clouds replace (or darken, at night), 0..1.
        haze_m: distance at which 63 % of the fading has happened.
        shadow: brightness of ground in shadow, 0..1 of lit ground.
        sun: ground shift of a shadow per metre of height, (x, z); (0, 0) without direct sun.
        night: 0 by day, 1 where windows and lamps shine.
    """

    gain: Color
    zenith: Color
    skyline: Color
    clouds: float
    haze_m: float
    shadow: float
    sun: tuple[float, float]
    night: float


def make_light(rng: np.random.Generator) -> Light:
    """Draws one of sunshine, overcast sky and dusk, with its own strength and tint."""
    kind = rng.choice(3, p=(0.45, 0.35, 0.2))
    warm = rng.uniform(-0.05, 0.05)
    if kind == 0:
        level, white = rng.uniform(0.9, 1.25), math.sqrt(rng.random())
        zenith = _mix((112, 160, 222), (236, 244, 250), white)
        skyline = _mix((218, 231, 244), (250, 252, 252), white)
        side = rng.choice((-1.0, 1.0))
        sun = (side * rng.uniform(0.35, 1.4), rng.uniform(-0.8, 0.5))
        light = (0.55, 400.0, rng.uniform(0.42, 0.6), sun, 0.0)
    elif kind == 1:
        level = rng.uniform(0.7, 1.1)
        grey = rng.uniform(218, 253)
        zenith, skyline = (grey - 8, grey - 3, grey + 2), (grey + 2, grey + 3, grey + 2)
        light = (0.3, 260.0, 0.72, (0.0, 0.0), 0.0)
    else:
        level = rng.uniform(0.36, 0.55)
        zenith = _mix((96, 108, 126), (160, 170, 184), rng.uniform(0, 1))
        skyline = _mix((190, 180, 160), (176, 190, 205), rng.uniform(0, 1))
        light = (0.25, 300.0, 0.72, (0.0, 0.0), 1.0)
        warm -= 0.05
    gain = (level * (1 + warm), level, level * (1 - warm))
    return Light(gain, zenith, skyline, *light)


def _mix(first: Color, second: Color, share: float) -> Color:
    a, b, c = (p + (q - p) * share for p, q in zip(first, second, strict=True))
    return (a, b, c)


class Canvas:
    """A picture and its label map, painted together from far to near.

    Args:
        rng: source of all chance.
        size: (height, width) in pixels of the finished picture.
        light: colours of the sky and strength of the light.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], light: Light) -> None:
        self.rng, self.size, self.light = rng, size, light
        height, width = 2 * size[0], 2 * size[1]
        self.focal = rng.uniform(0.95, 1.25) * 480 * math.sqrt(height * width / (360 * 480))
        self.center = width * rng.uniform(0.38, 0.62)
        self.horizon = height * rng.uniform(0.42, 0.52)
        self.eye_m = rng.uniform(1.25, 1.9)
        self._picture = self._sky().resize((width, height), Image.Resampling.BILINEAR)
        self._labels = Image.new("L", (width, height), 0)
        self._shadows = Image.new("L", (width, height), 0)
        self._pen = ImageDraw.Draw(self._picture)
        self._glaze = ImageDraw.Draw(self._picture, "RGBA")
        self._label_pen = ImageDraw.Draw(self._labels)
        self._shadow_pen = ImageDraw.Draw(self._shadows)

    def tone(self, color: Color, shade: float, z: float) -> tuple[int, int, int]:
        """``color`` under this light, ``z`` metres away."""
        fade = 0.75 * (1 - math.exp(-max(z, 0.0) / self.light.haze_m))
        near = shade * (1 - fade)
        (red, green, blue), gain, far = color, self.light.gain, self.light.skyline
        return (
            min(255, int(red * gain[0] * near + far[0] * fade)),
            min(255, int(green * gain[1] * near + far[1] * fade)),
            min(255, int(blue * gain[2] * near + far[2] * fade)),
        )

    def pixels(self, metres: float, z: float) -> float:
        """Length on the finished picture of ``metres`` seen ``z`` metres away."""
        return self.focal * metres / max(z, _NEAR_M) / 2

    def project(self, corners: Sequence[Point]) -> list[tuple[float, float]]:
        """Outline on the double-size picture, cut off just before the camera; maybe empty."""
        focal, center, horizon, eye = self.focal, self.center, self.horizon, self.eye_m
        outline = []
        for x, y, z in corners:
            if z < _NEAR_M:
                return self.project(_clip(corners))
            scale = focal / z
            outline.append((center + scale * x, horizon + scale * (eye - y)))
        return outline

    def polygon(
        self, corners: Sequence[Point], color: Color, label: int, shade: float = 1.0
    ) -> None:
        """Paints a flat polygon in the world."""
        outline = self.project(corners)
        if len(outline) > 2:
            z = (corners[0][2] + corners[len(corners) // 2][2]) / 2
            self.fill(outline, self.tone(color, shade, z), label)

    def fill(
        self, outline: Sequence[tuple[float, float]], color: tuple[int, int, int], label: int
    ) -> None:
        """Paints an outline given in pixels of the double-size picture."""
        self._pen.polygon(outline, fill=color)
        self._label_pen.polygon(outline, fill=label)

    def stroke(
        self,
        path: Sequence[tuple[float, float]],
        width: float,
        color: tuple[int, int, int],
        label: int,
    ) -> None:
        """Paints a line through pixels of the double-size picture, at least two of them wide."""
        for pen, value in ((self._pen, color), (self._label_pen, label)):
            pen.line(path, fill=value, width=max(2, round(width)), joint="curve")

    def glaze(self, corners: Sequence[Point], color: Color, alpha: int, label: int) -> None:
        """Paints a see-through polygon in the world; its label hides what is behind."""
        outline = self.project(corners)
        if len(outline) > 2:
            z = sum(corner[2] for corner in corners) / len(corners)
            self._glaze.polygon(outline, fill=(*self.tone(color, 1.0, z), alpha))
            self._label_pen.polygon(outline, fill=label)

    def shadow(self, corners: Sequence[Point], depth: float = 1.0) -> None:
        """Notes a shadow on the ground; ``lay_shadows`` paints all of them."""
        outline = self.project(corners)
        if len(outline) > 2:
            self._shadow_pen.polygon(outline, fill=int(255 * depth))

    def lay_shadows(self) -> None:
        """Darkens the ground painted so far where shadows were noted."""
        width, height = self._picture.size
        top = min(int(self.horizon), height - 1) // 4 * 4
        small = self._shadows.crop((0, top, width, height)).reduce(4)
        strength = 1 - self.light.shadow
        mask = small.filter(ImageFilter.GaussianBlur(0.7))
        mask = mask.point([int(value * strength) for value in range(256)])
        mask = mask.resize((width, height - top), Image.Resampling.BILINEAR)
        self._picture.paste(self.tone((18, 20, 30), 1.0, 0.0), (0, top), mask)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Adds texture, lens blur and sensor noise.

        Returns:
            (H, W, 3) uint8 RGB picture and (H, W) uint8 labels.
        """
        rng, (height, width) = self.rng, self.size
        labels = np.ascontiguousarray(np.asarray(self._labels)[::2, ::2])
        image = np.asarray(self._picture.reduce(2), np.float32)
        fine = 3.4 * rng.random((height, width), np.float32) - 1.7
        patches = _noise(rng, height, width, 5)
        gain = 1 + _GRAIN[:, 0][labels] * fine + _GRAIN[:, 1][labels] * patches
        gain += _GROUND[labels] * self._ground_texture()
        image = np.clip(image * gain[..., None], 0, 255)
        side = rng.uniform(0.02, 0.2)  # weight of a neighbour; 1 for the pixel itself
        taps = [a * b for a in (side, 1, side) for b in (side, 1, side)]
        blurred = Image.fromarray(image.astype(np.uint8)).filter(ImageFilter.Kernel((3, 3), taps))
        image = np.asarray(blurred, np.float32)
        image += rng.uniform(2.5, 7) * (rng.random((height, width, 3), np.float32) - 0.5)
        across = np.linspace(-1, 1, width, dtype=np.float32) ** 2
        down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        image *= (1 - rng.uniform(0, 0.1) * (across + down))[..., None]
        return np.clip(image, 0, 255).astype(np.uint8), labels

    def _sky(self) -> Image.Image:
        """Gradient and clouds over the whole picture, at half its finished size."""
        rng, height, width = self.rng, (self.size[0] + 1) // 2, (self.size[1] + 1) // 2
        clouds = 0.6 * _noise(rng, height, width, height // 6, 3)
        clouds += 0.3 * _noise(rng, height, width, height // 15, 2)
        clouds = (clouds + 0.12 * _noise(rng, height, width, height // 40, 2))[..., None]
        slope = np.linspace(0, 4 * height / self.horizon, height, dtype=np.float32)
        slope = np.clip(slope, 0, 1)[:, None, None]
        top = np.array(self.light.zenith, np.float32)
        low = np.array(self.light.skyline, np.float32)
        sky = top + (low - top) * slope
        if self.light.night:
            sky = sky * (1 + self.light.clouds * clouds * (1 - 0.5 * slope))
        else:
            cover = np.clip(clouds + rng.uniform(-0.8, 0.7), 0, 1)
            sky = sky + (np.minimum(low * 1.1, 253) - sky) * cover * self.light.clouds
        return Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))

    def _ground_texture(self) -> np.ndarray:
        """(H, W) float32 noise that lies flat on the ground; zero above the horizon."""
        height, width = self.size
        first = min(height, int(self.horizon / 2) + 2)
        texture = np.zeros((height, width), np.float32)
        rows = np.arange(first, height, dtype=np.float32)[:, None] * 2 - self.horizon
        z = self.focal * self.eye_m / np.maximum(rows, 1)
        x = (2 * np.arange(width, dtype=np.float32) - self.center) * z / self.focal
        for per_m, knots, strength in ((14.0, 2, 0.5), (8.0, 12, 0.55)):
            tile = _noise(self.rng, 128, 128, knots)
            tile = np.block([[tile, tile[:, ::-1]], [tile[::-1], tile[::-1, ::-1]]])  # seamless
            column = (x * per_m).astype(np.int32) & 255
            row = (z * per_m * 0.6).astype(np.int32) & 255
            visible = np.clip(20 * knots / (per_m * z), 0, 1)
            texture[first:] += strength * visible * tile[row, column]
        return texture


class Sprite:
    """A flat upright figure, in metres to the right of and above its foot.

    Args:
        canvas: where it is painted.
        foot: where it stands.
        mirror: -1 swaps left and right.
    """

    def __init__(self, canvas: Canvas, foot: Point, label: int, mirror: float = 1.0) -> None:
        self.canvas, self.label, self.z = canvas, label, foot[2]
        self.scale = canvas.focal / max(foot[2], 1.0)
        self.u = canvas.center + self.scale * foot[0]
        self.v = canvas.horizon + self.scale * (canvas.eye_m - foot[1])
        self.mirror = mirror

    def at(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Points on the double-size picture."""
        side = self.scale * self.mirror
        return [(self.u + side * x, self.v - self.scale * y) for x, y in points]

    def polygon(
        self, points: Sequence[tuple[float, float]], color: Color, label: int | None = None
    ) -> None:
        """Paints a polygon."""
        tone = self.canvas.tone(color, 1.0, self.z)
        self.canvas.fill(self.at(points), tone, self.label if label is None else label)

    def limb(
        self,
        points: Sequence[tuple[float, float]],
        width: float,
        color: Color,
        label: int | None = None,
    ) -> None:
        """Paints a line ``width`` metres thick."""
        tone = self.canvas.tone(color, 1.0, self.z)
        label = self.label if label is None else label
        self.canvas.stroke(self.at(points), width * self.scale, tone, label)

    def disc(
        self, x: float, y: float, radius: float, color: Color, label: int | None = None
    ) -> None:
        """Paints a disc."""
        corners = 8 if radius * self.scale < 6 else 16
        angles = [2 * math.pi * k / corners for k in range(corners)]
        rim = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
        self.polygon(rim, color, label)


def _clip(corners: Sequence[Point]) -> list[Point]:
    """Cuts a polygon off at the near plane."""
    kept: list[Point] = []
    for (x0, y0, z0), (x1, y1, z1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if z0 >= _NEAR_M:
            kept.append((x0, y0, z0))
        if (z0 >= _NEAR_M) != (z1 >= _NEAR_M):
            share = (_NEAR_M - z0) / (z1 - z0)
            kept.append((x0 + (x1 - x0) * share, y0 + (y1 - y0) * share, _NEAR_M))
    return kept


def _noise(
    rng: np.random.Generator, height: int, width: int, step: int, stretch: int = 1
) -> np.ndarray:
    """(height, width) float32 smooth noise of unit variance at its knots, ``step`` pixels apart."""
    step = max(1, step)
    knots = (height // step + 2, width // (step * stretch) + 2)
    small = Image.fromarray(rng.standard_normal(knots, np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
