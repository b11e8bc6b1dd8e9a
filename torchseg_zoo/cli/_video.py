"""``torchseg-zoo predict --video`` and ``--webcam``: a video of overlays."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from torchseg_zoo.cli._options import open_model
from torchseg_zoo.files import make_folder, printable

__all__ = ["add_video", "run_video"]


def add_video(parser: argparse.ArgumentParser) -> None:
    """``--video``, ``--webcam`` and ``--frames``, for ``run_video``."""
    group = parser.add_argument_group(
        "video",
        "Every frame is labelled by itself. OUT is a folder or an .mp4, .mov or .mkv file; "
        "--labels writes a folder of numbered PNG files. Sound is left out. Needs the extra video. "
        "Exit code 3 when the video cannot be read to its end; what can be read is labelled.",
    )
    which = group.add_mutually_exclusive_group()
    which.add_argument("--video", metavar="FILE", help="label a video")
    which.add_argument(
        "--webcam",
        nargs="?",
        const="",
        metavar="DEVICE",
        help="label a camera (number or device; default: the first) until Ctrl-C",
    )
    group.add_argument("--frames", type=int, metavar="N", help="stop after N frames")


def run_video(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Labels the video or camera that the options name; returns the exit code."""
    if options.inputs or options.list:
        parser.error("--video and --webcam go without pictures")
    for name in ("confidence", "shard", "resume"):
        if getattr(options, name):
            parser.error(f"--{name} is for pictures")

    from torchseg_zoo.inference.video_read import av_module

    av_module()  # before anything is loaded for nothing

    from torchseg_zoo.inference.video import predict_video

    camera = options.video is None
    source = options.webcam if camera else options.video
    target, labels = _targets(Path(options.out), "webcam" if camera else Path(source).stem)
    result = predict_video(
        open_model(options),
        source,
        target,
        labels=labels if options.labels else None,
        camera=camera,
        max_frames=options.frames,
        progress=not options.json,
    )
    name = printable(source) or "camera"
    if result.left_out:
        print(f"torchseg-zoo: {name}: left out: {', '.join(result.left_out)}", file=sys.stderr)
    if options.json:
        print(json.dumps({"video": source, **result.to_dict()}))
    else:
        files = [file for file in (result.target, result.labels) if file is not None]
        print(
            f"{name} -> {', '.join(map(printable, files))} "
            f"({result.frames} frames, {result.frames_per_second:.1f} a second)"
        )
    if result.failure is None:
        return 0
    error = result.failure
    print(f"torchseg-zoo: {type(error).__name__}: {error}", file=sys.stderr)
    return 3


def _targets(out: Path, stem: str) -> tuple[Path, Path]:
    """The video to write and the folder of its label maps, named as for pictures."""
    if out.suffix and not out.is_dir():
        return out, make_folder(out.parent) / f"{stem}_labels"
    folder = make_folder(out)
    return folder / f"{stem}_overlay.mp4", folder / f"{stem}_labels"
