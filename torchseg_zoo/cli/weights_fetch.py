"""``torchseg-zoo weights fetch``, ``import`` and ``mirror``: files into the cache, or a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from torchseg_zoo.cli._checkpoints import add_names, chosen, each
from torchseg_zoo.weights.manifest import Checkpoint

__all__ = ["add_parsers"]

_SHOWN = 5


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the three verbs."""
    parser = verbs.add_parser(
        "fetch",
        help="download checkpoints into the cache",
        description="Downloads and verifies checkpoints that the cache lacks, so that "
        "`pretrained=` works offline. One that cannot be had does not stop the others; exit 3.",
    )
    add_names(parser, all_of_them=True)
    parser.add_argument(
        "--convert",
        action="store_true",
        help="also convert files of other projects now instead of at first use, e.g. for a cache "
        "that will be read-only",
    )
    parser.set_defaults(run=_fetch)

    parser = verbs.add_parser(
        "import",
        help="put a file that was downloaded by hand into the cache",
        description="Recognises a file by its digest or its name, checks it, and copies it into "
        "the cache as if it had been fetched.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what was downloaded")
    parser.add_argument("--as", dest="name", metavar="MODEL.TAG", help="which checkpoint it is")
    parser.set_defaults(run=_import)

    parser = verbs.add_parser(
        "mirror",
        help="fill a folder that TORCHSEG_ZOO_MIRROR can point to",
        description="Fills a folder with the files of checkpoints, for machines without internet: "
        "TORCHSEG_ZOO_MIRROR may name the folder, as a path without blanks or a file:// URL, or "
        "any static web server that gives it. Files that are there and whole are kept; an "
        "interrupted download is resumed. One that cannot be had does not stop the others; exit 3.",
    )
    add_names(parser, all_of_them=True)
    parser.add_argument(
        "--to", required=True, type=Path, metavar="DIR", help="folder to fill; made if need be"
    )
    parser.set_defaults(run=_mirror)


def _fetch(options: argparse.Namespace) -> int:
    from torchseg_zoo.files import printable
    from torchseg_zoo.weights.released import fetch_released, is_embedded

    def work(entry: Checkpoint) -> None:
        if is_embedded(entry):
            print(f"{entry.name}  comes with the package")
            return
        path = fetch_released(entry)
        if options.convert and entry.layout != "native":
            from torchseg_zoo.registry import create_model

            create_model(entry.name)
        print(f"{entry.name}  {path.stat().st_size / 1e6:.1f} MB  {printable(path)}", flush=True)

    return each(chosen(options), work)


def _import(options: argparse.Namespace) -> int:
    from torchseg_zoo.errors import DataError
    from torchseg_zoo.files import printable, sha256_of
    from torchseg_zoo.weights.fetch import import_file
    from torchseg_zoo.weights.released import tell_terms, urls_of

    file: Path = options.file
    sha256 = sha256_of(file, error=DataError)
    entry = _meant(file, sha256, options.name)
    urls = urls_of(entry)
    if not entry.sha256:
        # Nothing is published to compare it with, and whatever is imported is pinned.
        from torchseg_zoo.models.check_file import check_file

        check_file(entry, file)
    path = import_file(file, urls, sha256=entry.sha256 or None, size=entry.size_bytes)
    tell_terms(entry)
    print(f"{entry.name}  sha256 {sha256}  {printable(path)}")
    return 0


def _meant(file: Path, sha256: str, name: str | None) -> Checkpoint:
    """The one checkpoint that a file is, as the user says or by its digest or name."""
    from torchseg_zoo.cli._checkpoints import named
    from torchseg_zoo.errors import ArgumentError
    from torchseg_zoo.files import printable
    from torchseg_zoo.weights.released import is_embedded, recognised

    if name is not None:
        entries = named([name])
        if len(entries) != 1:
            raise ArgumentError(f"{name} is not one checkpoint", where="--as", fix="add its tag")
        if is_embedded(entries[0]):
            raise ArgumentError(
                f"{name} comes with the package", where="--as", fix="there is nothing to import"
            )
        return entries[0]
    entries = recognised(file.name, sha256)
    if len(entries) == 1:
        return entries[0]
    found = " or ".join(entry.name for entry in entries[:_SHOWN])
    if len(entries) > _SHOWN:
        found += f" or one of {len(entries) - _SHOWN} more"
    raise ArgumentError(
        f"may be {found}" if found else "is not recognised by its digest or name",
        where=printable(file),
        why=f"sha256 {sha256}",
        fix="say which checkpoint it is: --as MODEL.TAG",
    )


def _mirror(options: argparse.Namespace) -> int:
    from torchseg_zoo.files import printable
    from torchseg_zoo.weights.mirror import Mirror
    from torchseg_zoo.weights.released import is_embedded

    entries = [entry for entry in chosen(options) if not is_embedded(entry)]
    with Mirror.open(options.to) as mirror:

        def work(entry: Checkpoint) -> None:
            file = mirror.add(entry)
            state = "fetched" if file.new else "kept"
            print(
                f"{state:<7}  {entry.name}  {file.size_bytes / 1e6:.1f} MB  {file.path.name}",
                flush=True,
            )

        code = each(entries, work)
    print(f"to use it: export TORCHSEG_ZOO_MIRROR={printable(options.to.absolute().as_uri())}")
    return code
