"""What the page says, as HTML. Names of classes and files are anybody's, so they are escaped."""

from __future__ import annotations

from html import escape

from torchseg_zoo.demo.results import Kept, Pixel, Result
from torchseg_zoo.errors import ZooError
from torchseg_zoo.inference.render import SMALL_SHARE, share_text

__all__ = [
    "CSS",
    "FORGOTTEN",
    "HINT",
    "INTRODUCTION",
    "NOT_HERE",
    "apology",
    "legend",
    "pixel",
    "summary",
]

INTRODUCTION = """
# torchseg_zoo

Drop a picture, or take one of the drawn streets. It is labelled pixel by pixel on this machine and
is sent nowhere else.
"""

HINT = '<div class="zoo-hint">Click a pixel of the picture.</div>'
FORGOTTEN = '<div class="zoo-hint">This result is not kept any more; label the picture again.</div>'

NOT_HERE = "This model is to be downloaded first."

CSS = """
.gradio-container {
  width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
#model input { text-overflow: ellipsis; padding-right: 2em; }
table.zoo-classes { width: 100%; border: none; border-collapse: collapse; font-size: 0.95em; }
.zoo-classes tr, .zoo-classes td { border: none !important; padding: 3px 6px !important; }
.zoo-classes td:nth-child(1) { width: 1.2em; padding-left: 0; }
.zoo-classes td:nth-child(3) { width: 40%; }
.zoo-classes td:nth-child(4) { width: 4em; text-align: right; font-variant-numeric: tabular-nums; }
.zoo-swatch { display: inline-block; width: 1em; height: 1em; border-radius: 3px;
  vertical-align: -0.15em; outline: 1px solid rgb(128 128 128 / 40%); }
.zoo-bar { display: block; height: 0.7em; border-radius: 3px; min-width: 1px; }
.zoo-hint { opacity: 0.7; }
.zoo-error { overflow-wrap: anywhere; }
#summary .zoo-error { color: #c02020; }
.dark #summary .zoo-error { color: #ff9090; }
@media (max-width: 640px) { #overlay, #confidence { height: 300px !important; } }
"""


def legend(result: Result) -> str:
    """The classes that are present, with their shares of the picture."""
    listed = [pair for pair in result.shares if pair[1] >= SMALL_SHARE]
    rows = [_row(result, index, share) for index, share in listed]
    rest = len(result.shares) - len(listed)
    if rest:
        rows.append(
            f'<tr><td></td><td class="zoo-hint">{rest} more</td><td></td><td>&lt;0.1%</td></tr>'
        )
    return _table(rows)


def pixel(kept: Kept, found: Pixel) -> str:
    """The most probable classes of a pixel."""
    rows = [_row(kept.result, index, probability) for index, probability in found.classes]
    head = f'<div class="zoo-hint">column {found.x}, row {found.y}</div>'
    return head + _table(rows)


def summary(result: Result) -> str:
    """Size, time and certainty, in Markdown."""
    text = (
        f"{result.height}×{result.width} pixels (height×width) labelled in "
        f"**{result.seconds:.2f} s**, mean confidence {100 * result.mean_confidence:.0f}%"
    )
    if result.loading_seconds:
        text += f"; the model was loaded before, in {result.loading_seconds:.1f} s"
    return text


def apology(error: ZooError) -> str:
    """An error in the words of the command line."""
    return f'<span class="zoo-error">{escape(str(error))}</span>'


def _row(result: Result, index: int, share: float) -> str:
    red, green, blue = result.colors[index]
    color = f"background: rgb({red} {green} {blue})"
    return (
        f'<tr><td><span class="zoo-swatch" style="{color}"></span></td>'
        f"<td>{escape(result.classes[index])}</td>"
        f'<td><span class="zoo-bar" style="{color}; width: {100 * share:.1f}%"></span></td>'
        f"<td>{escape(share_text(share))}</td></tr>"
    )


def _table(rows: list[str]) -> str:
    return f'<table class="zoo-classes"><tbody>{"".join(rows)}</tbody></table>'
