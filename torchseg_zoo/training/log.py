"""What a run leaves for people to look at: log, curve, sample predictions, progress."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from torchseg_zoo.data.image import write_png
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.errors import MissingExtraError
from torchseg_zoo.files import atomic_write, make_folder
from torchseg_zoo.inference.predict import predict
from torchseg_zoo.inference.render import overlay
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.curve import draw_curve

__all__ = ["LOG_FIELDS", "RunLog"]

LOG_FIELDS = ("epoch", "loss", "lr", "miou_percent", "pixel_accuracy_percent", "seconds")
_SAMPLES = 4  # validation pictures shown at each evaluation, always the same ones
_WIDTH = 320  # of each picture on the sheet, in pixels


class RunLog:
    """Writes ``log.csv`` and ``curve.png``, ``samples/`` and, if wanted, ``tensorboard/``.

    Args:
        out: the run's folder.
        config: the run's settings.
        val_set: sample predictions are of some of its pictures.
        shows: print a line per epoch to stderr.
    """

    def __init__(self, out: Path, config: TrainConfig, val_set: Dataset, *, shows: bool) -> None:
        self._out, self._config, self._val_set, self._shows = out, config, val_set, shows
        self._board: Any = None
        self._started, self._first = time.perf_counter(), 0

    def start(self, epoch: int) -> None:
        """Begins, or goes on after so many epochs; time left is told by those that follow.

        Raises:
            MissingExtraError: if TensorBoard is wanted and not installed.
        """
        if self._config.tensorboard:
            self._board = _open_board(self._out)
        self._started, self._first = time.perf_counter(), epoch

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes the log of all epochs done, and tells of the last one.

        Raises:
            DataError: if the file cannot be written.
        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, LOG_FIELDS)
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        atomic_write(self._out / "log.csv", lambda stream: stream.write(content))
        row = rows[-1]
        if self._board is not None:
            for name in LOG_FIELDS[1:]:
                if row.get(name):
                    self._board.add_scalar(name, float(row[name]), int(row["epoch"]))
            self._board.flush()
        if self._shows:
            tqdm.write(self._line(row), file=sys.stderr)

    def show_samples(self, model: SegmentationModel, epoch: int) -> None:
        """Writes ``samples/epoch_NNNN.png``: picture, labels and prediction of a few samples.

        Raises:
            DataError: if a sample cannot be read, or the file not written.
        """
        count = min(_SAMPLES, len(self._val_set))
        indices = [place * len(self._val_set) // count for place in range(count)]
        rows = [_strip(model, self._val_set[index], self._val_set) for index in indices]
        sheet = Image.new("RGB", (3 * _WIDTH, sum(row.height for row in rows)), (255, 255, 255))
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        folder = make_folder(self._out / "samples")
        write_png(folder / f"epoch_{epoch:04}.png", np.asarray(sheet))

    def finish(self, rows: list[dict[str, Any]]) -> None:
        """Draws ``curve.png``, and says so if the run ended early.

        Raises:
            DataError: if the file cannot be written.
        """
        if rows:
            title = f"{self._config.model} on {self._config.data}"
            curve = draw_curve(rows, title if title.isascii() else self._config.model)
            write_png(self._out / "curve.png", np.asarray(curve))
        if self._shows and rows and int(rows[-1]["epoch"]) < self._config.epochs:
            text = f"ended early: no better score in {self._config.patience} epochs"
            tqdm.write(text, file=sys.stderr)
        if self._board is not None:
            self._board.close()

    def _line(self, row: Mapping[str, Any]) -> str:
        done = int(row["epoch"])
        score = f"  mIoU {row['miou_percent']} %" if row.get("miou_percent") else ""
        pace = (time.perf_counter() - self._started) / max(1, done - self._first)
        left = pace * (self._config.epochs - done)
        rest = f", about {_duration(left)} left" if done < self._config.epochs else ""
        return (
            f"epoch {done}/{self._config.epochs}  loss {row['loss']}{score}  "
            f"{row['seconds']} s{rest}"
        )


def _strip(model: SegmentationModel, sample: Sample, dataset: Dataset) -> Image.Image:
    """Picture, labels and prediction side by side, each ``_WIDTH`` wide."""
    prediction = predict(model, sample.image)
    assert sample.label is not None
    pictures = [
        Image.fromarray(sample.image),
        overlay(sample.image, sample.label, dataset.labels, legend=False),
        overlay(sample.image, prediction.labels, dataset.labels, legend=False),
    ]
    height = max(1, round(_WIDTH * sample.image.shape[0] / sample.image.shape[1]))
    strip = Image.new("RGB", (3 * _WIDTH, height))
    for place, picture in enumerate(pictures):
        strip.paste(picture.resize((_WIDTH, height), Image.Resampling.BOX), (place * _WIDTH, 0))
    return strip


def _duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _open_board(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as cause:
        raise MissingExtraError(
            "TensorBoard is not installed",
            where="tensorboard",
            fix='pip install "torchseg-zoo[tensorboard]", or leave tensorboard=True out',
        ) from cause
    return SummaryWriter(str(out / "tensorboard"))
