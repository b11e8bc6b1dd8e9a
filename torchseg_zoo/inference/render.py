"""Label maps and confidences as pictures for people."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import ArgumentError, DataError, described

__all__ = ["SMALL_SHARE", "colorize", "confidence_picture", "overlay", "share_text"]

_BLOCK_PX = 2**22  # pixels blended at once, to keep temporary copies of big pictures small
SMALL_SHARE = 0.0005  # classes below this share of the picture become one line of the legend

_PAPER = (255, 255, 255)
_INK = (32, 33, 36)
_FAINT_INK = (110, 114, 120)
_FRAME = (176, 180, 186)
_LEGEND_WIDTH_EM = 18  # narrowest legend, in font sizes


def colorize(labels: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Paints a label map in the colours of its classes.

    Args:
        labels: (H, W) integers in 0..255, train ids.
        label_set: its palette is used; the ignore index and numbers without a class are black.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ArgumentError: if ``labels`` has another shape, type or range.
        DataError: if ``labels`` is empty.
    """
    table, is_class = _palette(label_set)
    table[~is_class] = 0
    painted: np.ndarray = table[_label_map(labels)]
    return painted


def overlay(
    image: object,
    labels: np.ndarray,
    label_set: LabelSet,
    *,
    alpha: float = 0.5,
    legend: bool = True,
) -> Image.Image:
    """Lays the colours of a label map over its photo, with borders and a legend.

    The picture keeps its exact size and lies at the top left: ``result.crop((0, 0, W, H))`` is the
    picture without the legend. The legend is a strip below; where the picture is too narrow for
    text, the strip is wider and the space beside the picture stays white.

    Args:
        image: photo of H x W pixels, in any form that ``as_rgb`` takes.
        labels: (H, W) integers in 0..255, train ids. Where there is no such class, or at the ignore
            index, the photo shows through unchanged.
        label_set: names and colours of the classes.
        alpha: weight of the colour, 0 (photo only) to 1 (colours only).
        legend: whether to add the strip, which lists the classes present by their share of all
            pixels, largest first.

    Raises:
        ArgumentError: if sizes differ or an argument is not as told above.
        DataError: if the photo is a file that cannot be read, or is empty.
    """
    if not 0 <= alpha <= 1:
        raise ArgumentError(f"{alpha} is not in 0..1", where="alpha", fix="choose 0.5, say")
    photo, label_map = as_rgb(image), _label_map(labels)
    if photo.shape[:2] != label_map.shape:
        raise ArgumentError(
            f"the picture is {_size(photo)} but the label map {_size(label_map)} (height×width)",
            where="labels",
            fix="pass the label map of this very picture",
        )
    blended = _blend(photo, label_map, label_set, alpha)
    if not legend:
        return Image.fromarray(blended)
    return _with_legend(blended, _entries(label_map, label_set))


def confidence_picture(confidence: np.ndarray) -> np.ndarray:
    """Draws confidences as grey, black for 0 and white for 1.

    Args:
        confidence: (H, W) float in 0..1; rounding errors up to 0.001 outside are forgiven.

    Returns:
        (H, W) uint8.

    Raises:
        ArgumentError: if ``confidence`` has another shape, type or range, or holds NaN.
        DataError: if it is empty.
    """
    if (
        not isinstance(confidence, np.ndarray)
        or confidence.ndim != 2
        or confidence.dtype.kind != "f"
    ):
        raise ArgumentError(
            f"got {described(confidence)}", where="confidence", fix="pass (H, W) float in 0..1"
        )
    _refuse_empty(confidence)
    low, high = float(confidence.min()), float(confidence.max())
    if not (low >= -0.001 and high <= 1.001):  # also false for NaN
        raise ArgumentError(
            f"values run from {low} to {high}",
            where="confidence",
            fix="pass probabilities in 0..1, not logits",
        )
    grey: np.ndarray = np.rint(np.clip(confidence, 0, 1) * np.float32(255)).astype(np.uint8)
    return grey


# Blending


def _blend(
    photo: np.ndarray, label_map: np.ndarray, label_set: LabelSet, alpha: float
) -> np.ndarray:
    """(H, W, 3) uint8 photo with colours and borders laid over."""
    colors, is_class = _palette(label_set)
    height, width = label_map.shape
    thickness = max(1, round(min(height, width) / 700))
    fill = np.where(is_class, round(alpha * 256), 0).astype(np.uint16)  # in 1/256
    # Borders are the colour itself, so that they name the region they enclose.
    edge = np.where(is_class, round((alpha + (1 - alpha) * 0.75) * 256), 0).astype(np.uint16)
    if alpha == 0:
        edge = fill
    blended = np.empty_like(photo)
    rows = max(1, _BLOCK_PX // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        near = slice(max(0, top - thickness), min(height, bottom + thickness))
        border = _borders(label_map[near], thickness)[top - near.start : bottom - near.start]
        part = label_map[top:bottom]
        weight = np.where(border, edge[part], fill[part])[:, :, None]
        mixed = photo[top:bottom] * (256 - weight) + colors[part] * weight
        blended[top:bottom] = (mixed + 128) >> 8  # at most 255 · 256 + 128, which fits
    return blended


def _borders(labels: np.ndarray, thickness: int) -> np.ndarray:
    """(H, W) bool: within ``thickness`` pixels, across or down, of another label."""
    border = np.zeros(labels.shape, np.bool_)
    for step in range(1, thickness + 1):
        across = labels[:, step:] != labels[:, :-step]
        border[:, step:] |= across
        border[:, :-step] |= across
        down = labels[step:] != labels[:-step]
        border[step:] |= down
        border[:-step] |= down
    return border


def _palette(label_set: LabelSet) -> tuple[np.ndarray, np.ndarray]:
    """(256, 3) uint8 colours, and (256,) bool: which indices are classes that count."""
    is_class = np.arange(256) < label_set.num_classes
    if 0 <= label_set.ignore_index <= 255:
        is_class[label_set.ignore_index] = False
    return label_set.palette_array(), is_class


# Legend


@dataclass(frozen=True)
class _Entry:
    name: str
    share: str
    color: tuple[int, int, int] | None  # None: an empty swatch


def _entries(label_map: np.ndarray, label_set: LabelSet) -> list[_Entry]:
    """Lines of the legend: classes by share, then what is small, then what has no class."""
    counts = np.zeros(256, np.int64)
    flat = label_map.reshape(-1)
    for start in range(0, flat.size, _BLOCK_PX):  # bincount widens its input to 8 bytes a pixel
        counts += np.bincount(flat[start : start + _BLOCK_PX], minlength=256)
    shares = counts / flat.size
    _, is_class = _palette(label_set)
    present = [int(i) for i in np.argsort(-shares, kind="stable") if is_class[i] and counts[i]]
    # A line for a single small class is as short as one that says "1 more".
    small = [index for index in present if shares[index] < SMALL_SHARE]
    listed = present[: -len(small)] if len(small) > 1 else present
    entries = [
        _Entry(label_set.classes[i], share_text(shares[i]), label_set.palette[i]) for i in listed
    ]
    if len(listed) < len(present):
        entries.append(_Entry(f"{len(small)} more", share_text(shares[small].sum()), None))
    unlabelled = shares[~is_class].sum()
    if unlabelled > 0:
        entries.append(_Entry("unlabelled", share_text(unlabelled), None))
    return entries


def share_text(share: float) -> str:
    """A share of the picture in percent, as legends have it."""
    return "<0.1%" if share < SMALL_SHARE else f"{100 * share:.1f}%"


def _with_legend(picture: np.ndarray, entries: list[_Entry]) -> Image.Image:
    """Adds a strip with the entries below an (H, W, 3) picture."""
    height, width = picture.shape[:2]
    # Text grows with the picture, which will be scaled to fit a screen, but not with one long side.
    font, em = _font(max(13, round(min((height * width) ** 0.5, min(height, width) * 2) / 52)))
    margin, gap, swatch = em, round(em * 0.5), round(em * 0.9)
    strip_width = max(width, em * _LEGEND_WIDTH_EM)
    room = strip_width - 2 * margin

    share_width = max(_length(font, entry.share) for entry in entries)
    name_room = room - swatch - 2 * gap - share_width
    names = [_shortened(font, entry.name, name_room) for entry in entries]
    cell = swatch + gap + max(_length(font, name) for name in names) + gap + share_width
    between = round(em * 1.6)
    columns = max(1, min(len(entries), (room + between) // (cell + between)))
    lines = -(-len(entries) // columns)
    columns = -(-len(entries) // lines)  # as many as the lines fill evenly
    pitch = min((room + between) // columns, cell + 4 * em)
    line_height = round(em * 1.55)

    strip_height = 2 * margin + lines * line_height - (line_height - em)
    canvas = Image.new("RGB", (strip_width, height + strip_height), _PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (entry, name) in enumerate(zip(entries, names, strict=True)):
        column, line = divmod(index, lines)  # read downwards, largest share at the top left
        left = margin + column * pitch
        middle = height + margin + line * line_height + em // 2
        top = middle - swatch // 2
        draw.rounded_rectangle(
            (left, top, left + swatch - 1, top + swatch - 1),
            radius=max(2, swatch // 5),
            fill=entry.color or _PAPER,
            outline=_FRAME if entry.color is None or min(entry.color) > 200 else None,
            width=max(1, em // 14),
        )
        _write(draw, font, left + swatch + gap, middle, name, _INK)
        share_left = left + cell - _length(font, entry.share)
        _write(draw, font, share_left, middle, entry.share, _FAINT_INK)
    return canvas


_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font(size: int) -> tuple[_Font, int]:
    """Pillow's own font and its size in pixels, which is fixed where FreeType is missing."""
    try:
        return ImageFont.load_default(size), size
    except (ImportError, OSError):
        return ImageFont.load_default_imagefont(), 11


def _write(
    draw: ImageDraw.ImageDraw,
    font: _Font,
    left: int,
    middle: int,
    text: str,
    color: tuple[int, int, int],
) -> None:
    # All text is centred on the capitals, or names with and without a "g" would not line up.
    _, top, _, bottom = font.getbbox("H")
    draw.text((left, middle - round((top + bottom) / 2)), text, fill=color, font=font)


def _length(font: _Font, text: str) -> int:
    return int(-(-font.getlength(text) // 1))


def _shortened(font: _Font, name: str, room: int) -> str:
    """The name in one line that the font can draw, ending in dots where it would be too long."""
    # Pillow's own fonts have few glyphs beyond ASCII; "Baume" is better than "B▯ume".
    plain = unicodedata.normalize("NFKD", " ".join(name.replace("ß", "ss").split()))
    letters = "".join(char for char in plain if not unicodedata.combining(char))
    text = letters.encode("ascii", "replace").decode("ascii")
    if _length(font, text) <= room:
        return text
    while text and _length(font, text + "...") > room:
        text = text[:-1]
    return text.rstrip() + "..."


# Arguments


def _label_map(labels: np.ndarray) -> np.ndarray:
    """Checked (H, W) labels as uint8."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise ArgumentError(
            f"got {described(labels)}", where="labels", fix="pass (H, W) integers in 0..255"
        )
    _refuse_empty(labels)
    if labels.dtype != np.uint8 and not 0 <= labels.min() <= labels.max() <= 255:
        raise ArgumentError(
            f"values run from {labels.min()} to {labels.max()}",
            where="labels",
            fix="pass train ids in 0..255",
        )
    return labels.astype(np.uint8, copy=False)


def _refuse_empty(array: np.ndarray) -> None:
    if array.size == 0:
        raise DataError("there are no pixels", where=f"array of shape {array.shape}")


def _size(array: np.ndarray) -> str:
    return f"{array.shape[0]}×{array.shape[1]}"
