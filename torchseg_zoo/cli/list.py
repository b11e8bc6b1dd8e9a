"""``torchseg-zoo list``: names of models and checkpoints."""

from __future__ import annotations

import argparse

from torchseg_zoo.cli._checkpoints import add_commercial, only_commercial
from torchseg_zoo.cli.weights_list import show
from torchseg_zoo.registry import list_models
from torchseg_zoo.weights import manifest

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("list", help="names of models and checkpoints")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcards, e.g. 'bisenet*'")
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="checkpoints instead of models, as `torchseg-zoo weights list` shows them",
    )
    add_commercial(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.pretrained or options.commercial_ok:
        names = list_models(options.pattern, pretrained=True)
        entries = [manifest.load()[name] for name in names]
        show(only_commercial(entries) if options.commercial_ok else entries)
        return 0
    for name in list_models(options.pattern):
        print(name)
    return 0
