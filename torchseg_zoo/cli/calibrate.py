"""``torchseg-zoo calibrate``: make a model's confidences true."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from torchseg_zoo.cli._data_options import add_data, open_data
from torchseg_zoo.cli._options import add_model, open_model
from torchseg_zoo.files import printable, require_writable

if TYPE_CHECKING:
    from torchseg_zoo.evaluation.calibration import Calibration

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "calibrate",
        help="fit a temperature to a labelled split, so that confidences are true",
        description="Fits one temperature to labelled pictures that the model was not trained on, "
        "and writes the model with it. predict --confidence applies it; labels stay as they are.",
    )
    add_model(parser)
    add_data(parser, required=True)
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="write the calibrated model there (.safetensors)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.evaluation.calibration import calibrate
    from torchseg_zoo.models.checkpoint import save_model

    if options.out:
        require_writable(options.out)
    model = open_model(options)
    print(_table(calibrate(model, open_data(options, model.labels))))
    if options.out:
        save_model(model, options.out)
        print(printable(options.out))
    return 0


def _table(found: Calibration) -> str:
    before, after = found.before.error_percent, found.after.error_percent
    return "\n".join(
        [
            f"{'temperature':<24}  {1:9.4f}  {found.temperature:9.4f}",
            f"{'negative log-likelihood':<24}  {found.loss_before:9.4f}  {found.loss_after:9.4f}",
            f"{'calibration error %':<24}  {before:9.2f}  {after:9.2f}",
        ]
    )
