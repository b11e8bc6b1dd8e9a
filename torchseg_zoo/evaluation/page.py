"""The report as HTML: no scripts, no network, light and dark. Everything foreign is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from torchseg_zoo._version import __version__
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.evaluation.result import Evaluation, PictureScore
from torchseg_zoo.files import printable
from torchseg_zoo.metrics import Reliability

__all__ = ["Exhibit", "page"]

_MATRIX_CLASSES = 40  # a larger matrix is no table that anybody reads; the confusions still are
_CONFUSIONS = 15

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5f6670; --paper: #fff; --line: #d9dce1;
  --bar: #2f6fd0; --second: #b9cdee; --hit: 47, 111, 208; --miss: 200, 60, 40 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #9aa1ab; --paper: #16181c;
  --line: #363b43; --bar: #6ea3f2; --second: #2f4566; --hit: 110, 163, 242; --miss: 235, 110, 90 } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
p, .note { color: var(--faint) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .15rem .5rem; text-align: right; font-weight: normal }
th:first-child, td.text { text-align: left }
thead th { color: var(--faint); border-bottom: 1px solid var(--line); vertical-align: bottom }
.figures { display: flex; flex-wrap: wrap; gap: .5rem 2rem; padding: 0; list-style: none }
.figures b { display: block; font-size: 1.5rem }
.wide { overflow-x: auto }
.classes td.bar { width: 40%; min-width: 10rem }
.classes td.bar div { height: .8rem; border-radius: 2px; background: var(--second) }
.classes td.bar div div { background: var(--bar) }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px;
  border: 1px solid var(--line) }
.matrix td { min-width: 1.9rem; padding: .15rem .25rem; border: 1px solid var(--line);
  font-size: .8rem }
.matrix thead th { padding: .25rem 0; writing-mode: vertical-rl; text-align: left;
  transform: rotate(180deg); border: 0 }
.pictures { display: grid; gap: 1.5rem }
figure { margin: 0 } figcaption { margin-bottom: .25rem; overflow-wrap: anywhere }
figure div { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem }
figure img { width: 100%; border-radius: 3px }
pre { overflow-x: auto; padding: 1rem; border: 1px solid var(--line); border-radius: 4px;
  font-size: .8rem }
"""


@dataclass(frozen=True)
class Exhibit:
    """One picture on the page.

    Args:
        score: of the picture.
        photo, truth, prediction: small pictures as data URIs.
    """

    score: PictureScore
    photo: str
    truth: str
    prediction: str


def page(evaluation: Evaluation, labels: LabelSet, exhibits: Sequence[Exhibit]) -> str:
    """The report's HTML text.

    Args:
        evaluation: what it is about.
        labels: names and colours of the classes.
        exhibits: the worst pictures, worst first.
    """
    protocol = evaluation.protocol
    model = protocol.origin.model or str(protocol.model["name"])
    split = f" {protocol.origin.split}" if protocol.origin.split else ""
    title = f"{model} on {labels.name}{split}"
    sections = [
        _figures(evaluation),
        _classes(evaluation, labels),
        _matrix(evaluation.confusion, labels),
        _reliability(evaluation.reliability, evaluation.temperature),
        _pictures(exhibits),
        _protocol(evaluation),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_text(title)}</h1>
{"".join(filter(None, sections))}
</body>
</html>
"""


def _figures(evaluation: Evaluation) -> str:
    figures = {
        "mean IoU": evaluation.miou_percent,
        "pixel accuracy": evaluation.pixel_accuracy_percent,
        "mean accuracy": evaluation.mean_accuracy_percent,
        "frequency-weighted IoU": evaluation.frequency_weighted_iou_percent,
        "mean IoU without class 0": evaluation.miou_without_first_percent,
        "mean over pictures": evaluation.picture_miou_percent,
    }
    if evaluation.boundary_iou_percent:
        figures["mean boundary IoU"] = evaluation.boundary_miou_percent
    if evaluation.reliability is not None:
        figures["expected calibration error"] = evaluation.reliability.error_percent
    items = "".join(f"<li><b>{_percent(v)} %</b>{name}</li>" for name, v in figures.items())
    data = evaluation.protocol.data
    skipped = "".join(f"<li>{_text(one.message)}</li>" for one in evaluation.skipped)
    without = f"<p>Without pictures that could not be read:</p><ul>{skipped}</ul>"
    return (
        f"<p>{data['count']} pictures, {data['labelled_pixels']:,} labelled pixels.</p>"
        f'{without if skipped else ""}<ul class="figures">{items}</ul>'
    )


def _classes(evaluation: Evaluation, labels: LabelSet) -> str:
    boundary = evaluation.boundary_iou_percent
    share = evaluation.confusion.sum(1) / evaluation.confusion.sum()
    rows = []
    for index, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True)):
        iou = evaluation.iou_percent[index]
        cells = [_percent(iou), _percent(evaluation.accuracy_percent[index])]
        cells += [_percent(boundary[index])] if boundary else []
        cells.append(_percent(100 * share[index]))
        width = 0.0 if math.isnan(iou) else iou
        rows.append(
            f'<tr><td class="text">{_swatch(color)}{_text(name)}</td>'
            f'<td class="bar"><div><div style="width:{width:.2f}%"></div></div></td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    head = ["class", "", "IoU %", "accuracy %", *(["boundary IoU %"] if boundary else [])]
    heads = "".join(f"<th>{name}</th>" for name in [*head, "share of pixels %"])
    note = (
        f'<p class="note">Boundary IoU in bands of {100 * evaluation.boundary_share:g} % of the '
        "diagonal.</p>"
        if evaluation.boundary_share is not None
        else ""
    )
    return (
        f'<h2>Classes</h2><div class="wide"><table class="classes"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _matrix(confusion: np.ndarray, labels: LabelSet) -> str:
    totals = confusion.sum(1, keepdims=True)
    shares = 100 * confusion / np.maximum(totals, 1)
    table = ""
    if labels.num_classes <= _MATRIX_CLASSES:
        names = [_text(name) for name in labels.classes]
        head = "<th></th>" + "".join(f"<th>{name}</th>" for name in names)
        rows = []
        for row, name in enumerate(names):
            cells = "".join(
                _matrix_cell(float(share), right=row == column)
                for column, share in enumerate(shares[row])
            )
            rows.append(f"<tr><th>{name}</th>{cells}</tr>")
        table = (
            '<p class="note">Rows are the true classes, columns what was predicted, in percent of '
            f'the row.</p><div class="wide"><table class="matrix"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
    return f"<h2>Confusion</h2>{table}{_confusions(confusion, shares, labels)}"


def _matrix_cell(share: float, *, right: bool) -> str:
    if share == 0:
        return "<td></td>"
    color = "hit" if right else "miss"
    text = f"{share:.0f}" if share >= 0.5 else "·"
    strength = min(1.0, share / 100) ** 0.5 * 0.8
    return f'<td style="background:rgba(var(--{color}),{strength:.3f})">{text}</td>'


def _confusions(confusion: np.ndarray, shares: np.ndarray, labels: LabelSet) -> str:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    rows = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[row, column]:
            rows.append(
                f'<tr><td class="text">{_text(labels.classes[row])}</td>'
                f'<td class="text">{_text(labels.classes[column])}</td>'
                f"<td>{wrong[row, column]:,}</td><td>{shares[row, column]:.2f}</td></tr>"
            )
    if not rows:
        return "<p>No pixel was confused.</p>"
    return (
        '<p class="note">The largest confusions.</p><table><thead><tr><th>true</th>'
        '<th style="text-align:left">predicted</th><th>pixels</th><th>% of the class</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _reliability(table: Reliability | None, temperature: float) -> str:
    if table is None:
        return ""
    bins, rows = len(table.counts), []
    for index, count in enumerate(table.counts):
        confidence, accuracy = table.confidence[index], table.accuracy[index]
        values = [100 * confidence, 100 * accuracy, 100 * (accuracy - confidence)]
        cells = "".join(f"<td>{_percent(value)}</td>" for value in values)
        span = f"{100 * index / bins:.1f} to {100 * (index + 1) / bins:.1f}"
        rows.append(f'<tr><td class="text">{span}</td><td>{count:,}</td>{cells}</tr>')
    return (
        "<h2>Calibration</h2>"
        f'<p class="note">Expected calibration error {_percent(table.error_percent)} %: how far '
        f"confidence is from accuracy, on average over pixels. Temperature {temperature:.4g}.</p>"
        "<table><thead><tr><th>confidence %</th><th>pixels</th><th>mean confidence %</th>"
        f"<th>accuracy %</th><th>difference</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _pictures(exhibits: Sequence[Exhibit]) -> str:
    figures = "".join(
        f"<figure><figcaption>{_text(printable(one.score.name))}: mean IoU "
        f"{_percent(one.score.miou_percent)} %, pixel accuracy "
        f"{_percent(one.score.pixel_accuracy_percent)} %</figcaption><div>"
        f'<img alt="photo" src="{one.photo}"><img alt="truth" src="{one.truth}">'
        f'<img alt="prediction" src="{one.prediction}"></div></figure>'
        for one in exhibits
    )
    return (
        '<h2>Worst pictures</h2><p class="note">Photo, truth and prediction.</p>'
        f'<div class="pictures">{figures}</div>'
    )


def _protocol(evaluation: Evaluation) -> str:
    text = json.dumps(evaluation.protocol.to_dict(), indent=2, ensure_ascii=False)
    return (
        f"<h2>Protocol</h2><pre>{_text(text)}</pre>"
        f'<p class="note">Written by torchseg_zoo {__version__}.</p>'
    )


def _swatch(color: tuple[int, int, int]) -> str:
    return '<span class="swatch" style="background:rgb({},{},{})"></span>'.format(*color)


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _text(value: object) -> str:
    return escape(printable(value))
