"""``torchseg-zoo evaluate``: score a model on labelled pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchseg_zoo.cli._options import add_model, open_model

if TYPE_CHECKING:
    from torchseg_zoo.data.sample import Dataset
    from torchseg_zoo.evaluation.verify import Verification
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["add_parser"]

_NOT_REACHED = 1


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
        "--data", required=True, help="list file, folder (CamVid's layout or others), or drawn"
    )
    parser.add_argument("--split", default="val", help="train, val (default) or test")
    parser.add_argument("--root", help="folder that the paths in a list file start from")
    parser.add_argument("--json", metavar="FILE", help="write the scores there, too")
    verifying = parser.add_argument_group("verifying a released checkpoint")
    verifying.add_argument(
        "--verify", action="store_true", help="say whether the published score is reached"
    )
    verifying.add_argument(
        "--score", metavar="MODE", default="", help="e.g. msf (default: the single-scale score)"
    )
    verifying.add_argument(
        "--tolerance", type=float, metavar="POINTS", help="of mIoU percent (default: 0.5)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.data.datasets import open_dataset
    from torchseg_zoo.evaluation.evaluate import evaluate

    _check_options(options)
    model = open_model(options)
    dataset = open_dataset(options.data, options.split, model.labels, root=options.root)
    if options.verify:
        verification = _verify(options, model, dataset)
        print(verification.report())
        _write(options.json, verification.to_dict())
        return 0 if verification.verified else _NOT_REACHED
    scores = evaluate(model, dataset)
    print(scores.table(dataset.labels))
    _write(options.json, scores.to_dict())
    return 0


def _check_options(options: argparse.Namespace) -> None:
    from torchseg_zoo.errors import ArgumentError

    if options.verify and options.checkpoint:
        raise ArgumentError(
            "a file of your own has no published score",
            where="--verify",
            fix="name a released checkpoint: -m MODEL.TAG",
        )
    if not options.verify and (options.score or options.tolerance is not None):
        raise ArgumentError("--score and --tolerance need it", where="--verify", fix="add --verify")


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
