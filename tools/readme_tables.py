"""Writes the tables of README.md and docs/models.md, docs/checkpoints.md, docs/torchseg_tables.md.

    python tools/readme_tables.py

Models are built on the meta device and counted, which takes a minute; checkpoints are read from the
manifest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torchseg_tables
from tables import rewrite, table, write

from torchseg_zoo.models.base import family
from torchseg_zoo.registry import list_models, model_factory
from torchseg_zoo.weights.manifest import Checkpoint, Metric, list_checkpoints, unreleased
from torchseg_zoo.weights.terms import STATUS_MEANINGS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"

LEGEND = """\
# Checkpoints

Written by `tools/readme_tables.py` from `weights_manifest.json`. `torchseg-zoo weights list` prints
the same with all three licences, `weights info MODEL.TAG` all that is known of one.

A name is `model.tag`. The plain tag, as in `pspnet_r50.ade20k`, is a model's default for a data
set: the one with a known digest and documented preprocessing where there is one. It answers to the
tag in brackets, too.

Tags of mmsegmentation's files say `mmseg`, what is special, the crop and the iterations: `b` has
the plain 7×7 stem instead of three 3×3, `rsb` the same from other ImageNet weights, `d6` dilated
heads at stride 16, `d32` keeps the strides and dilates nonetheless, `mg124` multi-grid, `amp`
trained in half precision, `in1k` starts from ImageNet where others start from nothing, `4xb8` has
twice the batch.

Scores are mIoU in percent as published, on the validation split: *single* scale, and *msf*, several
scales and mirrored. How pictures were shown: *whole* at once, in *windows*, or as a *crop* of the
centre. Scores of different rows compare only if that is equal; the manifest has each protocol in
full. A score with ² is not at full size: labels were made smaller first. *Paper* is what the paper
itself has (single / msf), where that is known here.

*Digest* is what is published of the file's sha256: all of it, its first 8 digits, or nothing (then
the digest of your first download is pinned). *Commercial* is yes only if the licences of both
weights and training data are stated and are known to allow it; what is not stated is not allowed. A
licence of a repository covers its code.
"""


def main() -> None:
    """Rewrites all of them."""
    entries = list_checkpoints()
    rewrite(README, "models", families_table())
    rewrite(README, "checkpoints", checkpoints_summary(entries))
    rewrite(DOCS / "models.md", "models", models_table())
    write(DOCS / "checkpoints.md", checkpoints_page(entries))
    write(DOCS / "torchseg_tables.md", torchseg_tables.page())
    print(f"{len(list_models())} models, {len(entries)} checkpoints")


def families_table() -> str:
    """A row for every family: its models, how many checkpoints they have, and its paper."""
    released = Counter(entry.model for entry in list_checkpoints())
    families: dict[str, list[str]] = {}
    for name in list_models():
        families.setdefault(model_factory(name).__annotations__["return"], []).append(name)
    rows = []
    for family_name, names in families.items():
        paper = family(family_name).paper
        rows.append(
            (
                f"[{family_name}]({paper.url})" if paper else family_name,
                ", ".join(f"`{name}`" for name in names),
                str(sum(released[name] for name in names) or "–"),
            )
        )
    return table(("family", "models", "checkpoints"), rows)


def models_table() -> str:
    """A row for every factory: what it is, costs and is released as."""
    import torch

    from torchseg_zoo.models.summary import summary

    released = Counter(entry.model for entry in list_checkpoints())
    rows = []
    for name in list_models():
        with torch.device("meta"):
            model = model_factory(name)()
        counted = summary(model)
        paper = model.paper
        rows.append(
            (
                f"`{name}`",
                counted.backbone,
                f"{counted.inference_parameters / 1e6:.1f}",
                f"{counted.gmacs:.1f}" + ("" if counted.size == (512, 1024) else " ¹"),
                f"{max(counted.strides)} / {counted.head_stride:.0f}",
                f"[{paper.venue}]({paper.url})" if paper else "",
                str(released[name] or "–"),
            )
        )
    head = ("model", "backbone", "M parameters", "GMACs", "stride", "paper", "checkpoints")
    return (
        f"{table(head, rows)}\n"
        "Parameters without auxiliary heads, 19 classes; multiply-accumulates of one picture of "
        "512×1024\n(¹ of 480×480, the only size that TorchSeg's PSANet takes); strides of the "
        "deepest map and of the logits.\n"
    )


def checkpoints_summary(entries: Sequence[Checkpoint]) -> str:
    """How many there are, by status and what may be done with them."""
    statuses = Counter(entry.status for entry in entries)
    said = ", ".join(f"{statuses[name]} {name}" for name in STATUS_MEANINGS)
    allowed = sum(entry.commercial_ok for entry in entries)
    datasets = len({entry.dataset for entry in entries})
    return (
        f"{len(entries)} checkpoints of {datasets} data sets ({said}): "
        "[docs/checkpoints.md](docs/checkpoints.md) lists each\nwith its scores, protocol and "
        "terms. Terms that are stated and allow commercial use: "
        f"{allowed or 'none'} of them.\n"
    )


def _by_dataset(entries: Sequence[Checkpoint]) -> str:
    """How many there are of each data set, and whose."""
    rows = []
    for dataset in sorted({entry.dataset for entry in entries}):
        inside = [entry for entry in entries if entry.dataset == dataset]
        origins = Counter(_origin(entry) for entry in inside)
        rows.append(
            (
                f"[{dataset}](#{dataset})",
                str(len(inside)),
                str(len({entry.model for entry in inside})),
                ", ".join(f"{name} {count}" for name, count in origins.most_common()),
            )
        )
    return table(("data set", "checkpoints", "models", "origins"), rows)


def checkpoints_page(entries: Sequence[Checkpoint]) -> str:
    """The long table, by data set, and what is not to be had."""
    parts = [LEGEND]
    parts.append(
        "".join(
            f"- `{name}`: {what} ({sum(entry.status == name for entry in entries)})\n"
            for name, what in STATUS_MEANINGS.items()
        )
    )
    parts.append(_by_dataset(entries))
    head = ("name", "status", "single", "msf", "shown", "paper", "digest", "commercial", "origin")
    for dataset in sorted({entry.dataset for entry in entries}):
        inside = [entry for entry in entries if entry.dataset == dataset]
        terms = sorted({entry.licenses.get("dataset", "") for entry in inside})
        parts.append(
            f"## {dataset}\n\nTerms of the data: {'; '.join(terms)}.\n\n"
            + table(head, (_row(entry) for entry in inside))
        )
    rows = [
        (f"`{entry.name}`", metric.mode, _figures(metric), _figures(metric.earlier))
        for entry in entries
        for metric in entry.metrics
        if metric.earlier
    ]
    parts.append(
        "## What an earlier README printed\n\n"
        "TorchSeg's README of January 2019 had other numbers, for files that were not released.\n\n"
        + table(("name", "mode", "released with the file", "earlier"), rows)
    )
    notes = _notes(entries)
    parts.append("## Notes\n\n" + "".join(f"- {note}\n" for note in notes))
    parts.append(
        "## Not to be had\n\n"
        + "".join(
            f"- `{one.model}.{one.tag}`: {one.why}. To do: {one.fix}.\n" for one in unreleased()
        )
    )
    return "\n".join(parts)


def _row(entry: Checkpoint) -> tuple[str, ...]:
    single, msf = entry.metric(), entry.metric("msf")
    digest = {0: "", 8: entry.sha256}.get(len(entry.sha256), "full")
    aliases = "".join(f" (`{alias.partition('.')[2]}`)" for alias in entry.aliases)
    return (
        f"`{entry.name}`{aliases}",
        entry.status,
        _score(single),
        _score(msf),
        {"sliding": "windows", "centre crop": "crop"}.get(single.mode, single.mode)
        if single
        else "",
        " / ".join(_paper(metric) for metric in (single, msf)).replace("– / –", ""),
        digest,
        "yes" if entry.commercial_ok else "no",
        _origin(entry),
    )


def _score(metric: Metric | None) -> str:
    if metric is None:
        return ""
    return f"{metric.miou_percent:.2f}" + (" ²" if metric.replay.get("label_size") else "")


def _paper(metric: Metric | None) -> str:
    score = metric.paper.get("miou_percent") if metric else None
    return "–" if score is None else f"{score:.2f}"


def _figures(scores: Metric | Mapping[str, float]) -> str:
    if isinstance(scores, Metric):
        miou, accuracy = scores.miou_percent, scores.pixel_accuracy_percent
    else:
        miou, accuracy = scores["miou_percent"], scores.get("pixel_accuracy_percent")
    return f"{miou:.2f}" + ("" if accuracy is None else f" (pixel accuracy {accuracy:.2f})")


def _origin(entry: Checkpoint) -> str:
    """Who made it, without release and commit."""
    return re.split(r" \(|, commit| [0-9]", entry.origin)[0]


def _notes(entries: Sequence[Checkpoint]) -> list[str]:
    """Each note once, with the names it is about."""
    about: dict[str, list[str]] = {}
    for entry in entries:
        if entry.note:
            about.setdefault(entry.note, []).append(f"`{entry.name}`")
    return [f"{', '.join(names)}: {note}." for note, names in sorted(about.items())]


if __name__ == "__main__":
    main()
