"""What label values or colours that are no class indices probably mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torchseg_zoo.data.color_map import unpacked
from torchseg_zoo.data.label_sets import LABEL_SETS, RAW_VALUES
from torchseg_zoo.data.labels import LabelSet

__all__ = ["RARE_SHARE", "Proposal", "binary_as_classes", "map_colors", "map_values"]

# Colours that label maps use for what has no class: VOC's borders, and white.
_BORDERS = (0xE0E0C0, 0xFFFFFF)
RARE_SHARE = 0.05
"""Stray values of more of the pixels than this are classes that nobody named."""
_KNOWN_SHARE = 0.9  # of the pixels must have a known set's colours before it is believed


@dataclass(frozen=True)
class Proposal:
    """A guess at what label files mean.

    Args:
        labels: label set with ``raw_ids`` or ``raw_colors`` that reads them.
        words: the guess in words, and what to look at before it is used.
    """

    labels: LabelSet
    words: str


def map_values(labels: LabelSet, values: Mapping[int, int]) -> Proposal | None:
    """Proposes which number is which class.

    Args:
        labels: the classes wanted.
        values: number in the label files → pixels; some of them are not allowed.

    Returns:
        The proposal; ``None`` if there is nothing but 255, or too much for which there is no class.
    """
    count = labels.num_classes
    present = sorted(value for value in values if value != 255)
    inside = sum(pixels for value, pixels in values.items() if value < count)
    for known in LABEL_SETS.values():
        allowed = set(RAW_VALUES.get(known.name, ()))
        if not known.raw_ids or known.num_classes != count or not allowed.issuperset(present):
            continue
        # A single stray value among class indices fits a known set, too, but fits it worse.
        if sum(values.get(raw, 0) for raw in known.raw_ids) >= inside:
            classes = labels if labels.classes != _numbered(count) else known
            return Proposal(
                dataclasses.replace(classes, raw_ids=dict(known.raw_ids), raw_colors=None),
                f"the values are those of {known.name}'s label files: mapped as there",
            )
    if not present:
        return None
    if present[0] >= 1 and present[-1] == count:
        return _by_value(labels, {value: value - 1 for value in range(1, count + 1)},
                         "the values start at 1: 1 is taken off")  # fmt: skip
    if len(present) + 1 == count and 255 in values and present[-1] >= count:
        present.append(255)
    if len(present) == count:
        return _by_value(labels, {value: index for index, value in enumerate(present)},
                         "there are as many values as classes: mapped in their order")  # fmt: skip
    if sum(values.values()) - inside - values.get(255, 0) > RARE_SHARE * sum(values.values()):
        return None  # that is no dirt: there are more classes
    return _by_value(labels, {value: value for value in range(count)},
                     "values without a class are ignored")  # fmt: skip


def binary_as_classes(labels: LabelSet, values: Mapping[int, int]) -> Proposal | None:
    """0 and 255 for two classes: allowed values, but then nothing of class 1 is ever learnt."""
    if labels.num_classes != 2 or set(values) != {0, 255}:
        return None
    return _by_value(labels, {0: 0, 255: 1}, "0 and 255 are taken for classes 0 and 1")


def map_colors(labels: LabelSet, colors: Mapping[int, int], *, most: int = 256) -> Proposal | None:
    """Proposes which colour is which class.

    Args:
        labels: the classes wanted; their palette is believed where it has most of the pixels.
        colors: packed colour in the label files → pixels.
        most: more colours than these are no classes, but smoothed or lossy ones.

    Returns:
        The proposal; ``None`` if there are too many colours.
    """
    if len(colors) > most:
        return None
    pixels = max(1, sum(colors.values()))
    sets = [labels, *(s for s in LABEL_SETS.values() if s.num_classes == labels.num_classes)]
    for known in sets:
        table = {_packed(color): index for index, color in reversed(list(enumerate(known.palette)))}
        if sum(n for color, n in colors.items() if color in table) >= _KNOWN_SHARE * pixels:
            classes = labels if labels.classes != _numbered(labels.num_classes) else known
            mapping = {color: table.get(color, classes.ignore_index) for color in colors}
            whose = "the classes file's" if known is labels else f"{known.name}'s"
            return _by_color(classes, mapping, f"the colours are {whose}")
    kept = set(colors)
    for spare in _BORDERS:
        if len(kept) > labels.num_classes:
            kept.discard(spare)
    while len(kept) > labels.num_classes:  # black is there first: background, or what is left over
        kept.remove(min(kept, key=lambda color: (colors[color], color)))
    mapping = dict.fromkeys(colors, labels.ignore_index)
    mapping |= {color: index for index, color in enumerate(sorted(kept))}
    return _by_color(labels, mapping, "colours are given to the classes in their order: look!")


def _by_value(labels: LabelSet, raw_ids: dict[int, int], words: str) -> Proposal:
    return Proposal(dataclasses.replace(labels, raw_ids=raw_ids, raw_colors=None), words)


def _by_color(labels: LabelSet, colors: Mapping[int, int], words: str) -> Proposal:
    raw_colors = {unpacked(color): index for color, index in sorted(colors.items())}
    ignored = sum(index == labels.ignore_index for index in colors.values())
    if ignored:
        words += f"; colours without a class are ignored: {ignored}"
    return Proposal(dataclasses.replace(labels, raw_ids=None, raw_colors=raw_colors), words)


def _numbered(count: int) -> tuple[str, ...]:
    """The names of classes that have none."""
    return tuple(f"class {index}" for index in range(count))


def _packed(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]
