"""Judging what label maps hold: values, colours, palettes, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from torchseg_zoo.data.check.facts import SampleFacts
from torchseg_zoo.data.check.finding import MOST_VALUES, Finding, finding
from torchseg_zoo.data.check.mapping import RARE_SHARE
from torchseg_zoo.data.label_map import allowed_values
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.errors import listed

__all__ = ["LABEL_CHECKS", "class_counts", "unused"]


def painted(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """Label maps that hold colours, which no mapping explains."""
    if labels.raw_colors is not None:
        return
    painted = [one for one in facts if one.colors]
    if painted:
        most = max(one.num_colors for one in painted)
        what = f"{len(painted)} label maps hold colours, not class indices; up to {most} in a map"
        names = [one.label or one.name for one in painted]
        fix = "use the proposed mapping of colours to classes"
        if most > 2 * labels.num_classes + 2:
            fix += ", once they are exported without smoothing or lossy compression"
        yield finding("colors", "error", split, what, names, fix)


def stray_values(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """Numbers that stand for no class."""
    if labels.raw_colors is not None:
        return
    allowed = allowed_values(labels)
    counts: Counter[int] = Counter()
    for one in facts:
        counts.update(one.values)
    stray = {value: count for value, count in counts.items() if not allowed[value]}
    if not stray:
        return
    pixels = counts.total()
    commonest = sorted(stray, key=lambda value: -stray[value])
    shares = [f"{value} ({100 * stray[value] / pixels:.2g} % of pixels)" for value in commonest]
    often = listed(shares, MOST_VALUES)
    words = f"0–{labels.num_classes - 1} or {labels.ignore_index}"
    what = f"label values that stand for no class: {often}; allowed are {words}"
    if labels.raw_ids is not None:
        what = f"label values that {labels.name}'s files do not hold: {often}"
    lines = [
        f"{one.label}: {', '.join(str(value) for value in one.values if value in stray)}"
        for one in facts
        if stray.keys() & one.values.keys()
    ]
    fix = "use the proposed mapping of values to classes, or give the right number of classes"
    if (
        sum(stray.values()) > RARE_SHARE * pixels
        and len(counts.keys() - {255}) > labels.num_classes
    ):
        fix = (
            f"there are {len(counts.keys() - {255})} different values, the largest is "
            f"{max(counts.keys() - {255})}: name more classes, or say in classes.json (raw_ids) "
            "which of them are meant"
        )
    yield finding("stray", "error", split, what, lines, fix)


def stray_colors(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """Colours that the mapping does not list."""
    if labels.raw_colors is None:
        return
    known = {red << 16 | green << 8 | blue for red, green, blue in labels.raw_colors}
    lines = [
        f"{one.label}: {', '.join(f'{color:06x}' for color in list(stray)[:MOST_VALUES])}"
        for one in facts
        if (stray := {color: 1 for color in one.colors if color not in known})
    ]
    if lines:
        what = f"{len(lines)} label maps have colours that are not in raw_colors"
        fix = f"list them in the classes file, {labels.ignore_index} for unlabelled"
        yield finding("stray", "error", split, what, lines, fix)


def binary(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """0 and 255 where 0 and 1 were meant."""
    values = {value for one in facts for value in one.values}
    if values == {0, 255} and labels.num_classes == 2 and not (labels.raw_ids or labels.raw_colors):
        what = "all labels are 0 or 255, and 255 means unlabelled: class 1 would never be learnt"
        names = [one.label or one.name for one in facts if 255 in one.values]
        yield finding("binary", "error", split, what, names, "use the proposed mapping")


def palettes(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """Numbers that have different colours in different files."""
    if labels.raw_colors is not None:
        return
    first = dict(_own_colors(labels))
    lines = []
    for one in facts:
        for value, color in one.palette.items():
            known, where = first.setdefault(value, (color, one.label or one.name))
            if known != color:
                lines.append(f"{one.label}: {value} is {color:06x}, in {where} {known:06x}")
                break
    if lines:
        what = f"palettes disagree: in {len(lines)} label maps a number has another colour"
        fix = (
            "if the colours are what was meant, use the proposed mapping; if the numbers are, "
            "give all files one palette"
        )
        yield finding("palette", "warning", split, what, lines, fix)


def _own_colors(labels: LabelSet) -> Iterator[tuple[int, tuple[int, str]]]:
    """Class → its colour and where that stands, of the classes that were given one."""
    spare = generic_labels(labels.num_classes).palette
    if labels.raw_ids is None:
        for index, (color, other) in enumerate(zip(labels.palette, spare, strict=True)):
            if color != other:
                red, green, blue = color
                yield index, (red << 16 | green << 8 | blue, "the classes")


def unlabelled(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """Label maps from which nothing can be learnt."""
    allowed = allowed_values(labels)
    readable = [
        one for one in facts
        if (one.values and allowed[list(one.values)].all())
        or (one.colors and labels.raw_colors is not None)
    ]  # fmt: skip
    empty = [
        one.label or one.name
        for one in readable
        if not class_counts([one], labels)[: labels.num_classes].any()
    ]
    if empty:
        what = f"{len(empty)} label maps have no pixel of any class"
        yield finding("unlabelled", "warning", split, what, empty, "label them or leave them out")


def unused(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    """Classes that never occur."""
    counts = class_counts(facts, labels)
    if not counts[: labels.num_classes].any():
        return  # nothing is labelled, and that is another finding
    missing = [name for index, name in enumerate(labels.classes) if not counts[index]]
    if missing:
        classes = f"{len(missing)} of {labels.num_classes} classes"
        what = f"no pixel has {classes}: {listed(missing, MOST_VALUES)}"
        fix = "check number and order of the classes, or add pictures that show them"
        yield Finding("unused", "warning", split, what, (), 0, fix)


def class_counts(facts: Sequence[SampleFacts], labels: LabelSet) -> np.ndarray:
    """(256,) int64: pixels per train id; what stands for no class counts as ignored."""
    counts = np.zeros(256, np.int64)
    for one in facts:
        for value, pixels in one.values.items():
            counts[_train_id(value, labels)] += pixels
        for color, pixels in one.colors.items():
            triple = (color >> 16, color >> 8 & 255, color & 255)
            counts[(labels.raw_colors or {}).get(triple, labels.ignore_index)] += pixels
    return counts


def _train_id(value: int, labels: LabelSet) -> int:
    if labels.raw_ids is not None:
        return labels.raw_ids.get(value, labels.ignore_index)
    return value if value < labels.num_classes else labels.ignore_index


LABEL_CHECKS = (painted, stray_values, stray_colors, binary, palettes, unlabelled)
"""Each takes the split's name, facts of its samples and the label set, and yields what it finds."""
