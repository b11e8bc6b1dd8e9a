"""The picture of a training run: loss and validation score over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

__all__ = ["draw_curve"]

_SIZE = (900, 480)  # width, height
_BOX = (70, 40, 830, 420)  # left, top, right, bottom of the plot
_LOSS, _SCORE, _INK, _GRID = (192, 57, 43), (31, 97, 141), (32, 33, 36), (225, 228, 232)
_TICKS = 5

Points = list[tuple[float, float]]


def draw_curve(rows: Sequence[Mapping[str, Any]], title: str = "") -> Image.Image:
    """Draws the training loss against the left scale and the mIoU against the right one.

    Args:
        rows: a run's log: ``epoch``, ``loss``, and ``miou_percent`` where it was measured.
        title: what stands above.

    Returns:
        RGB picture of 900×480.
    """
    losses = [(float(row["epoch"]), float(row["loss"])) for row in rows]
    scores = [
        (float(row["epoch"]), float(row["miou_percent"])) for row in rows if row.get("miou_percent")
    ]
    picture = Image.new("RGB", _SIZE, (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default()
    last = max([epoch for epoch, _ in losses], default=1.0)
    top_loss = _round_up(max([loss for _, loss in losses], default=1.0))
    _frame(draw, font, last, top_loss, title)
    _line(draw, losses, last, top_loss, _LOSS)
    _line(draw, scores, last, 100.0, _SCORE)
    if scores:
        epoch, best = max(scores, key=lambda point: point[1])
        x, y = _place(epoch, best, last, 100.0)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=_SCORE, width=2)
        draw.text((x, y - 16), f"{best:.1f} %", fill=_SCORE, font=font, anchor="mm")
    return picture


def _frame(draw: ImageDraw.ImageDraw, font: Any, last: float, top_loss: float, title: str) -> None:
    left, top, right, bottom = _BOX
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((left - 8, y), f"{share * top_loss:.3g}", fill=_LOSS, font=font, anchor="rm")
        draw.text((right + 8, y), f"{100 * share:.0f} %", fill=_SCORE, font=font, anchor="lm")
        epoch = round(1 + share * (last - 1))
        x, _ = _place(epoch, 0, last, 1)
        draw.text((x, bottom + 10), str(epoch), fill=_INK, font=font, anchor="mt")
    draw.text((left, top - 14), "training loss", fill=_LOSS, font=font, anchor="lm")
    draw.text((right, top - 14), "validation mIoU", fill=_SCORE, font=font, anchor="rm")
    draw.text(((left + right) / 2, top - 14), title, fill=_INK, font=font, anchor="mm")
    draw.text(((left + right) / 2, bottom + 34), "epoch", fill=_INK, font=font, anchor="mm")


def _line(
    draw: ImageDraw.ImageDraw,
    points: Points,
    last: float,
    top: float,
    color: tuple[int, int, int],
) -> None:
    places = [_place(epoch, value, last, top) for epoch, value in points]
    if len(places) > 1:
        draw.line(places, fill=color, width=2, joint="curve")
    for x, y in places if len(places) <= 60 else []:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)


def _place(epoch: float, value: float, last: float, top: float) -> tuple[float, float]:
    left, upper, right, bottom = _BOX
    across = (epoch - 1) / max(1.0, last - 1)
    return left + across * (right - left), bottom - min(1.0, value / top) * (bottom - upper)


def _round_up(value: float) -> float:
    """A round number of at least ``value``, for the top of a scale."""
    step = 0.05
    while step * 20 < value:
        step *= 2
    return step * max(1, -(-value // step))
