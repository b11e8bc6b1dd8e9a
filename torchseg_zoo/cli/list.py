"""``torchseg-zoo list``: names of models and checkpoints."""

from __future__ import annotations

import argparse

from torchseg_zoo.registry import list_models

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("list", help="names of models and checkpoints")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcards, e.g. 'bisenet*'")
    parser.add_argument(
        "--pretrained", action="store_true", help="checkpoints as MODEL.TAG instead of models"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    for name in list_models(options.pattern, pretrained=options.pretrained):
        print(name)
    return 0
