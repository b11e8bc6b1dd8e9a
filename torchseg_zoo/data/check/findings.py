"""Judging what the files of a data set hold: each kind of problem, once, with its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from torchseg_zoo.data.check.facts import SampleFacts
from torchseg_zoo.data.label_map import allowed_values
from torchseg_zoo.data.labels import LabelSet, generic_labels

__all__ = ["Finding", "between_splits", "in_split"]

_MOST_FILES = 3  # named per finding; the count says how many there are
_MOST_VALUES = 8


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Args:
        kind: its name: ``"unreadable"``, ``"no_labels"``, ``"size"``, ``"exif"``, ``"colors"``,
            ``"stray"``, ``"binary"``, ``"palette"``, ``"unlabelled"``, ``"unused"``,
            ``"repeated"``, ``"duplicates"`` or ``"remark"``.
        severity: ``"error"`` if training would stop or learn what is wrong, else ``"warning"``.
        split: where it is.
        what: one sentence.
        files: a few of the files, with what is particular to each.
        num_files: how many there are.
        fix: what to do.
    """

    kind: str
    severity: Literal["error", "warning"]
    split: str
    what: str
    files: tuple[str, ...]
    num_files: int
    fix: str


def in_split(
    split: str, facts: Sequence[SampleFacts], labels: LabelSet, *, unused: bool = True
) -> list[Finding]:
    """What is wrong within one split, the worst first.

    Args:
        split: its name.
        facts: of its samples.
        labels: what its label values mean.
        unused: whether to name classes that never occur, which a part of a split cannot tell.
    """
    checks: list[Callable[[str, Sequence[SampleFacts], LabelSet], Iterator[Finding]]] = [
        _unreadable, _no_labels, _sizes, _painted, _stray, _stray_colors, _binary, _palettes,
        _unlabelled,
    ]  # fmt: skip
    if unused:
        checks += [_unused, _repeated]
    checks.append(_remarks)
    found = [finding for check in checks for finding in check(split, facts, labels)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def between_splits(facts: Mapping[str, Sequence[SampleFacts]]) -> list[Finding]:
    """Pictures that are in two splits, by their decoded content."""
    found = []
    names = list(facts)
    for place, first in enumerate(names):
        seen = {one.digest: one.name for one in facts[first] if one.digest}
        for second in names[place + 1 :]:
            twice = [
                f"{one.name} = {seen[one.digest]}" for one in facts[second] if one.digest in seen
            ]
            if twice:
                what = f"{len(twice)} of its {len(facts[second])} pictures are in {first}, too"
                fix = "leave them out of one: a score on pictures that were learnt says nothing"
                found.append(_finding("duplicates", "warning", second, what, twice, fix))
    return found


def _finding(
    kind: str,
    severity: Literal["error", "warning"],
    split: str,
    what: str,
    files: Sequence[str],
    fix: str,
) -> Finding:
    return Finding(kind, severity, split, what, tuple(files[:_MOST_FILES]), len(files), fix)


def _unreadable(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    errors = [error for one in facts for error in (one.problem, one.label_problem) if error]
    if errors:
        what = f"{len(errors)} files cannot be used"
        lines = [
            f"{error.where}: {error.what}" + (f" ({error.why})" if error.why else "")
            for error in errors
        ]
        fix = errors[0].fix or "fetch or export them again"
        yield _finding("unreadable", "error", split, what, lines, fix)


def _no_labels(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    bare = [one.name for one in facts if one.label is None and one.problem is None]
    if bare:
        what = f"{len(bare)} of {len(facts)} pictures have no label map"
        fix = "give image<TAB>label in each line, or a label map for every picture"
        yield _finding("no_labels", "error", split, what, bare, fix)


def _sizes(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    both = [one for one in facts if one.size and one.label_size]
    other = [one for one in both if one.size != one.label_size]
    turned = [
        one for one in other
        if one.turn != one.label_turn and one.size == (one.label_size or (0, 0))[::-1]
    ]  # fmt: skip
    plain = [one for one in other if one not in turned]
    if plain:
        what = f"{len(plain)} label maps have another size than their picture"
        fix = "pair each picture with the label map of its own size"
        yield _finding("size", "error", split, what, [_both_sizes(one) for one in plain], fix)
    fix = (
        "label the pictures as they are displayed, or save them turned and without the EXIF tag: "
        "a label map without one stays as it is"
    )
    if turned:
        what = f"{len(turned)} label maps were made before their picture was turned (EXIF)"
        yield _finding("exif", "error", split, what, [_both_sizes(one) for one in turned], fix)
    silent = [one for one in both if one.size == one.label_size and one.turn != one.label_turn]
    if silent:
        what = (
            f"{len(silent)} pictures are turned or mirrored by EXIF and their label maps are not; "
            "sizes agree, so look whether the contents do"
        )
        lines = [f"{one.name}: orientation {one.turn}, labels {one.label_turn}" for one in silent]
        yield _finding("exif", "warning", split, what, lines, fix)


def _both_sizes(one: SampleFacts) -> str:
    assert one.size is not None and one.label_size is not None
    height, width = one.size
    return f"{one.label}: {one.label_size[0]}×{one.label_size[1]}, picture {height}×{width}"


def _painted(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
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
        yield _finding("colors", "error", split, what, names, fix)


def _stray(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
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
    listed = ", ".join(
        f"{value} ({100 * stray[value] / pixels:.2g} % of pixels)"
        for value in commonest[:_MOST_VALUES]
    )
    more = f" and {len(stray) - _MOST_VALUES} more" if len(stray) > _MOST_VALUES else ""
    words = f"0–{labels.num_classes - 1} or {labels.ignore_index}"
    what = f"label values that stand for no class: {listed}{more}; allowed are {words}"
    if labels.raw_ids is not None:
        what = f"label values that {labels.name}'s files do not hold: {listed}{more}"
    lines = [
        f"{one.label}: {', '.join(str(value) for value in one.values if value in stray)}"
        for one in facts
        if stray.keys() & one.values.keys()
    ]
    fix = "use the proposed mapping of values to classes, or give the right number of classes"
    yield _finding("stray", "error", split, what, lines, fix)


def _stray_colors(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    if labels.raw_colors is None:
        return
    known = {red << 16 | green << 8 | blue for red, green, blue in labels.raw_colors}
    lines = [
        f"{one.label}: {', '.join(f'{color:06x}' for color in list(stray)[:_MOST_VALUES])}"
        for one in facts
        if (stray := {color: 1 for color in one.colors if color not in known})
    ]
    if lines:
        what = f"{len(lines)} label maps have colours that are not in raw_colors"
        fix = f"list them in the classes file, {labels.ignore_index} for unlabelled"
        yield _finding("stray", "error", split, what, lines, fix)


def _binary(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    values = {value for one in facts for value in one.values}
    if values == {0, 255} and labels.num_classes == 2 and not (labels.raw_ids or labels.raw_colors):
        what = "all labels are 0 or 255, and 255 means unlabelled: class 1 would never be learnt"
        names = [one.label or one.name for one in facts if 255 in one.values]
        yield _finding("binary", "error", split, what, names, "use the proposed mapping")


def _palettes(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
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
        yield _finding("palette", "warning", split, what, lines, fix)


def _own_colors(labels: LabelSet) -> Iterator[tuple[int, tuple[int, str]]]:
    """Class → its colour and where that stands, of the classes that were given one."""
    spare = generic_labels(labels.num_classes).palette
    if labels.raw_ids is None:
        for index, (color, other) in enumerate(zip(labels.palette, spare, strict=True)):
            if color != other:
                red, green, blue = color
                yield index, (red << 16 | green << 8 | blue, "the classes")


def _unlabelled(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
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
        yield _finding("unlabelled", "warning", split, what, empty, "label them or leave them out")


def _unused(split: str, facts: Sequence[SampleFacts], labels: LabelSet) -> Iterator[Finding]:
    counts = class_counts(facts, labels)
    if not counts[: labels.num_classes].any():
        return  # nothing is labelled, and that is another finding
    missing = [name for index, name in enumerate(labels.classes) if not counts[index]]
    if missing:
        listed = ", ".join(missing[:_MOST_VALUES])
        more = f" and {len(missing) - _MOST_VALUES} more" if len(missing) > _MOST_VALUES else ""
        what = f"no pixel has {len(missing)} of {labels.num_classes} classes: {listed}{more}"
        fix = "check number and order of the classes, or add pictures that show them"
        yield Finding("unused", "warning", split, what, (), 0, fix)


def _repeated(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    lines = [
        f"{one.name} = {seen[one.digest]}"
        for one in facts
        if one.digest and seen.setdefault(one.digest, one.name) != one.name
    ]
    if lines:
        what = f"{len(lines)} pictures repeat others of the same split"
        fix = "leave them out if they are not there on purpose"
        yield _finding("repeated", "warning", split, what, lines, fix)


def _remarks(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    remarks = [remark for one in facts for remark in one.remarks]
    if remarks:
        what = f"reading {len(remarks)} files gave a warning"
        yield _finding("remark", "warning", split, what, remarks, "look at them")


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
