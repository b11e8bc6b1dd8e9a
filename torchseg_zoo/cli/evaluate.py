"""``torchseg-zoo evaluate``: score a model on labelled pictures."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchseg_zoo.cli._options import DEFAULT_MODEL, add_model, open_model
from torchseg_zoo.files import printable

if TYPE_CHECKING:
    from torchseg_zoo.data.sample import Dataset
    from torchseg_zoo.evaluation.protocol import Origin
    from torchseg_zoo.evaluation.result import Evaluation
    from torchseg_zoo.evaluation.verify import Verification
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["add_parser"]

_NOT_REACHED = 1
_BOUNDARY_SHARE = 0.02  # of the picture's diagonal, as in the paper


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="score a model on labelled pictures",
        description="Scores whole pictures at their own size, single scale, no flip. With "
        "--verify: by the protocol of the model's published score, under every preprocessing that "
        "comes into question; ends with 1 unless exactly one reaches that score.",
    )
    add_model(parser)
    parser.add_argument(
        "--data",
        help="list file, folder of a data set, NAME:PATH (cityscapes, voc, voc_aug, ade20k, "
        "coco_stuff164k, hf, ...), or drawn",
    )
    parser.add_argument("--split", default="val", help="train, val (default) or test")
    parser.add_argument("--root", help="folder that the paths in a list file start from")
    parser.add_argument(
        "-o", "--output", metavar="DIR",
        help="write card.json (scores and protocol) and report.html there, with boundary IoU, "
        "calibration and the worst pictures",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the scores there, too")
    parser.add_argument(
        "--submit", metavar="DIR",
        help="instead of scoring, write what the test server takes there (Cityscapes: label ids, "
        "VOC, ADE20K); the split needs no labels",
    )  # fmt: skip
    parser.add_argument(
        "--replay", metavar="CARD",
        help="measure a recorded score again by its own protocol; ends with 1 unless it holds. "
        "Model and data are those of the card, or those of -c and --data",
    )  # fmt: skip
    verifying = parser.add_argument_group("verifying a released checkpoint")
    verifying.add_argument(
        "--verify", action="store_true", help="say whether the published score is reached"
    )
    verifying.add_argument(
        "--score", metavar="MODE", default="", help="e.g. msf (default: the single-scale score)"
    )
    verifying.add_argument(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="of mIoU percent (default: 0.5; replay: 0.01)",
    )
    parser.set_defaults(run=partial(_run, parser))


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _check_options(options)
    if options.replay:
        return _replay(options)
    if not options.data:
        parser.error("the following arguments are required: --data")

    from torchseg_zoo.data.datasets import open_dataset
    from torchseg_zoo.evaluation.evaluate import evaluate

    model = open_model(options)
    dataset = open_dataset(options.data, options.split, model.labels, root=options.root)
    if options.submit:
        return _submit(options, model, dataset)
    if options.verify:
        verification = _verify(options, model, dataset)
        print(verification.report())
        _write(options.json, verification.to_dict())
        return 0 if verification.verified else _NOT_REACHED
    evaluation = evaluate(
        model,
        dataset,
        boundary_share=_BOUNDARY_SHARE if options.output else None,
        reliability=bool(options.output),
        origin=_origin(options),
    )
    print(evaluation.table(dataset.labels))
    _write(options.json, evaluation.to_dict())
    if options.output:
        _report(evaluation, model, dataset, options.output)
    return 0


def _submit(options: argparse.Namespace, model: SegmentationModel, dataset: Dataset) -> int:
    from torchseg_zoo.evaluation.submit import submit

    files = submit(model, dataset, options.submit, split=options.split)
    print(f"{len(files)} files in {printable(files[0].parent)}")
    return 0


def _origin(options: argparse.Namespace) -> Origin:
    from torchseg_zoo.evaluation.protocol import Origin

    return Origin(
        checkpoint="" if options.checkpoint else options.model,
        file=_lasting(options.checkpoint or ""),
        data=_lasting(options.data),
        split=options.split,
        root=_lasting(options.root or ""),
    )


def _lasting(place: str) -> str:
    """A path, or ``NAME:PATH``, that means the same in every folder; other words as they are."""
    name, colon, path = place.partition(":")
    if place and place != "drawn" and Path(place).exists():
        return str(Path(place).absolute())
    if colon and path and Path(path).exists():
        return f"{name}:{Path(path).absolute()}"
    return place


def _report(
    evaluation: Evaluation, model: SegmentationModel, dataset: Dataset, folder: str
) -> None:
    from torchseg_zoo.evaluation.report import write_report

    report = write_report(evaluation, model, dataset, folder)
    print(f"{printable(report.page)}\n{printable(report.card)}")


def _replay(options: argparse.Namespace) -> int:
    from torchseg_zoo.devices import find_device
    from torchseg_zoo.evaluation.replay import TOLERANCE_POINTS, replay

    again = replay(
        options.replay,
        file=options.checkpoint,
        data=options.data,
        root=options.root,
        device=find_device(options.device),
        tolerance_points=TOLERANCE_POINTS if options.tolerance is None else options.tolerance,
    )
    print(again.describe())
    _write(options.json, again.evaluation.to_dict())
    return 0 if again.holds else _NOT_REACHED


def _check_options(options: argparse.Namespace) -> None:
    from torchseg_zoo.errors import ArgumentError

    if options.verify and options.checkpoint:
        raise ArgumentError(
            "a file of your own has no published score",
            where="--verify",
            fix="name a released checkpoint: -m MODEL.TAG",
        )
    if not options.verify and options.score:
        raise ArgumentError("--score needs it", where="--verify", fix="add --verify")
    if not (options.verify or options.replay) and options.tolerance is not None:
        raise ArgumentError(
            "nothing is compared", where="--tolerance", fix="add --verify or --replay"
        )
    if options.replay and (options.verify or options.output or options.model != DEFAULT_MODEL):
        raise ArgumentError(
            "a card names its model and has its report",
            where="--replay",
            fix="drop -m, -o and --verify; -c FILE and --data say where things are now",
        )


def _verify(
    options: argparse.Namespace, model: SegmentationModel, dataset: Dataset
) -> Verification:
    from torchseg_zoo.evaluation.verify import TOLERANCE_POINTS, verify
    from torchseg_zoo.weights import manifest

    name, _, tag = options.model.partition(".")
    return verify(
        model,
        manifest.find(name, tag),
        dataset,
        split=options.split,
        score=options.score,
        tolerance_points=TOLERANCE_POINTS if options.tolerance is None else options.tolerance,
    )


def _write(path: str | None, record: dict[str, Any]) -> None:
    from torchseg_zoo.files import atomic_write

    if path:
        text = json.dumps(record, indent=2) + "\n"
        atomic_write(Path(path), lambda file: file.write(text.encode()))
