"""TorchSeg's published tables, row by row, from the manifest: docs/torchseg_tables.md.

Written by ``tools/readme_tables.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tables import table

from torchseg_zoo.evaluation.reproduce import Row, rows
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.manifest import Checkpoint, Metric

__all__ = ["page"]

_OURS = "measured by this project"

HEAD = """\
# TorchSeg's tables

Written by `tools/readme_tables.py` from `weights_manifest.json`; the columns are those of
TorchSeg's README of May 2019, and the papers' numbers beside them. All figures are mIoU in
percent on the validation split, with the pixel accuracy in brackets where it was printed.
*Single* is one scale, *MSF* several scales and mirrored, both over windows whose scores are
summed ([merge rule](protocols.md) `torchseg`), unless the table says otherwise. *Earlier* is
what the README of January 2019 printed, for files that were not released (single / MSF).

*Measured here* is empty where nobody has measured the row with this package: the files are
known from a public index only (status `listed`). [Reproduce a row](journeys/reproduce.md)
measures one.

TorchSeg's `R18` is `resnet18` here, its `R50_v1c` and `R101_v1c` are `resnet50s` and
`resnet101s`, its `X39` is `xception39`.
"""

_REAL_TIME = """\
Whole pictures of 768×1536, **scored at 96×192**: these scores compare with nothing at full
size. The papers' numbers are those that TorchSeg printed beside its own.
"""


@dataclass(frozen=True)
class _Run:
    """The rows of one checkpoint."""

    model: str
    tag: str
    metrics: Sequence[Metric]
    entry: Checkpoint | None


# What the manifest cannot say of a row whose file was never released.
_UNRELEASED: Mapping[str, tuple[str, str, str]] = {
    "fcn32s_r101": ("resnet101s", "no", "voc train_aug (VOC 2012 with SBD): 10582 pictures"),
}


def page() -> str:
    """The whole page."""
    runs = _runs([row for row in rows() if not row.at_full_size])
    parts = [HEAD]
    for title, words, belongs in _TABLES:
        chosen = [run for run in runs if belongs(run)]
        parts.append(f"## {title}\n\n{words}{_table(chosen)}")
    return "\n".join(parts)


def _runs(found: Sequence[Row]) -> list[_Run]:
    released = {(entry.model, entry.tag): entry for entry in manifest.list_checkpoints()}
    metrics: dict[tuple[str, str], list[Metric]] = {}
    for row in found:
        metrics.setdefault((row.model, row.tag), []).append(row.metric)
    return [_Run(*name, of_run, released.get(name)) for name, of_run in metrics.items()]


def _is_real_time(run: _Run) -> bool:
    return "label_size" in run.metrics[0].replay


def _of(dataset: str) -> Callable[[_Run], bool]:
    return lambda run: run.metrics[0].dataset == dataset and not _is_real_time(run)


_TABLES: Sequence[tuple[str, str, Callable[[_Run], bool]]] = (
    ("PASCAL VOC 2012", "", _of("voc")),
    ("Cityscapes", "", _of("cityscapes")),
    ("Cityscapes, real-time models", _REAL_TIME + "\n", _is_real_time),
    ("ADE20K", "", _of("ade20k")),
    ("CamVid, of this project", "Whole pictures; not a row of TorchSeg's.\n\n", _of("camvid")),
)


def _table(runs: Sequence[_Run]) -> str:
    head = (
        "model", "backbone", "OHEM", "train set", "eval set", "single", "MSF", "paper single",
        "paper MSF", "earlier", "measured here", "status",
    )  # fmt: skip
    return table(head, map(_cells, runs))


def _cells(run: _Run) -> tuple[str, ...]:
    single = next((metric for metric in run.metrics if metric.mode != "msf"), None)
    msf = next((metric for metric in run.metrics if metric.mode == "msf"), None)
    measured = [metric for metric in run.metrics if metric.source.startswith(_OURS)]
    ours = " / ".join(_figures(_of_metric(metric)) for metric in measured)
    if run.entry is None:
        backbone, ohem, train_set = _UNRELEASED[run.model]
    else:
        backbone, train_set = str(run.entry.config["backbone"]), run.entry.train_set
        ohem = {True: "yes", False: "no", None: "not known"}[run.entry.ohem]
    earlier = [_figures(metric.earlier) if metric else "–" for metric in (single, msf)]
    return (
        f"`{run.model}.{run.tag}`",
        backbone,
        ohem,
        train_set,
        f"{run.metrics[0].dataset} {run.metrics[0].split}",
        "–" if measured else _figures(_of_metric(single)),
        "–" if measured else _figures(_of_metric(msf)),
        _figures(single.paper if single else {}),
        _figures(msf.paper if msf else {}),
        "–" if set(earlier) == {"–"} else " / ".join(earlier),
        ours or "–",
        run.entry.status if run.entry else "not released",
    )


def _of_metric(metric: Metric | None) -> Mapping[str, float]:
    if metric is None:
        return {}
    accuracy = metric.pixel_accuracy_percent
    found = {"miou_percent": metric.miou_percent}
    return found if accuracy is None else {**found, "pixel_accuracy_percent": accuracy}


def _figures(numbers: Mapping[str, float]) -> str:
    if "miou_percent" not in numbers:
        return "–"
    accuracy = numbers.get("pixel_accuracy_percent")
    return f"{numbers['miou_percent']:.2f}" + ("" if accuracy is None else f" ({accuracy:.2f})")
