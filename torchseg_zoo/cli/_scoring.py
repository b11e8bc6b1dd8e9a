"""What ``torchseg-zoo evaluate`` does when it scores: models, processes, tables, files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchseg_zoo.cli._data_options import open_data
from torchseg_zoo.cli._options import open_model
from torchseg_zoo.cli._scoring_options import chosen_devices, chosen_mode
from torchseg_zoo.files import printable

if TYPE_CHECKING:
    from torchseg_zoo.data.sample import Dataset
    from torchseg_zoo.distributed import Ranks
    from torchseg_zoo.evaluation import Evaluation, Origin, PictureScore, Workers
    from torchseg_zoo.metrics import Scores
    from torchseg_zoo.models.base import SegmentationModel
    from torchseg_zoo.training.snapshots import Snapshot

__all__ = ["prints", "processes", "require_json", "run", "write_json"]

_BOUNDARY_SHARE = 0.02  # of the picture's diagonal, as in the paper
_SOME_SKIPPED = 3


def run(options: argparse.Namespace) -> int:
    """Scores the model or the snapshots that the options name.

    Returns:
        0, or 3 if pictures were skipped.
    """
    with processes(options) as workers:
        if prints(workers):
            require_json(options.save_json)
        models = _models(options)
        found = [
            (name, _score(options, workers, name if len(models) > 1 else "", open_one, file))
            for name, file, open_one in models
        ]
    records = {name: evaluation.to_dict() for name, evaluation in found}
    if prints(workers):
        write_json(options.save_json, records if len(found) > 1 else records[found[0][0]])
    return _SOME_SKIPPED if any(evaluation.skipped for _, evaluation in found) else 0


@contextmanager
def processes(options: argparse.Namespace) -> Iterator[Workers | Ranks | None]:
    """The processes that the options ask for; sets ``options.device`` to the model's own.

    Yields:
        ``Ranks`` under a launcher, ``Workers`` for several processes, ``None`` for this one alone.
    """
    from torchseg_zoo.distributed import Ranks, launched

    if launched():
        ranks = Ranks.from_environment()
        options.device = _device_of(ranks, options)
        with ranks:
            yield ranks
        return
    devices = chosen_devices(options)
    options.device = devices[0]
    if len(devices) == 1:
        yield None
        return
    from torchseg_zoo.evaluation.workers import Workers

    with Workers(devices) as workers:
        yield workers


def _device_of(ranks: Ranks, options: argparse.Namespace) -> str:
    import torch

    from torchseg_zoo.errors import ArgumentError

    if len(options.devices) > 1 or options.processes not in (None, 1):
        raise ArgumentError(
            "the launcher has started the processes already",
            where="--devices, --processes",
            fix="drop them; torchrun --nproc-per-node says how many",
        )
    name: str = options.devices[0]
    if name == "*" or (name == "auto" and torch.cuda.is_available()):
        return f"cuda:{ranks.local_rank % max(1, torch.cuda.device_count())}"
    return "cpu" if name == "auto" else name


def _models(
    options: argparse.Namespace,
) -> list[tuple[str, str, Callable[[], SegmentationModel]]]:
    """Name, file and opener of each model."""
    if options.epochs is None:
        name = options.checkpoint or options.model
        return [(str(name), options.checkpoint or "", lambda: open_model(options))]
    from torchseg_zoo.errors import ArgumentError
    from torchseg_zoo.training.snapshots import find_snapshots

    if not options.checkpoint and not Path(options.epochs).is_file():
        raise ArgumentError(
            "snapshots of which run?", where="--epochs", fix="add -c DIR, or give a file"
        )
    return [
        (one.name, str(one.path), partial(_opened, one, options.device))
        for one in find_snapshots(options.checkpoint or ".", options.epochs)
    ]


def _opened(snapshot: Snapshot, device: str) -> SegmentationModel:
    return snapshot.open().to(device)


def _score(
    options: argparse.Namespace,
    workers: Workers | Ranks | None,
    snapshot: str,
    open_one: Callable[[], SegmentationModel],
    file: str,
) -> Evaluation:
    """Scores one model and prints and writes what was asked for.

    Args:
        options: of the command line.
        workers: see ``processes``.
        snapshot: its name if it is one of several, whose files go to folders of their own.
        open_one: opens the model.
        file: its file; "" for a released checkpoint.
    """
    from torchseg_zoo.evaluation.evaluate import evaluate

    model = open_one()
    dataset = open_data(options, model.labels)
    out, save, show = (
        Path(folder) / snapshot if folder else None
        for folder in (options.out, options.save, options.show)
    )
    speaks = prints(workers)
    evaluation = evaluate(
        model,
        dataset,
        mode=chosen_mode(options, model.input_rule),
        label_size=options.label_size,
        boundary_share=_BOUNDARY_SHARE if out else None,
        reliability=out is not None,
        on_bad_sample=options.on_bad_sample,
        fast=options.fast,
        workers=workers,
        record=out,
        resume=options.resume,
        save_labels=save,
        save_pictures=show,
        watch=_Told(len(dataset)) if options.verbose and speaks else None,
        origin=_origin(options, file),
        progress=speaks and not options.verbose,
    )
    if not speaks:
        return evaluation
    print(_line(snapshot, evaluation) if snapshot else evaluation.table(dataset.labels))
    for folder in filter(None, (save, show)):
        print(printable(folder))
    if show and _has_display():
        import webbrowser

        webbrowser.open(show.absolute().as_uri())
    if out:
        _report(evaluation, model, dataset, out)
    return evaluation


class _Told:
    """A line for every picture, as it is done: its own score, and that of all so far."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def __call__(self, picture: PictureScore, scores: Scores) -> None:
        self._done += 1
        print(
            f"{self._done}/{self._total}  {printable(picture.name)}  "
            f"mean IoU {picture.miou_percent:.2f}, so far {scores.miou_percent:.2f}",
            flush=True,
        )


def _line(name: str, evaluation: Evaluation) -> str:
    without = f", without {len(evaluation.skipped)} pictures" if evaluation.skipped else ""
    return (
        f"{name:<16}  mean IoU {evaluation.miou_percent:6.2f}  "
        f"without class 0 {evaluation.miou_without_first_percent:6.2f}  "
        f"pixel accuracy {evaluation.pixel_accuracy_percent:6.2f}{without}"
    )


def prints(workers: Workers | Ranks | None) -> bool:
    """Whether this process is the one that prints and writes for all."""
    from torchseg_zoo.distributed import Ranks

    return not isinstance(workers, Ranks) or workers.is_first


def _has_display() -> bool:
    named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(named) or not sys.platform.startswith("linux")


def _report(
    evaluation: Evaluation, model: SegmentationModel, dataset: Dataset, folder: Path
) -> None:
    from torchseg_zoo.evaluation.report import write_report

    report = write_report(evaluation, model, dataset, folder)
    print(f"{printable(report.page)}\n{printable(report.card)}")


def _origin(options: argparse.Namespace, file: str) -> Origin:
    """Where model and data come from, in words that mean the same in every folder.

    Args:
        options: of the command line.
        file: the model's file; "" for a released checkpoint.
    """
    from torchseg_zoo.evaluation.protocol import Origin

    return Origin(
        model="" if file else options.model,
        checkpoint=_lasting(file),
        data=_lasting(options.data),
        split=options.split,
        root=_lasting(options.root or ""),
        classes=_lasting(options.classes or ""),
    )


def _lasting(place: str) -> str:
    """A path, or ``NAME:PATH``, that means the same in every folder; other words as they are."""
    name, colon, path = place.partition(":")
    if place and place != "drawn" and Path(place).exists():
        return str(Path(place).absolute())
    if colon and path and Path(path).exists():
        return f"{name}:{Path(path).absolute()}"
    return place


def require_json(path: str | None) -> None:
    """Checks that ``write_json`` will be able to write, before long work is done for it.

    Raises:
        DataError: if it will not.
    """
    from torchseg_zoo.files import require_writable

    if path:
        require_writable(path)


def write_json(path: str | None, record: dict[str, Any]) -> None:
    """Writes a record, if there is a path for it."""
    from torchseg_zoo.files import atomic_write

    if path:
        text = json.dumps(record, indent=2) + "\n"
        atomic_write(Path(path), lambda file: file.write(text.encode()))
