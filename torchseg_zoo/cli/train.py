"""``torchseg-zoo train``: train a model."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torchseg_zoo.cli._data_options import WHAT_DATA_IS, add_own_files
from torchseg_zoo.cli._scoring_options import add_devices, chosen_devices
from torchseg_zoo.files import printable

if TYPE_CHECKING:
    from torchseg_zoo.training.config import TrainConfig
    from torchseg_zoo.training.loop import TrainResult

__all__ = ["add_parser"]

# Option → field of TrainConfig; everything else is reached by --set.
_FIELDS = (
    "model", "checkpoint", "data", "val_data", "root", "classes", "out", "epochs", "batch_size",
    "lr", "workers", "seed",
)  # fmt: skip


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "train",
        help="train a model",
        description="Trains a model, keeps the best epoch on the validation split and a state to "
        "resume from. Settings come from the recipe or the file, then from these options.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--recipe", metavar="NAME",
        help="settings of a published run, e.g. bisenet_r18.cityscapes; --recipe list lists all",
    )  # fmt: skip
    source.add_argument("--config", metavar="FILE", help="settings that --save-config wrote")
    parser.add_argument(
        "-m", "--model", metavar="MODEL[.TAG]",
        help="model to train from noise, or with a tag from its released weights",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--checkpoint", metavar="FILE",
        help="start from all weights of a model file of your own",
    )  # fmt: skip
    parser.add_argument(
        "--data",
        help=f"{WHAT_DATA_IS}; with a recipe for a released data set, its path alone will do",
    )
    parser.add_argument(
        "--val-data", metavar="DATA",
        help="the same for validation (default: the split val of --data); needed where --data is "
        "a list file",
    )  # fmt: skip
    add_own_files(parser, or_number=True)
    parser.add_argument("-o", "--out", metavar="DIR", help="folder for log and checkpoints")
    parser.add_argument(
        "--no-check", action="store_true", help="do not look at some of the files first"
    )
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, help="samples per step")
    parser.add_argument("--lr", type=float, help="base learning rate")
    parser.add_argument("--workers", type=int, help="processes that prepare samples")
    parser.add_argument("--seed", type=int, help="decides weights, order and augmentation")
    add_devices(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="any other setting of TrainConfig, e.g. --set crop=256,256; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--resume", nargs="?", const="auto", choices=["auto"],
        help="go on from the newest whole state in --out, if there is one",
    )  # fmt: skip
    parser.add_argument(
        "--from-scratch", action="store_true",
        help="start from noise where the recipe starts from ImageNet weights",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="print settings, steps, parameter groups and memory, and train nothing",
    )  # fmt: skip
    parser.add_argument(
        "--save-config", metavar="FILE",
        help="write the settings to a TOML file, and train nothing",
    )  # fmt: skip
    parser.set_defaults(run=_run, devices=None)  # the settings know their own default


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.training.recipes import RECIPES, check_data_given, describe_recipe

    if options.recipe == "list":
        for name in RECIPES:
            print(describe_recipe(name).splitlines()[0])
        return 0
    config = _settings(options)
    if options.save_config or options.dry_run:
        return _show(options, config)
    check_data_given(config)
    try:
        result = _train(options, config)
    except KeyboardInterrupt:
        _tell_what_is_kept(Path(config.out))
        raise
    print(f"best {result.best} (mIoU {result.miou_percent:.2f} % after epoch {result.epoch})")
    print(f"log  {result.log}")
    return 0


def _tell_what_is_kept(folder: Path) -> None:
    from torchseg_zoo.distributed import launched

    states = [folder / f"{name}.safetensors" for name in ("next", "last", "previous")]
    if any(state.exists() for state in states) and not launched():  # there many would speak
        kept = f"the last state in {printable(folder)} is kept; --resume goes on from it"
        print(f"torchseg-zoo: {kept}", file=sys.stderr)


def _train(options: argparse.Namespace, config: TrainConfig) -> TrainResult:
    """In one process, in several that are started here, or as one of those of ``torchrun``."""
    import dataclasses

    from torchseg_zoo.distributed import Ranks, launched
    from torchseg_zoo.training.launch import launch
    from torchseg_zoo.training.loop import train

    options.devices = options.devices or (config.device,)
    resume, check = bool(options.resume), not options.no_check
    if not launched():
        return launch(config, chosen_devices(options), resume=resume, check=check)
    with Ranks.from_environment() as ranks:
        config = dataclasses.replace(config, device=options.devices[0])
        return train(config, ranks=ranks, resume=resume, check=check)


def _settings(options: argparse.Namespace) -> TrainConfig:
    """Recipe or file, then options, then ``--set``."""
    from torchseg_zoo.models.checkpoint import load_model
    from torchseg_zoo.training.config import parse_settings
    from torchseg_zoo.training.recipes import recipe
    from torchseg_zoo.training.toml import read_settings

    settings = read_settings(options.config) if options.config else {}
    settings |= {
        name: getattr(options, name) for name in _FIELDS if getattr(options, name) is not None
    }
    if options.checkpoint and not options.recipe and "model" not in settings:
        settings["model"] = load_model(options.checkpoint).config.model
    if options.classes and options.classes.isdecimal():
        settings["num_classes"] = int(settings.pop("classes"))
    settings |= parse_settings(options.settings)
    if options.from_scratch:
        settings |= {"pretrained_backbone": False, "backbone_weights": None}
    return recipe(options.recipe, **settings)


def _show(options: argparse.Namespace, config: TrainConfig) -> int:
    """Writes or prints what a run would be."""
    from torchseg_zoo.training.plan import make_plan
    from torchseg_zoo.training.recipes import describe_recipe
    from torchseg_zoo.training.toml import format_settings, write_settings

    about = describe_recipe(options.recipe) if options.recipe else ""
    if options.save_config:
        write_settings(options.save_config, config.to_dict(), comment=about)
        print(f"settings {options.save_config}")
    if options.dry_run:
        print(format_settings(config.to_dict(), comment=about))
        launched = os.environ.get("WORLD_SIZE", "")
        here = options.processes or len(options.devices or (config.device,))
        processes = int(launched) if launched.isdecimal() else here
        print(make_plan(config, processes=max(1, processes)).describe())
    return 0
