"""Judging the files of a data set: each kind of problem, once, with its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torchseg_zoo.data.check.facts import SampleFacts
from torchseg_zoo.data.check.finding import Finding, finding
from torchseg_zoo.data.check.label_findings import LABEL_CHECKS, unused
from torchseg_zoo.data.labels import LabelSet

__all__ = ["between_splits", "in_split"]


def in_split(
    split: str, facts: Sequence[SampleFacts], labels: LabelSet, *, whole: bool = True
) -> list[Finding]:
    """What is wrong within one split, the worst first.

    Args:
        split: its name.
        facts: of its samples.
        labels: what its label values mean.
        whole: whether these are all samples; a part cannot tell which classes never occur.
    """
    checks: list[Callable[[str, Sequence[SampleFacts], LabelSet], Iterator[Finding]]] = [
        _unreadable, _no_labels, _sizes, *LABEL_CHECKS,
    ]  # fmt: skip
    if whole:
        checks += [unused, _repeated]
    checks.append(_remarks)
    found = [one for check in checks for one in check(split, facts, labels)]
    return sorted(found, key=lambda one: one.severity != "error")


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
                found.append(finding("duplicates", "warning", second, what, twice, fix))
    return found


def _unreadable(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    errors = [error for one in facts for error in (one.problem, one.label_problem) if error]
    if errors:
        what = f"{len(errors)} files cannot be used"
        lines = [
            f"{error.where}: {error.what}" + (f" ({error.why})" if error.why else "")
            for error in errors
        ]
        fix = errors[0].fix or "fetch or export them again"
        yield finding("unreadable", "error", split, what, lines, fix)


def _no_labels(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    bare = [one.name for one in facts if one.label is None and one.problem is None]
    if bare:
        what = f"{len(bare)} of {len(facts)} pictures have no label map"
        fix = "give image<TAB>label in each line, or a label map for every picture"
        yield finding("no_labels", "error", split, what, bare, fix)


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
        yield finding("size", "error", split, what, [_both_sizes(one) for one in plain], fix)
    fix = (
        "label the pictures as they are displayed, or save them turned and without the EXIF tag: "
        "a label map without one stays as it is"
    )
    if turned:
        what = f"{len(turned)} label maps were made before their picture was turned (EXIF)"
        yield finding("exif", "error", split, what, [_both_sizes(one) for one in turned], fix)
    silent = [one for one in both if one.size == one.label_size and one.turn != one.label_turn]
    if silent:
        what = (
            f"{len(silent)} pictures are turned or mirrored by EXIF and their label maps are not; "
            "sizes agree, so look whether the contents do"
        )
        lines = [f"{one.name}: orientation {one.turn}, labels {one.label_turn}" for one in silent]
        yield finding("exif", "warning", split, what, lines, fix)


def _both_sizes(one: SampleFacts) -> str:
    assert one.size is not None and one.label_size is not None
    height, width = one.size
    return f"{one.label}: {one.label_size[0]}×{one.label_size[1]}, picture {height}×{width}"


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
        yield finding("repeated", "warning", split, what, lines, fix)


def _remarks(split: str, facts: Sequence[SampleFacts], _: LabelSet) -> Iterator[Finding]:
    remarks = [remark for one in facts for remark in one.remarks]
    if remarks:
        what = f"reading {len(remarks)} files gave a warning"
        yield finding("remark", "warning", split, what, remarks, "look at them")
