"""``torchseg-zoo evaluate``: score a model on labelled pictures."""

from __future__ import annotations

import argparse
from functools import partial

from torchseg_zoo.cli._data_options import add_data, open_data
from torchseg_zoo.cli._options import DEFAULT_MODEL, add_model, open_model, parse_size
from torchseg_zoo.cli._scoring_options import (
    add_devices,
    add_mode,
    chosen_devices,
    chosen_mode,
    mode_is_chosen,
)
from torchseg_zoo.files import printable

__all__ = ["add_parser"]

_NOT_REACHED = 1


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "evaluate",
        help="score a model on labelled pictures",
        description="Scores labelled pictures at their size. Several devices or processes share "
        "the pictures, and the scores stay the same to the last pixel. With -o, a run that was "
        "interrupted goes on with --resume. Ends with 3 if pictures were skipped.",
    )
    add_model(parser, device=False)
    parser.add_argument(
        "-e", "--epochs", metavar="WHICH",
        help="score snapshots of the run in -c DIR, one line each: last, best, 100, 100-120, "
        "100-, or a file",
    )  # fmt: skip
    add_data(parser)
    add_devices(parser)
    add_mode(parser)
    _add_scoring(parser)
    _add_outputs(parser)
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
        "--verify", action="store_true",
        help="score by the published protocol, under every preprocessing that comes into question; "
        "ends with 1 unless exactly one reaches the published score",
    )  # fmt: skip
    verifying.add_argument(
        "--score", metavar="NAME", default="",
        help="which published score, e.g. msf (default: the single-scale one)",
    )  # fmt: skip
    verifying.add_argument(
        "--tolerance-points", type=float, metavar="POINTS",
        help="how far off a score may be, in points of percent (default: 0.5; for --replay 0.01)",
    )  # fmt: skip
    parser.set_defaults(run=partial(_run, parser))


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--label-size", type=parse_size, metavar="HxW",
        help="bring label maps to this size and score there; not comparable with their own size",
    )  # fmt: skip
    parser.add_argument(
        "--on-bad-sample", choices=("stop", "skip"), default="stop",
        help="what to do about pictures or labels that cannot be read (default: stop)",
    )  # fmt: skip
    parser.add_argument(
        "--fast", action="store_true",
        help="fold batch norms first: faster, and single pixels may differ from published scores",
    )  # fmt: skip


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--out", metavar="DIR",
        help="write card.json (scores and protocol) and report.html there, with boundary IoU, "
        "calibration and the worst pictures, and a record to resume from",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true", help="go on from the record in the folder of -o"
    )
    parser.add_argument("--save-json", metavar="FILE", help="write the scores there, as JSON")
    parser.add_argument(
        "-p", "--save", "--save_path", metavar="DIR",
        help="write each predicted label map there, as a PNG of class indices",
    )  # fmt: skip
    parser.add_argument(
        "-s", "--show", "--show_image", nargs="?", const="shown", metavar="DIR",
        help="write photo, truth and prediction of each picture there, side by side (default: "
        "shown), and open the folder where there is a display",
    )  # fmt: skip
    parser.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="a line for each picture, with the score so far",
    )


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    _check_options(options)
    if options.replay:
        return _replay(options)
    if not options.data:
        parser.error("the following arguments are required: --data")
    if options.submit:
        return _submit(options)
    if options.verify:
        return _verify(options)

    from torchseg_zoo.cli._scoring import run

    return run(options)


def _submit(options: argparse.Namespace) -> int:
    from torchseg_zoo.evaluation.submit import submit

    options.device = _one_device(options, "--submit")
    model = open_model(options)
    dataset = open_data(options, model.labels)
    mode = chosen_mode(options, model.input_rule)
    files = submit(model, dataset, options.submit, split=options.split, mode=mode)
    print(f"{len(files)} files in {printable(files[0].parent)}")
    return 0


def _or(points: float | None, usual: float) -> float:
    return usual if points is None else points


def _one_device(options: argparse.Namespace, what: str) -> str:
    from torchseg_zoo.errors import ArgumentError

    devices = chosen_devices(options)
    if len(devices) > 1:
        raise ArgumentError(
            f"{what} works in one process", where="--devices, --processes", fix="give one device"
        )
    return devices[0]


def _replay(options: argparse.Namespace) -> int:
    import torch

    from torchseg_zoo.cli._scoring import require_json, write_json
    from torchseg_zoo.evaluation.replay import TOLERANCE_POINTS, replay

    require_json(options.save_json)
    again = replay(
        options.replay,
        checkpoint=options.checkpoint,
        data=options.data,
        root=options.root,
        classes=options.classes,
        device=torch.device(_one_device(options, "--replay")),
        tolerance_points=_or(options.tolerance_points, TOLERANCE_POINTS),
    )
    print(again.describe())
    write_json(options.save_json, again.evaluation.to_dict())
    return 0 if again.holds else _NOT_REACHED


def _check_options(options: argparse.Namespace) -> None:
    from torchseg_zoo.errors import ArgumentError

    if options.verify and (options.checkpoint or options.epochs):
        raise ArgumentError(
            "a file of your own has no published score",
            where="--verify",
            fix="name a released checkpoint: -m MODEL.TAG",
        )
    if not options.verify and options.score:
        raise ArgumentError("--score needs it", where="--verify", fix="add --verify")
    if not (options.verify or options.replay) and options.tolerance_points is not None:
        raise ArgumentError(
            "nothing is compared", where="--tolerance-points", fix="add --verify or --replay"
        )
    if options.resume and not options.out:
        raise ArgumentError(
            "the record is in the folder of the report", where="--resume", fix="add -o DIR"
        )
    if options.replay and (options.verify or options.out or options.model != DEFAULT_MODEL):
        raise ArgumentError(
            "a card names its model and has its report",
            where="--replay",
            fix="drop -m, -o and --verify; -c FILE and --data say where things are now",
        )
    for name in ("replay", "verify"):
        if getattr(options, name) and (mode_is_chosen(options) or _scores_otherwise(options)):
            raise ArgumentError(
                "how to score is written down already",
                where=f"--{name}",
                fix="drop the options of modes and scoring",
            )


def _scores_otherwise(options: argparse.Namespace) -> bool:
    return bool(
        options.label_size or options.fast or options.epochs or options.on_bad_sample != "stop"
    )


def _verify(options: argparse.Namespace) -> int:
    from torchseg_zoo.cli._scoring import prints, processes, require_json, write_json
    from torchseg_zoo.evaluation.verify import TOLERANCE_POINTS, verify
    from torchseg_zoo.weights import manifest

    name, _, tag = options.model.partition(".")
    with processes(options) as workers:
        if prints(workers):
            require_json(options.save_json)
        model = open_model(options)
        verification = verify(
            model,
            manifest.find(name, tag),
            open_data(options, model.labels),
            split=options.split,
            score=options.score,
            tolerance_points=_or(options.tolerance_points, TOLERANCE_POINTS),
            workers=workers,
        )
    if prints(workers):
        print(verification.report())
        write_json(options.save_json, verification.to_dict())
    return 0 if verification.verified else _NOT_REACHED
