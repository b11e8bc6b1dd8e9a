"""The checkpoints of a training run, by the words that name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, DataError
from torchseg_zoo.files import printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import load_model, model_from_meta
from torchseg_zoo.weights.header import is_safetensors
from torchseg_zoo.weights.load import read_meta, read_tensors

__all__ = ["Snapshot", "find_snapshots"]

_ENDINGS = (".safetensors", ".pth", ".pt")
_EPOCH = re.compile(r"epoch-(\d+)")
_RANGE = re.compile(r"(\d+)-(\d*)")
_BEST = "best.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint of a run.

    Args:
        name: file name without ending, e.g. ``"epoch-100"``.
        path: the file.
    """

    name: str
    path: Path

    def open(self) -> SegmentationModel:
        """The model; of a state to resume from, the weights that would be evaluated next.

        Raises:
            CheckpointFormatError, UnsafeCheckpointError: as ``load_model``, or because a state lies
                without the checkpoint that describes its model.
        """
        if not is_safetensors(self.path):
            return load_model(self.path)
        meta = read_meta(self.path)
        if "progress" not in meta:
            return load_model(self.path)
        best = self.path.with_name(_BEST)
        if not best.is_file():
            raise CheckpointFormatError(
                "this state does not say what its classes are",
                where=printable(self.path),
                why=f"there is no {_BEST} beside it",
                fix=f"give a folder that {_BEST} is in, as it is once a run was evaluated",
            )
        tensors = read_tensors(self.path, mapped=False)
        averaged = any(name.startswith("average.") for name in tensors)
        prefix = "average." if averaged else "model."
        part = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        return model_from_meta(read_meta(best), part, where=str(self.path))


def find_snapshots(folder: str | Path, wanted: str) -> list[Snapshot]:
    """The checkpoints that a word names, in the order of their epochs.

    Args:
        folder: of a run: ``best.safetensors``, ``last.safetensors``, ``epoch-<n>.pth`` and the like
            lie in it or in ``snapshot/`` below it.
        wanted: ``"last"``, ``"best"``, one epoch (``"100"``), a range (``"100-120"``, both
            included, or ``"100-"``), or a file: a path, or a name in the folder.

    Raises:
        ArgumentError: if nothing is named; it says what there is.
        DataError: if there is no such folder.
    """
    if wanted.endswith(_ENDINGS):
        for path in (Path(wanted), Path(folder) / wanted, Path(folder) / "snapshot" / wanted):
            if path.is_file():
                return [Snapshot(path.stem, path)]
        raise ArgumentError(
            "no such checkpoint", where=printable(wanted), fix="check the path of the file"
        )
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            "no such folder", where=printable(folder), fix="give the folder of a training run"
        )
    files = {
        path.stem: path
        for ending in reversed(_ENDINGS)  # of two of one name, the one that needs no conversion
        for place in (root / "snapshot", root)
        for path in place.glob(f"*{ending}")
        if path.is_file()
    }
    epochs = {int(m[1]): stem for stem in files if (m := _EPOCH.fullmatch(stem))}
    found = _named(wanted, set(files), epochs)
    if not found:
        there = sorted(files.keys() & {"best", "last", "epoch-last"})
        there += [epochs[number] for number in sorted(epochs)]
        raise ArgumentError(
            f"no snapshot {wanted!r}",
            where=printable(folder),
            why=f"there are: {', '.join(there) or 'none'}",
            fix="give last, best, an epoch such as 100, a range such as 100-120 or 100-, or a file",
        )
    return [Snapshot(stem, files[stem]) for stem in found]


def _named(wanted: str, stems: set[str], epochs: dict[int, str]) -> list[str]:
    if wanted.isdecimal():
        return [epochs[int(wanted)]] if int(wanted) in epochs else []
    ends = _RANGE.fullmatch(wanted)
    if ends:
        first, last = int(ends[1]), int(ends[2]) if ends[2] else max(epochs, default=0)
        return [epochs[number] for number in sorted(epochs) if first <= number <= last]
    return next(([stem] for stem in (wanted, f"epoch-{wanted}") if stem in stems), [])
