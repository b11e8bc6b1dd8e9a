"""``torchseg-zoo train``: train a model."""

from __future__ import annotations

import argparse

from torchseg_zoo.cli._options import add_device

__all__ = ["add_parser"]

# Option → field of TrainConfig; everything else is reached by --set.
_FIELDS = (
    "model", "data", "val_data", "root", "out", "epochs", "batch_size", "lr", "workers", "seed",
    "device",
)  # fmt: skip


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "train",
        help="train a model",
        description="Trains a model, keeps the best epoch on the validation split and a state to "
        "resume from. Settings come from the recipe, then from these options.",
    )
    parser.add_argument("--recipe", metavar="NAME", help="settings of a published run")
    parser.add_argument("--model", metavar="MODEL[.TAG]", help="model to train or fine-tune")
    parser.add_argument(
        "--data",
        help="list file, folder of a data set, NAME:PATH (cityscapes, voc_aug, ade20k, hf, ...), "
        "or drawn",
    )
    parser.add_argument(
        "--val-data", help="the same for validation; needed where --data is a list file"
    )
    parser.add_argument("--root", help="folder that the paths in a list file start from")
    parser.add_argument("--out", help="folder for log and checkpoints")
    parser.add_argument("--epochs", type=int, help="passes over the training data")
    parser.add_argument("--batch-size", type=int, help="samples per step")
    parser.add_argument("--lr", type=float, help="base learning rate")
    parser.add_argument("--workers", type=int, help="processes that prepare samples")
    parser.add_argument("--seed", type=int, help="decides weights, order and augmentation")
    add_device(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
        help="any other setting of TrainConfig, e.g. --set crop=256,256; may be repeated",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on from the last state in OUT")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.training.config import parse_settings
    from torchseg_zoo.training.loop import train
    from torchseg_zoo.training.recipes import recipe

    changes = {
        name: getattr(options, name) for name in _FIELDS if getattr(options, name) is not None
    }
    changes |= parse_settings(options.settings)
    config = recipe(options.recipe, **changes)
    result = train(config, resume=options.resume)
    print(f"best {result.best} (mIoU {result.miou_percent:.2f} % after epoch {result.epoch})")
    print(f"log  {result.log}")
    return 0
