"""What a score depends on, written down with it, so that it can be measured again."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, cast

import numpy as np
import PIL
import torch

from torchseg_zoo._version import __version__
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import DataError
from torchseg_zoo.files import printable
from torchseg_zoo.inference.modes import Mode
from torchseg_zoo.journal import flat
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size
from torchseg_zoo.weights.save import tensors_digest

__all__ = [
    "METRICS_VERSION",
    "Difference",
    "Origin",
    "Protocol",
    "describe_device",
    "describe_run",
    "list_digest",
    "software",
]

METRICS_VERSION = 1
"""Raised by every change that moves a score of the same label maps."""

# What may differ without making the score another one. Rounding depends on the machine and on
# libraries, and files move.
_SURROUNDINGS = ("origin", "software", "device")


@dataclass(frozen=True)
class Origin:
    """Where model and data came from, so that they can be opened again.

    Args:
        model: released checkpoint, ``model.tag``; "" for others.
        checkpoint: model file; "" for released checkpoints.
        data: what ``open_dataset`` takes; "" if the data set was made in Python.
        split: likewise.
        root: likewise; "" for none.
        classes: file that says what the label values mean, as ``read_classes`` takes it; "" for
            what the data bring themselves.
    """

    model: str = ""
    checkpoint: str = ""
    data: str = ""
    split: str = ""
    root: str = ""
    classes: str = ""


@dataclass(frozen=True)
class Difference:
    """One field in which two protocols differ.

    Args:
        field: dotted name, e.g. ``"mode.stride"``.
        recorded: value of the first.
        now: value of the second.
        decisive: whether the score is one of something else then. Versions, devices and the places
            of files are not.
    """

    field: str
    recorded: object
    now: object
    decisive: bool

    def __str__(self) -> str:
        return f"{self.field} was {_brief(self.recorded)}, is {_brief(self.now)}"


@dataclass(frozen=True)
class Protocol:
    """How a score was measured.

    Args:
        data: ``labels`` (name of the label set), ``classes``, ``count`` of pictures,
            ``files_sha256`` (see ``list_digest``) and ``labelled_pixels``.
        model: ``name``, ``config`` and ``weights_sha256``: digest of the tensors as a native file
            without description has them; "" of a fused model, whose tensors are others.
        mode: inference mode in its JSON-able form: scales, flip, windows, strides, merge.
        preprocess: how pictures became input, in its JSON-able form.
        label_size: [height, width] that label maps were brought to; ``None`` for their own.
        ignore_index: label value that did not count.
        metrics_version: ``METRICS_VERSION`` at the time.
        origin: see ``Origin``.
        software: versions of Python and of what computes.
        device: ``type``, ``name``, ``dtype`` and what else decides about rounding.
    """

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    mode: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    label_size: Sequence[int] | None
    ignore_index: int
    metrics_version: int
    origin: Origin
    software: Mapping[str, Any]
    device: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``from_dict`` reads it back."""
        return cast("dict[str, Any]", _as_json(asdict(self)))

    @classmethod
    def from_dict(cls, record: object) -> Self:
        """Reads the form written by ``to_dict``.

        Raises:
            DataError: if it is not such a record.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) != names:
            found = sorted(map(str, record)) if isinstance(record, Mapping) else []
            raise DataError(
                "the protocol is not one of this version",
                why=f"lacks {', '.join(sorted(names - set(found))) or 'nothing'}, "
                f"unknown are {', '.join(sorted(set(found) - names)) or 'none'}",
                fix="evaluate again and keep the new card",
            )
        maps = ("data", "model", "mode", "preprocess", "origin", "software", "device")
        for name in maps:
            if not isinstance(record[name], Mapping):
                raise DataError(f"{name} of the protocol is not a record")
        try:
            origin = Origin(**{key: str(value) for key, value in record["origin"].items()})
        except TypeError as error:
            raise DataError("origin of the protocol is malformed", why=str(error)) from error
        return cls(**{**record, "origin": origin})

    def differences(self, now: Protocol) -> tuple[Difference, ...]:
        """Every field in which another protocol differs, decisive ones first."""
        mine, other = dict(flat(self.to_dict())), dict(flat(now.to_dict()))
        found = [
            Difference(
                name,
                mine.get(name),
                other.get(name),
                name.partition(".")[0] not in _SURROUNDINGS,
            )
            for name in dict.fromkeys((*mine, *other))
            if mine.get(name) != other.get(name)
        ]
        return tuple(sorted(found, key=lambda one: not one.decisive))


def describe_run(
    model: SegmentationModel,
    labels: LabelSet,
    mode: Mode,
    *,
    files_sha256: str,
    count: int,
    labelled_pixels: int,
    label_size: Size | None,
    origin: Origin,
    device: Mapping[str, Any],
    skipped: int = 0,
    fast: bool = False,
) -> Protocol:
    """The protocol of an evaluation that has just been done; arguments as in ``Protocol``.

    If so, ``data`` says how many samples were ``skipped``, and ``model`` that it was ``fused``.
    """
    data = {
        "labels": labels.name,
        "classes": labels.num_classes,
        "count": count,
        "files_sha256": files_sha256,
        "labelled_pixels": labelled_pixels,
    }
    return Protocol(
        data=data | ({"skipped": skipped} if skipped else {}),
        model={
            "name": model.config.model,
            "config": model.config.to_dict(),
            "weights_sha256": "" if model.fused else tensors_digest(model.state_dict()),
        }
        | ({"fused": True} if fast else {}),
        mode=mode.to_dict(),
        preprocess=model.preprocess.to_dict(),
        label_size=None if label_size is None else list(label_size),
        ignore_index=labels.ignore_index,
        metrics_version=METRICS_VERSION,
        origin=origin,
        software=software(),
        device=device,
    )


def software() -> dict[str, str]:
    """Versions of Python and of what computes."""
    return {
        "torchseg_zoo": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def list_digest(samples: Sequence[tuple[str, Size]]) -> str:
    """Digest of which pictures a data set has, in which order and of which size.

    Names count from the folder that all have in common, so that a data set may be moved.

    Args:
        samples: name and (height, width) of each.
    """
    names = [printable(name).replace(os.sep, "/") for name, _ in samples]
    folders = [name.split("/")[:-1] for name in names]
    common = 0
    for parts in zip(*folders, strict=False):  # the shortest folder ends what can be common
        if len(set(parts)) > 1:
            break
        common += 1
    lines = [
        f"{'/'.join(name.split('/')[common:])}\t{height}\t{width}\n"
        for name, (_, (height, width)) in zip(names, samples, strict=True)
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_device(parameter: torch.nn.Parameter) -> dict[str, Any]:
    """What decides about rounding where a model's parameter is, as ``Protocol.device`` has it."""
    device = parameter.device
    record: dict[str, Any] = {
        "type": device.type,
        "dtype": str(parameter.dtype).removeprefix("torch."),
    }
    if device.type == "cuda":
        record["name"] = torch.cuda.get_device_name(device)
        record["tf32"] = torch.backends.cudnn.allow_tf32
    elif device.type == "cpu":
        record["name"] = torch.backends.cpu.get_cpu_capability()
        record["threads"] = 1  # whatever their number, each picture is computed by one
    return record


def _as_json(value: object) -> object:
    """Tuples become lists, as they do on the way through a file."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return value


def _brief(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:
        return f"{value[:12]}…"
    return printable(value) if value != "" else "not given"
