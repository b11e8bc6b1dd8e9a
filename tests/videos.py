"""Small videos for tests, written by PyAV alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from torchseg_zoo.data.datasets.drawn import draw_street


def drive(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """Frames of a window that moves along a drawn street, (H, W, 3) uint8."""
    street = draw_street(3, (max(height, 32), width + 2 * count))[0]
    for start in range(0, 2 * count, 2):
        yield np.ascontiguousarray(street[:height, start : start + width])


def write_video(
    path: Path,
    count: int = 12,
    size: tuple[int, int] = (48, 64),
    *,
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    sound: bool = False,
    codec: str = "libx264",
    **options: str,
) -> Path:
    """Writes a video of ``drive``.

    Args:
        times: of the frames, in milliseconds; by default as ``rate`` says.
        rotation: degrees counterclockwise by which players turn it.
        sound: with silence beside it.
        options: of the container.
    """
    with av.open(str(path), "w", options=options) as container:
        video: Any = container.add_stream(codec, rate)
        video.height, video.width = size
        odd = size[0] % 2 or size[1] % 2
        full_range = "j" if codec == "mjpeg" else ""
        video.pix_fmt = f"yuv{full_range}{'444' if odd else '420'}p"
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            video.set_display_rotation(rotation)
        audio: Any = container.add_stream("aac", 8000) if sound else None
        for number, pixels in enumerate(drive(count, *size)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            silence = np.zeros((1, 8000), np.float32)
            quiet = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            quiet.sample_rate = 8000
            container.mux(audio.encode(quiet))
            container.mux(audio.encode())
    return path


def read_frames(path: Path) -> list[Any]:
    """All frames as PyAV decodes them."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def stream_of(path: Path) -> dict[str, Any]:
    """What the file says of its video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "size": (stream.height, stream.width),
            "rate": stream.average_rate,
            "frames": stream.frames,
            "kinds": [one.type for one in container.streams],
        }
