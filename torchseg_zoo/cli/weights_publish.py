"""``torchseg-zoo weights publish``: released checkpoints into a repository of one's own."""

from __future__ import annotations

import argparse

from torchseg_zoo.cli._checkpoints import named

__all__ = ["add_parsers"]


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``publish``."""
    parser = verbs.add_parser(
        "publish",
        help="convert, verify and upload checkpoints to the Hugging Face hub",
        description="Converts, verifies and uploads checkpoints with their cards, and writes their "
        "new sources, at a commit and with full digests, into this checkout's manifest. What the "
        "hub has already is not sent again. Log in first: `hf auth login`, or HF_TOKEN.",
    )
    parser.add_argument("names", nargs="+", metavar="MODEL.TAG", help="wildcards work, in quotes")
    parser.add_argument("--to", required=True, metavar="ORG/REPO", help="created if need be")
    parser.add_argument(
        "--responsible",
        default="",
        metavar="NAME",
        help="who takes responsibility for publishing weights whose licence is not stated; it "
        "goes into their cards",
    )
    parser.add_argument("--private", action="store_true", help="a new repository is not public")
    parser.add_argument(
        "--dry-run", action="store_true", help="convert, verify and compare; change nothing"
    )
    parser.set_defaults(run=_publish)


def _publish(options: argparse.Namespace) -> int:
    names = [entry.name for entry in named(options.names)]

    from torchseg_zoo.models.publish import publish

    count = 0
    for done in publish(
        names,
        options.to,
        responsible=options.responsible,
        private=options.private or None,
        dry_run=options.dry_run,
    ):
        what = "to upload" if options.dry_run else "uploaded"
        state = what if done.uploaded else "there already"
        print(f"{done.name}  {state}  {done.size_bytes / 1e6:.1f} MB  sha256 {done.sha256}")
        print(f"  hf://{done.location}", flush=True)
        count += done.uploaded
    if not options.dry_run:
        print(f"{count} of {len(names)} uploaded; the manifest names them all")
    return 0
