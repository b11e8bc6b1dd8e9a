"""What a benchmark found, as a record, a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.benchmark.picture import Point, draw_speed_accuracy
from torchseg_zoo.data.image import write_png
from torchseg_zoo.errors import ZooError
from torchseg_zoo.files import atomic_write, make_folder
from torchseg_zoo.types import Size

__all__ = ["Benchmark", "Failure", "Row", "Timing"]


@dataclass(frozen=True)
class Timing:
    """Times of one call.

    Args:
        p50_ms: the median.
        p95_ms: 95 of 100 calls took no longer.
        calls: how many were timed.
    """

    p50_ms: float
    p95_ms: float
    calls: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Timing:
        """Of each call's milliseconds."""
        p50, p95 = np.percentile(times_ms, (50, 95))
        return cls(round(float(p50), 3), round(float(p95), 3), len(times_ms))


@dataclass(frozen=True)
class Row:
    """One model on one runtime at one size.

    Args:
        model: its name.
        runtime: name in ``RUNTIMES``.
        precision: of the network.
        size: (height, width) of the pictures.
        batch: pictures at a time.
        device: that it ran on.
        end_to_end: decoded bytes in, byte labels out.
        network: normalised floats in, logits at the head's stride out; ``None`` if that failed.
        pictures_per_second: end to end, by the median.
        equal_percent: share of pixels with the label that the plain PyTorch model gives.
        peak_memory_mib: the most that the process held so far, loading and smaller sizes included.
        running_memory_mib: the most that it held while it was timed; ``None`` if that is not known.
        load_s: time until the artefact was loaded, libraries included.
        first_call_s: time of the first call at this size.
        miou_percent: of this artefact on the labelled pictures; ``None`` without them.
        artefact: name, bytes and SHA-256 of the file.
    """

    model: str
    runtime: str
    precision: str
    size: Size
    batch: int
    device: str
    end_to_end: Timing
    network: Timing | None
    pictures_per_second: float
    equal_percent: float
    peak_memory_mib: float
    running_memory_mib: float | None
    load_s: float
    first_call_s: float
    miou_percent: float | None
    artefact: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """A runtime that could not be measured; the others were.

    Args:
        model: its name.
        runtime: name in ``RUNTIMES``.
        size: (height, width) that failed; ``None`` if none worked.
        error: what was wrong.
    """

    model: str
    runtime: str
    size: Size | None
    error: ZooError

    def describe(self) -> str:
        """One line for people."""
        size = f" at {_size(self.size)}" if self.size else ""
        return f"{self.model} on {self.runtime}{size}: {type(self.error).__name__}: {self.error}"


_HEAD = (
    "model",
    "runtime",
    "size",
    "pictures/s",
    "p50 ms",
    "p95 ms",
    "network p50 ms",
    "peak MiB",
    "equal %",
    "mIoU %",
)
_WORDS = 3  # columns of words; the others are figures


@dataclass(frozen=True)
class Benchmark:
    """A whole run.

    Args:
        rows: what was measured.
        failures: what could not be.
        machine: see ``describe_machine``.
        software: versions.
        protocol: how it was measured.
    """

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    machine: Mapping[str, Any]
    software: Mapping[str, str]
    protocol: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "rows": [{**asdict(row), "size": list(row.size)} for row in self.rows],
            "failures": [
                {
                    "model": failure.model,
                    "runtime": failure.runtime,
                    "size": failure.size and list(failure.size),
                    "error": type(failure.error).__name__,
                    "message": str(failure.error),
                }
                for failure in self.failures
            ],
            "machine": dict(self.machine),
            "software": dict(self.software),
            "protocol": dict(self.protocol),
        }

    def table(self) -> str:
        """A Markdown table that reads well as it is, and a line on where it was measured."""
        lines = [_HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
        dashes = [
            "-" * width if column < _WORDS else "-" * (width - 1) + ":"
            for column, width in enumerate(widths)
        ]
        text = "".join(_line(line, widths) for line in (lines[0], dashes, *lines[1:]))
        return f"{text}\n{self._measured()}\n"

    def picture_points(self) -> list[Point]:
        """Rows with an mIoU, for the picture."""
        sizes = {row.size for row in self.rows}
        return [
            Point(
                row.model if len(sizes) == 1 else f"{row.model} {_size(row.size)}",
                row.runtime,
                row.pictures_per_second,
                row.miou_percent,
            )
            for row in self.rows
            if row.miou_percent is not None
        ]

    def write(self, folder: Path) -> list[Path]:
        """Writes ``table.md``, ``benchmark.json`` and, with any mIoU, ``speed_accuracy.png``.

        Returns:
            What was written.

        Raises:
            DataError: if a file cannot be written.
        """
        make_folder(folder)
        table, record = folder / "table.md", folder / "benchmark.json"
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        atomic_write(table, lambda file: file.write(self.table().encode()))
        atomic_write(record, lambda file: file.write(text.encode()))
        points = self.picture_points()
        if not points:
            return [table, record]
        picture = folder / "speed_accuracy.png"
        write_png(picture, np.asarray(draw_speed_accuracy(points, title=self._where())))
        return [table, record, picture]

    def _where(self) -> str:
        devices = list(dict.fromkeys(row.device for row in self.rows))
        named = [self.machine.get("cpu", "CPU") if name == "cpu" else name for name in devices]
        threads = self.protocol["threads"]
        return f"{', '.join(named)}, {threads} thread{'s' if threads > 1 else ''}"

    def _measured(self) -> str:
        versions = ", ".join(f"{name} {text}" for name, text in self.software.items())
        protocol = self.protocol
        text = (
            f"{self._where()}, batch {protocol['batch']}; {versions}. Decoded bytes in, byte "
            f"labels out; medians of {protocol['rounds']} interleaved rounds of "
            f"{protocol['calls_per_round']} calls. Equal: pixels with the plain PyTorch model's "
            "label."
        )
        if protocol.get("scored_pictures"):
            text += f" mIoU of the same files on {protocol['scored_pictures']} pictures."
        if protocol.get("random_weights"):
            text += f" Random weights: {', '.join(protocol['random_weights'])}."
        return text


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.model,
        row.runtime,
        _size(row.size),
        f"{row.pictures_per_second:.2f}",
        f"{row.end_to_end.p50_ms:.1f}",
        f"{row.end_to_end.p95_ms:.1f}",
        "–" if row.network is None else f"{row.network.p50_ms:.1f}",
        f"{row.peak_memory_mib:.0f}",
        f"{row.equal_percent:.3f}",
        "–" if row.miou_percent is None else f"{row.miou_percent:.2f}",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column < _WORDS else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |\n"


def _size(size: Size) -> str:
    return f"{size[0]}×{size[1]}"
