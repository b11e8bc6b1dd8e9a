"""The picture of a benchmark: speed against mIoU, a dot per model and runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Point", "draw_speed_accuracy"]

_SIZE = (900, 480)  # width, height
_BOX = (70, 50, 860, 400)  # left, top, right, bottom of the plot
_INK, _GRID, _FAINT = (32, 33, 36), (225, 228, 232), (160, 165, 172)
# Colours that people with the usual kinds of colour blindness can tell apart (Okabe and Ito).
_COLORS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (120, 120, 120),
    (0, 0, 0),
)
_RADIUS = 6
_LEAST_SPAN_PERCENT = 2.0
_STEPS = (1, 2, 5)

Range = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """One dot.

    Args:
        model: its name, written once beside its dots.
        runtime: decides the colour.
        speed: pictures per second, above 0.
        miou_percent: in 0..100.
    """

    model: str
    runtime: str
    speed: float
    miou_percent: float


def draw_speed_accuracy(points: Sequence[Point], *, title: str = "") -> Image.Image:
    """Draws dots: to the right is faster, up is more right.

    Args:
        points: at least one.
        title: what stands above.

    Returns:
        RGB picture of 900×480.
    """
    picture = Image.new("RGB", _SIZE, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    across = (0.0, max(point.speed for point in points) * 1.08)
    scores = [point.miou_percent for point in points]
    middle, span = (min(scores) + max(scores)) / 2, max(scores) - min(scores)
    half = max(_LEAST_SPAN_PERCENT, 1.3 * span) / 2
    up = (max(0.0, middle - half), min(100.0, middle + half))
    _frame(draw, font, across, up, title)
    runtimes = list(dict.fromkeys(point.runtime for point in points))
    colors = {name: _COLORS[index % len(_COLORS)] for index, name in enumerate(runtimes)}
    for model in dict.fromkeys(point.model for point in points):
        _model(draw, font, [point for point in points if point.model == model], across, up, colors)
    _legend(draw, font, colors)
    return picture


def _frame(draw: ImageDraw.ImageDraw, font: Any, across: Range, up: Range, title: str) -> None:
    left, top, right, bottom = _BOX
    for value in _ticks(*across):
        x, _ = _place(value, up[0], across, up)
        draw.line((x, top, x, bottom), fill=_GRID)
        draw.text((x, bottom + 8), f"{value:g}", fill=_INK, font=font, anchor="mt")
    for value in _ticks(*up):
        _, y = _place(0, value, across, up)
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((left - 8, y), f"{value:g} %", fill=_INK, font=font, anchor="rm")
    draw.line((left, top, left, bottom, right, bottom), fill=_FAINT)
    draw.text((left, top - 14), "mIoU", fill=_INK, font=font, anchor="lm")
    draw.text((right, top - 14), title, fill=_INK, font=font, anchor="rm")
    words = "pictures per second, bytes in, labels out"
    draw.text(((left + right) / 2, bottom + 34), words, fill=_INK, font=font, anchor="mm")


def _model(
    draw: ImageDraw.ImageDraw,
    font: Any,
    points: Sequence[Point],
    across: Range,
    up: Range,
    colors: dict[str, tuple[int, int, int]],
) -> None:
    """A model's dots, joined from slow to fast, and its name below the slowest."""
    ordered = sorted(points, key=lambda point: point.speed)
    places = [_place(point.speed, point.miou_percent, across, up) for point in ordered]
    if len(places) > 1:
        draw.line(places, fill=_FAINT, width=1)
    for point, (x, y) in zip(ordered, places, strict=True):
        box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
        draw.ellipse(box, fill=colors[point.runtime], outline=(255, 255, 255))
    (x, y), right = places[0], _BOX[2]
    overhang = max(0.0, x + draw.textlength(ordered[0].model, font) - right)
    draw.text((x - overhang, y + 12), ordered[0].model, fill=_INK, font=font, anchor="lt")


def _legend(draw: ImageDraw.ImageDraw, font: Any, colors: dict[str, tuple[int, int, int]]) -> None:
    x, y = float(_BOX[0]), _SIZE[1] - 20
    for name, color in colors.items():
        draw.ellipse((x, y - 5, x + 10, y + 5), fill=color)
        draw.text((x + 16, y), name, fill=_INK, font=font, anchor="lm")
        x += 16 + draw.textlength(name, font) + 22


def _place(speed: float, score: float, across: Range, up: Range) -> tuple[float, float]:
    left, top, right, bottom = _BOX
    x = left + (speed - across[0]) / (across[1] - across[0]) * (right - left)
    return x, bottom - (score - up[0]) / (up[1] - up[0]) * (bottom - top)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, four to ten of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * one for one in _STEPS if power * one >= rough), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
