"""A released checkpoint as files of the cache: fetched, and where its converted form lies.

What is downloaded lies under its own digest. So does the native file that a foreign one is
converted into, once; ``conversion_key`` names the pin that leads there. Free of torch.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from torchseg_zoo._version import __version__
from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.weights import manifest, sources
from torchseg_zoo.weights.cache import Cache, cache_root, url_key
from torchseg_zoo.weights.fetch import fetch
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.progress import first_rank, say
from torchseg_zoo.weights.terms import said

__all__ = [
    "conversion_key",
    "conversion_name",
    "fetch_released",
    "is_conversion",
    "is_embedded",
    "member_of",
    "native_digest",
    "recognised",
    "source_digest",
    "tell_terms",
    "urls_of",
]

# What a browser makes of a name that is taken: "file (1).pth".
_NUMBERED = re.compile(r" ?\(\d+\)(?=\.|$)")
_CONVERTED = ", converted"


def is_embedded(checkpoint: Checkpoint) -> bool:
    """Whether it comes with the package, so that there is nothing to fetch."""
    return bool(checkpoint.sources) and not any(source.url for source in checkpoint.sources)


def member_of(checkpoint: Checkpoint) -> str:
    """The checkpoint's name inside the archive that its sources give; "" if they give itself."""
    return checkpoint.sources[0].member if checkpoint.sources else ""


def urls_of(checkpoint: Checkpoint) -> list[str]:
    """The sources of one and the same file: those that pack it as the first one does.

    Raises:
        CheckpointFormatError: if there is none, because it should have come with the package.
    """
    member = member_of(checkpoint)
    urls = [source.url for source in checkpoint.sources if source.member == member and source.url]
    if not urls:
        raise CheckpointFormatError(
            f"the weights of {checkpoint.name} are not in this installation",
            fix="reinstall torchseg-zoo",
        )
    return urls


def fetch_released(
    checkpoint: Checkpoint, *, cache_dir: str | os.PathLike[str] | None = None
) -> Path:
    """The file behind a checkpoint's sources, from the cache or downloaded; see ``fetch``.

    What the licences say is told at the first time.

    Raises:
        CheckpointFormatError: as ``urls_of``.
        DownloadError, IntegrityError, CacheError: as ``fetch``.
    """
    path = fetch(
        urls_of(checkpoint),
        sha256=checkpoint.sha256 or None,
        size=checkpoint.size_bytes,
        cache_dir=cache_dir,
    )
    tell_terms(checkpoint)
    return path


def tell_terms(checkpoint: Checkpoint) -> None:
    """Prints a checkpoint's licences, once for a cache: on stderr, by the first rank.

    They are told again if they change. A cache that cannot be written to stays as it is; whoever
    filled it has been told.
    """
    if not first_rank():
        return
    terms = f"{checkpoint.name} licences: {said(checkpoint)}"
    with suppress(OSError), Cache(cache_root()) as cache:
        if cache.first_time(url_key(f"terms:{terms}"), terms):
            say(terms)


def source_digest(cache: Cache, checkpoint: Checkpoint) -> str:
    """The full digest of what its sources give: published, or pinned; "" while it is unknown."""
    if len(checkpoint.sha256) == 64:
        return checkpoint.sha256
    places = [sources.parse(url) for url in urls_of(checkpoint)]
    pin = cache.pin_of(place.key for place in places if place.kind != "file")
    return pin.sha256 if pin is not None and pin.sha256.startswith(checkpoint.sha256) else ""


def conversion_key(checkpoint: Checkpoint, source_sha256: str) -> str:
    """Everything that the bytes of the converted file depend on, as the name of a pin."""
    parts = {
        "source": source_sha256,
        "member": member_of(checkpoint),
        "layout": checkpoint.layout,
        "config": dict(checkpoint.config),
        "unverified": checkpoint.unverified,
        "channel_order": checkpoint.channel_order,
        "preprocess": checkpoint.preprocess.to_dict(),
        "labels": checkpoint.labels.to_dict(),
        "version": __version__,
    }
    return url_key("converted:" + json.dumps(parts, sort_keys=True))


def conversion_name(checkpoint: Checkpoint) -> str:
    """How the cache calls a converted file."""
    return checkpoint.name + _CONVERTED


def is_conversion(source: str) -> bool:
    """Whether a pin or stamp with this source is of a converted file."""
    return source.endswith(_CONVERTED)


def native_digest(cache: Cache, checkpoint: Checkpoint) -> str:
    """The digest of the native file that loading reads; "" while there is none."""
    source = source_digest(cache, checkpoint)
    if checkpoint.layout == "native" or not source:
        return source
    pin = cache.pin_of([conversion_key(checkpoint, source)])
    return pin.sha256 if pin else ""


def recognised(name: str, sha256: str) -> list[Checkpoint]:
    """The released checkpoints that a file may be.

    Args:
        name: of the file.
        sha256: its full digest.

    Returns:
        Those whose published digest, or beginning of it, it has; without any, those whose source
        has its name. The latter may turn out to be other files.
    """
    entries = manifest.list_checkpoints()
    by_digest = [entry for entry in entries if entry.sha256 and sha256.startswith(entry.sha256)]
    plain = _NUMBERED.sub("", name)
    return by_digest or [entry for entry in entries if plain in _file_names(entry)]


def _file_names(checkpoint: Checkpoint) -> set[str]:
    urls = [] if is_embedded(checkpoint) else urls_of(checkpoint)
    return {
        PurePosixPath(unquote(urlsplit(url).path)).name
        for url in urls
        if not url.startswith("gdrive:")  # its addresses have no names
    }
