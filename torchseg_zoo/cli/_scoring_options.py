"""Options that say how pictures are scored and on what: modes and devices."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from torchseg_zoo.cli._options import parse_size

if TYPE_CHECKING:
    from torchseg_zoo.inference.modes import Mode, Sliding, Whole
    from torchseg_zoo.models.base import InputRule

__all__ = ["add_devices", "add_mode", "chosen_devices", "chosen_mode", "mode_is_chosen"]

_MERGES = ("probability-mean", "logit-mean", "torchseg")
_MODE_OPTIONS = ("mode", "window", "stride", "scales", "flip", "merge", "merge_windows")


def add_mode(parser: argparse.ArgumentParser) -> None:
    """Options of the inference mode; ``chosen_mode`` reads them."""
    group = parser.add_argument_group("how pictures are seen (default: whole, one scale, no flip)")
    group.add_argument("--mode", choices=("whole", "sliding"), help="whole pictures or windows")
    group.add_argument(
        "--window", type=parse_size, metavar="HxW", help="size of the windows, as 512x1024"
    )
    group.add_argument(
        "--stride", type=parse_size, metavar="HxW",
        help="pixels between windows (default: two thirds of the window)",
    )  # fmt: skip
    group.add_argument(
        "--scales", type=_parse_scales, metavar="S,S,...",
        help="factors on the picture's sides, as 0.5,0.75,1,1.25,1.5,1.75",
    )  # fmt: skip
    group.add_argument("--flip", action="store_true", help="also see everything mirrored")
    group.add_argument(
        "--merge", choices=_MERGES,
        help="how scores are merged (default: probability-mean; torchseg is TorchSeg's rule)",
    )  # fmt: skip
    group.add_argument(
        "--merge-windows", choices=_MERGES,
        help="how windows are merged within a scale, if otherwise: logit-mean under "
        "probability-mean is mmsegmentation's rule",
    )  # fmt: skip


def mode_is_chosen(options: argparse.Namespace) -> bool:
    """Whether any option of ``add_mode`` was given."""
    return any(getattr(options, name) not in (None, False) for name in _MODE_OPTIONS)


def chosen_mode(options: argparse.Namespace, rule: InputRule) -> Mode | None:
    """The mode that the options name; ``None`` if none was given.

    Raises:
        ArgumentError: if they contradict each other, or a value cannot work.
    """
    from torchseg_zoo.errors import ArgumentError
    from torchseg_zoo.inference.modes import MultiScaleFlip

    if not mode_is_chosen(options):
        return None
    merge: Any = options.merge or "probability-mean"
    several = options.scales is not None or options.flip
    if options.merge_windows and not several:
        raise ArgumentError(
            "there is one scale", where="--merge-windows", fix="use --merge, or add --scales"
        )
    view = _view(options, rule, options.merge_windows or merge)
    if not several:
        return view
    return MultiScaleFlip(options.scales or (1.0,), options.flip, view, merge)


def _view(options: argparse.Namespace, rule: InputRule, merge: Any) -> Whole | Sliding:
    from torchseg_zoo.errors import ArgumentError
    from torchseg_zoo.inference.modes import Sliding, Whole

    windows = options.window or options.stride
    if options.mode == "whole" and windows:
        raise ArgumentError(
            "whole pictures have no windows",
            where="--window, --stride",
            fix="use --mode sliding, or drop them",
        )
    if options.mode == "whole" or (not windows and options.mode is None and rule.fixed is None):
        return Whole(merge=merge)
    window = options.window or rule.fixed
    if window is None:
        raise ArgumentError(
            "windows of which size?", where="--window", fix="give HEIGHTxWIDTH, as 512x1024"
        )
    if options.stride is None:
        return Sliding.at_rate(window, merge=merge)
    return Sliding(window, options.stride, merge)


def _parse_scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} are no scales; give numbers, as 0.5,0.75,1"
        ) from None


def add_devices(parser: argparse.ArgumentParser) -> None:
    """``--devices`` and ``--processes``; ``chosen_devices`` reads them."""
    parser.add_argument(
        "-d", "--devices", "--device", type=_parse_devices, default=("auto",), metavar="D,D,...",
        help="one process for each: 0,2 or 0-7 (GPUs), * (all GPUs), cpu,cpu, auto (default). "
        "Under torchrun each process takes its own",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, metavar="N",
        help="as many processes on the one device; on a CPU they share its cores",
    )  # fmt: skip


def chosen_devices(options: argparse.Namespace) -> list[str]:
    """Names of devices, one for each process that is wanted.

    Raises:
        ArgumentError: if there is no such device, or numbers contradict each other.
    """
    from torchseg_zoo.devices import find_device
    from torchseg_zoo.errors import ArgumentError

    names = list(options.devices)
    if names == ["*"]:
        import torch

        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if not names:
            raise ArgumentError("there is no GPU here", where="--devices", fix="use cpu or auto")
    if options.processes is not None:
        if options.processes < 1:
            raise ArgumentError(
                f"{options.processes} processes", where="--processes", fix="give 1 or more"
            )
        if len(names) not in (1, options.processes):
            raise ArgumentError(
                f"{options.processes} processes on {len(names)} devices",
                where="--processes",
                fix="drop it: each device has one process",
            )
        names = names if len(names) > 1 else names * options.processes
    return [str(find_device(name)) for name in names]


def _parse_devices(text: str) -> tuple[str, ...]:
    """``0,2-4`` → cuda:0, cuda:2, cuda:3, cuda:4; other words as they are."""
    names: list[str] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if span is None:
            names.append(part.strip())
            continue
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first or last - first > 1023:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of devices; give 0-7, say")
        names += [f"cuda:{index}" for index in range(first, last + 1)]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} are no devices; give 0,1 or 0-7 or cpu")
    return tuple(names)
