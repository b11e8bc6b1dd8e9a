"""Pictures into a video file, one after the other. Needs the extra ``video`` (PyAV)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.files import printable
from torchseg_zoo.inference.video_read import av_module

__all__ = ["VIDEO_SUFFIXES", "VideoWriter", "container_of"]

VIDEO_SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of the files that can be written, and what FFmpeg calls their container."""

# Looks like the original at a size that a network's speed does not feel.
_ENCODER = {"preset": "veryfast", "crf": "18"}
_UNSPECIFIED = 2  # of FFmpeg's colour spaces


def container_of(path: Path) -> str:
    """The container that a file's ending asks for.

    Raises:
        ArgumentError: if it is not one of ``VIDEO_SUFFIXES``.
    """
    container = VIDEO_SUFFIXES.get(path.suffix.lower())
    if container is None:
        raise ArgumentError(
            f"cannot write {path.suffix or 'a file without an ending'} as video",
            where=printable(path),
            fix=f"let the name end in {', '.join(VIDEO_SUFFIXES)}",
        )
    return container


class VideoWriter:
    """H.264 in an open file; ``finish`` makes it a whole one.

    Even sides are stored as every player takes them (4:2:0). A picture with an odd side keeps its
    size by whole colour resolution (4:4:4), which some players do not show.

    Args:
        stream: file that can be written and seeked.
        container: one of the values of ``VIDEO_SUFFIXES``.
        size: (height, width) of all pictures.
        rate: pictures per second, on average.
        time_base: seconds per unit of the pictures' times.
        aspect: width of a pixel to its height.
        colorspace: number of the YUV matrix, as FFmpeg counts them.
    """

    def __init__(
        self,
        stream: BinaryIO,
        container: str,
        *,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        aspect: Fraction,
        colorspace: int,
    ) -> None:
        self._av = av_module()
        self._container = self._av.open(stream, "w", format=container)
        # Rates that cameras announce may be fractions beyond what fits into an encoder's header.
        video = self._container.add_stream("libx264", rate.limit_denominator(1001), _ENCODER)
        video.height, video.width = size
        video.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        video.time_base = video.codec_context.time_base = time_base
        video.codec_context.sample_aspect_ratio = aspect
        if colorspace != _UNSPECIFIED:
            video.codec_context.colorspace = colorspace
        self._video, self._time_base, self._colorspace = video, time_base, colorspace

    def add(self, picture: np.ndarray, pts: int) -> None:
        """Appends a picture.

        Args:
            picture: (H, W, 3) uint8 RGB of the announced size.
            pts: when it is shown, above the last one's.

        Raises:
            OSError: if the file cannot be written.
        """
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format=self._video.pix_fmt, dst_colorspace=self._colorspace)
        frame.pts, frame.time_base = pts, self._time_base
        self._mux(self._video.encode(frame))

    def finish(self) -> None:
        """Writes what the encoder still holds, and the index of the file.

        Raises:
            OSError: if the file cannot be written.
        """
        self._mux(self._video.encode())
        self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        self._container.mux(packets)
