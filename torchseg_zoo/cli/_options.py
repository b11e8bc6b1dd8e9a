"""Options that several verbs share."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = [
    "DEFAULT_MODEL",
    "add_device",
    "add_model",
    "open_model",
    "parse_size",
    "show_building",
]

DEFAULT_MODEL = "bisenet_x39.camvid"


def add_model(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """``--model``, ``--checkpoint`` and, unless left out, ``--device``; for ``open_model``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "-m",
        "--model",
        default=DEFAULT_MODEL,
        metavar="MODEL.TAG",
        help=f"model with released weights (default: {DEFAULT_MODEL})",
    )
    which.add_argument(
        "-c",
        "--checkpoint",
        metavar="FILE",
        help="model file of your own, as `torchseg-zoo train` writes it, or of another project",
    )
    if device:
        add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "-d", "--device", default="auto", help="cpu, cuda, cuda:1 or auto (default)"
    )


def open_model(options: argparse.Namespace) -> SegmentationModel:
    """The model that the options name, on its device.

    Raises:
        UnknownModelError, UnknownCheckpointError, CheckpointFormatError, ArgumentError: as loading
            does, or because the model was named without a checkpoint.
    """
    from torchseg_zoo.devices import find_device
    from torchseg_zoo.errors import UnknownCheckpointError
    from torchseg_zoo.models.checkpoint import load_model
    from torchseg_zoo.registry import create_model, list_models, model_factory

    device = find_device(options.device)
    if options.checkpoint:
        return load_model(options.checkpoint).to(device)
    name: str = options.model
    if "." not in name:
        model_factory(name)
        tags = ", ".join(list_models(name, pretrained=True))
        raise UnknownCheckpointError(
            f"{name} without a checkpoint has random weights",
            where="--model",
            fix=f"name one of: {tags}" if tags else "it has no released checkpoint; use -c FILE",
        )
    return create_model(name).to(device)


def parse_size(text: str) -> tuple[int, int]:
    """``512x1024`` → (512, 1024), height and width."""
    height, cross, width = text.lower().replace("×", "x").partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give HEIGHTxWIDTH, as 512x1024")
    return int(height), int(width)


def show_building(phase: str, done: int, steps: int) -> None:
    """Tells of the steps of TensorRT's builder, in one line on a terminal."""
    print(f"\r{phase}: {done} of {steps}\x1b[K", end="\n" if done == steps else "", file=sys.stderr)
