"""``torchseg-zoo evaluate``: score a model on labelled pictures."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torchseg_zoo.cli._options import add_model, open_model

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="score a model on labelled pictures",
        description="Scores whole pictures at their own size, single scale, no flip.",
    )
    add_model(parser)
    parser.add_argument(
        "--data", required=True, help="list file, folder (CamVid's layout or others), or drawn"
    )
    parser.add_argument("--split", default="val", help="train, val (default) or test")
    parser.add_argument("--root", help="folder that the paths in a list file start from")
    parser.add_argument("--json", metavar="FILE", help="write the scores there, too")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.data.datasets import open_dataset
    from torchseg_zoo.evaluation.evaluate import evaluate
    from torchseg_zoo.files import atomic_write

    model = open_model(options)
    dataset = open_dataset(options.data, options.split, model.labels, root=options.root)
    scores = evaluate(model, dataset)
    print(scores.table(dataset.labels))
    if options.json:
        text = json.dumps(scores.to_dict(), indent=2) + "\n"
        atomic_write(Path(options.json), lambda file: file.write(text.encode()))
    return 0
