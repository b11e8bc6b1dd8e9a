"""``torchseg-zoo weights verify`` and ``prune``: the local cache, checked and cleared."""

from __future__ import annotations

import argparse
import sys

from torchseg_zoo.cli._checkpoints import add_names, named

__all__ = ["add_parsers"]


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the two verbs."""
    parser = verbs.add_parser(
        "verify",
        help="hash what the cache holds, downloaded and converted, and say what is damaged",
        description="Hashes the files of the cache anew, and the embedded ones. A damaged file is "
        "not used again. Exit 13 if one is damaged, 3 if a checkpoint asked for is not here.",
    )
    add_names(parser, all_of_them=False)
    parser.set_defaults(run=_verify)

    parser = verbs.add_parser(
        "prune",
        help="remove what interrupted work and older versions have left in the cache",
        description="Removes partial files without a living writer, and files that another version "
        "has converted. Nothing is removed that a process has open, or that was touched within the "
        "last minute.",
    )
    parser.add_argument(
        "--downloads",
        action="store_true",
        help="also downloads whose converted form is here; only that is read",
    )
    parser.add_argument(
        "--unused",
        type=float,
        metavar="DAYS",
        help="also files that were not read for so long (where the disk keeps times of access)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.set_defaults(run=_prune)


def _verify(options: argparse.Namespace) -> int:
    from torchseg_zoo.errors import IntegrityError
    from torchseg_zoo.files import printable
    from torchseg_zoo.weights.verify import verify

    entries = named(options.names) if options.names else None
    seen, damaged = [], 0
    for file in verify(entries):
        seen.append(file.name)
        state = "damaged" if file.damage else "whole"
        size = f"{file.size_bytes / 1e6:.1f} MB"
        print(f"{state:<7}  {file.name}  {file.kind}  {size}  {printable(file.path)}", flush=True)
        if file.damage:
            damaged += 1
            print(f"{'':7}  {file.damage}; {file.fix}")
    absent = [entry.name for entry in entries or [] if entry.name not in seen]
    for name in absent:
        print(f"torchseg-zoo: {name} is not here; weights fetch {name} gets it", file=sys.stderr)
    if damaged:
        raise IntegrityError(f"{damaged} of {len(seen)} files are damaged", fix="see above")
    return 3 if absent else 0


def _prune(options: argparse.Namespace) -> int:
    from torchseg_zoo.errors import ArgumentError
    from torchseg_zoo.files import printable
    from torchseg_zoo.weights.prune import prune

    if options.unused is not None and not options.unused >= 0:
        raise ArgumentError(
            f"{options.unused} is no number of days", where="--unused", fix="give 0 or more"
        )
    count = size_bytes = 0
    verb = "would remove" if options.dry_run else "removed"
    for file in prune(
        downloads=options.downloads, unused_days=options.unused, dry_run=options.dry_run
    ):
        count, size_bytes = count + 1, size_bytes + file.size_bytes
        print(f"{verb}  {file.size_bytes / 1e6:.1f} MB  {printable(file.path)}: {file.why}")
    print(f"{verb} {count} files, {size_bytes} bytes ({size_bytes / 1e6:.1f} MB)")
    return 0
