"""Frames of video files and cameras, upright and as RGB. Needs the extra ``video`` (PyAV)."""

from __future__ import annotations

import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from torchseg_zoo.closing import Closing
from torchseg_zoo.data.decode import MAX_PIXELS
from torchseg_zoo.errors import DataError, MissingExtraError
from torchseg_zoo.files import open_regular, printable

__all__ = ["Frame", "VideoReader", "av_module"]

_PATIENCE_S = 10.0  # a camera that shows nothing for so long is gone
# Containers and streams of pictures. Playlists are left out on purpose: they name other files and
# addresses, which FFmpeg would open.
_CONTAINERS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv",
    "asf", "ogg", "gif", "mjpeg", "mpjpeg", "h264", "hevc", "m4v", "ivf", "yuv4mpegpipe",
    "nut", "mxf",
)  # fmt: skip
_OPTIONS = {"format_whitelist": ",".join(_CONTAINERS), "protocol_whitelist": "file,pipe"}
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation"}
_ANEW = "fetch or record it again"


@dataclass(frozen=True)
class Frame:
    """One frame.

    Args:
        number: its place, from 1.
        pixels: (H, W, 3) uint8 RGB, upright.
        pts: when it is shown, in units of the reader's ``time_base`` after the first frame.
        colorspace: number of the YUV matrix it was stored with, as FFmpeg counts them.
    """

    number: int
    pixels: np.ndarray
    pts: int
    colorspace: int


class _Trouble(NamedTuple):
    """What is wrong with a packet, and from which time on."""

    pts: float
    what: str
    why: str | None


class VideoReader(Closing):
    """The first video stream of a file or camera; use it as a context manager.

    Args:
        source: path of a video file; or with ``camera`` of a device, or a number or name that
            stands for one. A file or named pipe may stand in for a camera.
        camera: read a camera.

    Attributes:
        where: the source's name for messages.
        rate: frames per second, on average, as announced.
        time_base: seconds per unit of ``Frame.pts``.
        aspect: width of a pixel to its height, upright.
        announced: how many frames the file says it has; ``None`` if it does not say.
        left_out: kinds of other streams, such as ``"audio"``.

    Raises:
        MissingExtraError: if PyAV is not installed.
        DataError: if there is no such file or camera, or it holds no video.
    """

    def __init__(self, source: str | os.PathLike[str], *, camera: bool = False) -> None:
        av = av_module()
        self.where = printable(source) or "camera"
        self._trouble: _Trouble | None = None
        self._shown, self._last_pts, self._next_pts = 0, -1, 0
        self._sound, self._sound_pts = 0, 0  # the last frame before any trouble
        self._live = camera and not Path(source).is_file()
        self._file = None if camera else open_regular(source)
        try:
            with _decoding(self.where, "cannot be opened as a camera" if camera else "is no video"):
                if self._file is None:
                    self._container = av.open(**_camera(os.fspath(source)))
                else:
                    self._container = av.open(self._file, "r", **_file_options())
            self._stream = self._first_video()
        except BaseException:
            if self._file is not None:
                self._file.close()
            raise
        stream = self._stream
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self.time_base = Fraction(stream.time_base or 1 / self.rate)
        self.aspect = Fraction(stream.sample_aspect_ratio or 1)
        self.announced: int | None = stream.frames or None
        others = {other.type for other in self._container.streams if other is not stream}
        self.left_out = tuple(sorted(others))

    def close(self) -> None:
        """Closes the file, or lets the camera go."""
        self._container.close()
        if self._file is not None:
            self._file.close()

    def frames(self) -> Iterator[Frame]:
        """All frames that can be read, in the order in which they are shown.

        Damaged ones are left out. A file that is cut off, or a camera that is taken away, ends
        them; ``failure`` then says where. Frames of another size than the first are scaled to it.

        Raises:
            DataError: if not even one can be read.
        """
        start, size, turns = 0, (0, 0), 0
        for frame in self._decoded():
            # Times may be missing, and recordings that were put together may repeat them.
            at = self._next_pts if frame.pts is None else frame.pts - start
            if self._shown == 0:
                start, at = frame.pts or 0, 0
                turns = round(frame.rotation / 90) % 4
                size = (frame.width, frame.height)
                if turns % 2:
                    self.aspect = 1 / self.aspect
            at = max(at, self._last_pts + 1)
            self._last_pts = at
            self._next_pts = at + max(1, round(1 / (self.rate * self.time_base)))
            self._shown += 1
            if self._trouble is None or (frame.pts or 0) < self._trouble.pts:
                self._sound, self._sound_pts = self._shown, at
            yield Frame(self._shown, _pixels(frame, size, turns), at, frame.colorspace)
        if self._shown == 0:
            raise DataError(
                "has no frame that can be read",
                where=self.where,
                why=self._trouble and (self._trouble.why or self._trouble.what),
                fix=_ANEW,
            )

    @property
    def failure(self) -> DataError | None:
        """The first thing that went wrong so far, and after which frame; ``None`` if nothing."""
        if self._trouble is None:
            return None
        at = float(self._sound_pts * self.time_base)
        return DataError(
            f"{self._trouble.what} after frame {self._sound}, at {at:.2f} s",
            where=self.where,
            why=self._trouble.why,
            fix="check that the camera is plugged in" if self._live else _ANEW,
        )

    def _decoded(self) -> Iterator[Any]:
        """Frames as PyAV has them."""
        packets, whole = self._container.demux(self._stream), 0
        while True:
            try:
                with _decoding(self.where, "cannot be read"):
                    packet = next(packets, None)
            except DataError as error:
                self._note(None, "ends", error.why)
                return
            if packet is None:
                break
            whole += packet.size > 0 and not packet.is_corrupt  # the last one is empty
            if packet.is_corrupt:
                self._note(packet.pts, "is cut off", None)
                continue
            try:
                with _decoding(self.where, "cannot be decoded"):
                    frames = packet.decode()
            except DataError as error:
                self._note(packet.pts, "is damaged", error.why)
                continue
            yield from frames
        if self._live:
            self._note(None, "ends", "the camera shows nothing any more")
        elif self.announced and whole < self.announced:
            self._note(None, "ends", f"{self.announced} frames were announced")

    def _note(self, pts: int | None, what: str, why: str | None) -> None:
        """Keeps the first thing that goes wrong; frames before it may still come."""
        if self._trouble is None:
            self._trouble = _Trouble(math.inf if pts is None else pts, what, why)

    def _first_video(self) -> Any:
        # The cover of a piece of music is stored as a video of one picture.
        cover = av_module().stream.Disposition.attached_pic
        videos = [one for one in self._container.streams.video if not one.disposition & cover]
        if not videos:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams}))
            raise DataError(
                "has no video in it",
                where=self.where,
                why=f"only {kinds}" if kinds else None,
                fix="give a video file",
            )
        stream = videos[0]
        if stream.codec_context is None:
            raise DataError("its codec is not known", where=self.where, fix="convert it to H.264")
        if stream.width * stream.height > MAX_PIXELS:
            raise DataError(
                f"its frames are {stream.height}×{stream.width}, more than {MAX_PIXELS} pixels",
                where=self.where,
                fix="make them smaller",
            )
        return stream


def av_module() -> Any:
    """PyAV.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(
            "reading and writing video needs PyAV", fix="pip install 'torchseg-zoo[video]'"
        ) from error
    return av


def _file_options() -> dict[str, Any]:
    """What ``av.open`` takes for files: only videos, whatever the encoding of their metadata."""
    if int(av_module().__version__.partition(".")[0]) >= 19:  # takes any encoding by itself
        return {"options": _OPTIONS}
    return {"options": _OPTIONS, "metadata_errors": "ignore"}


def _camera(device: str) -> dict[str, Any]:
    """What ``av.open`` takes for a camera, or for what stands in for one."""
    kind = next((name for system, name in _CAMERAS.items() if sys.platform == system), None)
    if kind == "v4l2":
        device = f"/dev/video{device or 0}" if device.isdecimal() or not device else device
    try:
        mode = Path(device).stat().st_mode
    except OSError as error:
        if kind == "avfoundation":  # its cameras have numbers and names, but no paths
            return {"file": device or "0", "format": kind, "options": {"framerate": "30"}}
        cameras = ", ".join(sorted(map(str, Path("/dev").glob("video*"))))
        raise DataError(
            "no such camera",
            where=printable(device),
            why=error.strerror,
            fix=f"cameras here: {cameras or 'none'}",
        ) from error
    if stat.S_ISREG(mode) or stat.S_ISFIFO(mode):
        opened = {"file": device, **_file_options()}
        return opened | ({"timeout": _PATIENCE_S} if stat.S_ISFIFO(mode) else {})
    return {"file": device, "format": kind, "timeout": _PATIENCE_S}


def _pixels(frame: Any, size: tuple[int, int], turns: int) -> np.ndarray:
    rgb: np.ndarray = frame.to_ndarray(
        format="rgb24", width=size[0], height=size[1], src_color_range=frame.color_range
    )
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


@contextmanager
def _decoding(where: str, what: str) -> Iterator[None]:
    """Turns what FFmpeg says of bad data into a ``DataError``."""
    errors = av_module().error
    try:
        yield
    except (errors.FFmpegError, OSError) as error:
        why = error.strerror or type(error).__name__
        raise DataError(what, where=where, why=why, fix=_ANEW) from error
