"""Looking at a data set before it is trained on: labels, sizes, files, splits.

``check_data`` reads everything once; ``quick_check`` a sample of it, before each training run.
``facts`` reads, ``findings`` and ``label_findings`` judge, ``mapping`` guesses, ``report`` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from torchseg_zoo.data.check.facts import SampleFacts, look_at
from torchseg_zoo.data.check.finding import Finding
from torchseg_zoo.data.check.findings import between_splits, in_split
from torchseg_zoo.data.check.label_findings import class_counts
from torchseg_zoo.data.check.mapping import Proposal, binary_as_classes, map_colors, map_values
from torchseg_zoo.data.check.report import DataReport
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import ArgumentError, DataError, ZooError

__all__ = ["DataReport", "Finding", "check_data", "quick_check"]

_QUICK = 24  # samples of each split that a quick check looks at


def check_data(
    splits: Mapping[str, Dataset],
    *,
    workers: int = 1,
    watch: Callable[[int, int], object] | None = None,
) -> DataReport:
    """Reads every sample once and says what is wrong.

    Args:
        splits: data sets by split, ``"train"`` first; all with the same classes.
        workers: processes that read. With more than one, a script needs
            ``if __name__ == "__main__":``.
        watch: called with samples done and samples in all.

    Raises:
        ArgumentError: if there is no split, or the splits have different classes.
        DataError: if a process that reads was killed.
    """
    if not splits:
        raise ArgumentError("there is no split to check", where="splits", fix="name one")
    labels = next(iter(splits.values())).labels
    for split, dataset in splits.items():
        if dataset.labels.num_classes != labels.num_classes:
            raise ArgumentError(
                f"{split} has {dataset.labels.num_classes} classes, others {labels.num_classes}",
                where="splits",
                fix="give all splits the same classes",
            )
    whole, done = sum(len(dataset) for dataset in splits.values()), 0
    facts: dict[str, list[SampleFacts]] = {}
    for split, dataset in splits.items():
        facts[split] = []
        for one in look_at(dataset, range(len(dataset)), workers=workers):
            facts[split].append(one)
            done += 1
            if watch is not None:
                watch(done, whole)
    # Files of two splits may be read by different rules, as labels of Cityscapes of both kinds.
    found = [f for split, d in splits.items() for f in in_split(split, facts[split], d.labels)]
    found += between_splits(facts)
    return _report(labels, facts, sorted(found, key=lambda one: one.severity != "error"))


def quick_check(splits: Mapping[str, Dataset], *, advice: str) -> None:
    """Looks at a few samples of each split, evenly spread, and stops at what training would meet.

    Args:
        splits: data sets by split.
        advice: the command that tells all, for the message.

    Raises:
        DataError: naming the first file and how many have problems.
    """
    for split, dataset in splits.items():
        count = min(len(dataset), _QUICK)
        indices = [place * len(dataset) // count for place in range(count)]
        facts = list(look_at(dataset, indices))
        errors = [
            finding
            for finding in in_split(split, facts, dataset.labels, whole=False)
            if finding.severity == "error"
        ]
        if errors:
            raise _first_error(dataset, indices, facts, errors, advice)


def _first_error(
    dataset: Dataset,
    indices: list[int],
    facts: list[SampleFacts],
    errors: list[Finding],
    advice: str,
) -> ZooError:
    """The error that reading meets first, told with all that was found."""
    summary = "; ".join(f"{error.what}" for error in errors)
    why = f"of {len(facts)} samples looked at in {errors[0].split}: {summary}"
    fix = f"{advice} tells all and proposes what to do"
    for index in indices:
        try:
            dataset[index]
        except ZooError as error:
            return type(error)(error.what, where=error.where, why=why, fix=fix)
    # What can be read, but means something else than the user thinks.
    return DataError(errors[0].what, where=errors[0].files[0], why=why, fix=fix)


def _report(
    labels: LabelSet, facts: Mapping[str, list[SampleFacts]], findings: list[Finding]
) -> DataReport:
    every = [one for split in facts.values() for one in split]
    values = _sum([one.values for one in every])
    colors = _sum([one.colors for one in every])
    proposal = _proposal(labels, every, values, colors, {finding.kind for finding in findings})
    read_as = proposal.labels if proposal else labels
    if read_as.raw_colors is not None:
        every, first = _painted(every), _painted(next(iter(facts.values())))
    else:
        first = next(iter(facts.values()))
    present = [(class_counts([one], read_as) > 0).astype(np.int64) for one in every]
    return DataReport(
        labels=labels,
        samples={split: len(split_facts) for split, split_facts in facts.items()},
        findings=tuple(findings),
        values=values,
        colors=colors,
        counts=class_counts(every, read_as),
        maps=sum(present, np.zeros(256, np.int64)),
        train_counts=class_counts(first, read_as),
        proposal=proposal,
    )


def _proposal(
    labels: LabelSet,
    facts: list[SampleFacts],
    values: dict[int, int],
    colors: dict[int, int],
    kinds: set[str],
) -> Proposal | None:
    if kinds & {"colors", "palette"}:
        colors = _sum([one.colors for one in _painted(facts)])
        return map_colors(labels, colors)
    if "binary" in kinds:
        return binary_as_classes(labels, values)
    if "stray" in kinds and labels.raw_ids is None and labels.raw_colors is None:
        return map_values(labels, values)
    return None


def _painted(facts: list[SampleFacts]) -> list[SampleFacts]:
    """Label maps by their colours, those with numbers included: a palette tells or grey is."""
    return [
        one
        if one.colors or not one.values
        else replace(
            one,
            values={},
            colors=_sum(
                [{one.palette.get(v, v * 0x10101): pixels} for v, pixels in one.values.items()]
            ),
        )
        for one in facts
    ]


def _sum(counts: list[dict[int, int]]) -> dict[int, int]:
    result: dict[int, int] = {}
    for one in counts:
        for value, pixels in one.items():
            result[value] = result.get(value, 0) + pixels
    return result
