"""Videos and cameras, frame by frame into a video of overlays. Needs the extra ``video`` (PyAV)."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from tqdm import tqdm

from torchseg_zoo.data.image import write_png
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.files import atomic_write, make_folder, printable
from torchseg_zoo.inference import render
from torchseg_zoo.inference.predictor import Predictor
from torchseg_zoo.inference.video_read import Frame, VideoReader
from torchseg_zoo.inference.video_write import VideoWriter, container_of
from torchseg_zoo.types import Size

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["VideoResult", "predict_video"]


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Args:
        target: the video that was written.
        labels: the folder of label maps, if they were asked for.
        frames: how many were labelled.
        size: (height, width) of each, upright.
        seconds: that reading, labelling and writing them took.
        shares: class name → share of all pixels in 0..1; classes present only, largest first.
        left_out: kinds of other streams of the source, such as ``"audio"``.
        failure: why not all frames could be read, and after which; ``None`` if all could.
    """

    target: Path
    labels: Path | None
    frames: int
    size: Size
    seconds: float
    shares: dict[str, float]
    left_out: tuple[str, ...]
    failure: DataError | None

    @property
    def frames_per_second(self) -> float:
        """How fast frames were labelled, all costs included."""
        return self.frames / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "files": [str(file) for file in (self.target, self.labels) if file is not None],
            "frames": self.frames,
            "height": self.size[0],
            "width": self.size[1],
            "frames_per_second": round(self.frames_per_second, 2),
            "shares": {name: round(share, 6) for name, share in self.shares.items()},
            "left_out": list(self.left_out),
            "failure": None if self.failure is None else str(self.failure),
        }


def predict_video(
    model: SegmentationModel | Predictor,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    camera: bool = False,
    max_frames: int | None = None,
    alpha: float = 0.5,
    progress: bool = True,
) -> VideoResult:
    """Labels every frame by itself and writes a video of the overlays.

    One frame is in memory at a time. The video keeps the frames' size as displayed (what a phone
    marks as turned comes out upright), their number and their times; sound is left out. Files
    appear under their names when they are whole; of a source that is cut off, they hold what could
    be read.

    Args:
        model: the model; a ``Predictor`` may be prepared for speed in more ways.
        source: video file; or with ``camera`` a device such as ``/dev/video0``, its number, or ""
            for the first one. A file or named pipe may stand in for a camera.
        target: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv`` file, H.264.
        labels: folder that does not exist yet, for the class indices of each frame as palette PNG:
            ``000001.png``, ``000002.png`` and so on.
        camera: record a camera, until ``max_frames`` or an interrupt from the keyboard (SIGINT),
            which ends the recording and not the program. Frames that come while one is labelled
            are left out by its driver.
        max_frames: stop after so many.
        alpha: weight of the colours, as in ``render.overlay``.
        progress: show a bar on stderr.

    Raises:
        MissingExtraError: if PyAV is not installed.
        ArgumentError: if ``target`` has another ending or is the source, or ``labels`` exists.
        DataError: if there is no such video or camera, it holds no frame that can be read, or a
            file cannot be written.
    """
    target = Path(target)
    container = container_of(target)
    if not camera and target.exists() and Path(source).exists() and target.samefile(source):
        raise ArgumentError(
            "the result would replace this video", where=printable(target), fix="name another file"
        )
    if max_frames is not None and max_frames < 1:
        raise ArgumentError(f"{max_frames} is below 1", where="max_frames", fix="label some frames")
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    folder = None if labels is None else Path(labels)
    with VideoReader(source, camera=camera) as video, _folder_when_whole(folder) as label_folder:
        work = _Labelling(predictor, video, alpha, label_folder, max_frames, progress)
        with _interruptible() if camera else nullcontext(threading.Event()) as stop:
            atomic_write(target, lambda stream: work.run(stream, container, stop))
    return VideoResult(
        target=target,
        labels=folder,
        frames=work.frames,
        size=work.size,
        seconds=work.seconds,
        shares=work.shares(),
        left_out=video.left_out,
        failure=video.failure,
    )


class _Labelling:
    """The frames of one video on their way from reader to writer."""

    def __init__(
        self,
        predictor: Predictor,
        video: VideoReader,
        alpha: float,
        labels: Path | None,
        max_frames: int | None,
        progress: bool,
    ) -> None:
        self._predictor, self._video, self._alpha = predictor, video, alpha
        self._labels, self._max_frames = labels, max_frames
        known = [count for count in (video.announced, max_frames) if count]
        total = min(known) if known else None
        self._bar = tqdm(total=total, desc="predict", unit="frame", disable=not progress)
        self._counts = np.zeros(256, np.int64)
        self.frames, self.size, self.seconds = 0, (0, 0), 0.0

    def run(self, stream: BinaryIO, container: str, stop: threading.Event) -> None:
        """Labels frames and writes them, until there are no more, enough, or ``stop`` is set."""
        started = time.monotonic()
        writer: VideoWriter | None = None
        with self._bar:
            for frame in self._video.frames():
                if writer is None:
                    writer = self._writer(stream, container, frame)
                writer.add(self._overlay(frame), frame.pts)
                self._bar.update()
                if stop.is_set() or self.frames == self._max_frames:
                    break
        assert writer is not None  # no frame at all is an error of the reader
        writer.finish()
        self.seconds = time.monotonic() - started

    def shares(self) -> dict[str, float]:
        """See ``VideoResult``."""
        classes = self._predictor.model.labels.classes
        total = self._counts.sum()
        order = np.argsort(-self._counts, kind="stable")
        return {classes[i]: float(self._counts[i] / total) for i in order if self._counts[i]}

    def _writer(self, stream: BinaryIO, container: str, first: Frame) -> VideoWriter:
        self.size = (first.pixels.shape[0], first.pixels.shape[1])
        return VideoWriter(
            stream,
            container,
            size=self.size,
            rate=self._video.rate,
            time_base=self._video.time_base,
            aspect=self._video.aspect,
            colorspace=first.colorspace,
        )

    def _overlay(self, frame: Frame) -> np.ndarray:
        label_map = self._predictor.labels(frame.pixels)
        label_set = self._predictor.model.labels
        self._counts += np.bincount(label_map.reshape(-1), minlength=256)
        if self._labels is not None:
            name = f"{frame.number:06}.png"
            write_png(self._labels / name, label_map, palette=label_set.palette_array())
        self.frames = frame.number
        return np.asarray(
            render.overlay(frame.pixels, label_map, label_set, alpha=self._alpha, legend=False)
        )


@contextmanager
def _folder_when_whole(folder: Path | None) -> Iterator[Path | None]:
    """A folder under another name, which gets its own at the end and is removed on errors."""
    if folder is None:
        yield None
        return
    if folder.exists() or folder.is_symlink():
        raise ArgumentError(
            "is there already",
            where=printable(folder),
            why="label maps of two videos would be mixed",
            fix="remove it or name another folder",
        )
    hidden = make_folder(folder.with_name(f".tmp-{secrets.token_hex(8)}"))
    try:
        yield hidden
        try:
            hidden.rename(folder)
        except OSError as error:
            raise DataError(
                "cannot be created", where=printable(folder), why=error.strerror,
                fix="name another folder",
            ) from error  # fmt: skip
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set by the first SIGINT, so that a recording ends between two frames."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread hears of signals
        return

    def asked(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before)  # a second one ends the program

    before = signal.signal(signal.SIGINT, asked)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
