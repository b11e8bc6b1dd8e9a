"""Which models the page offers, and which of them are on this machine. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from torchseg_zoo.demo.config import DemoConfig
from torchseg_zoo.errors import UnknownCheckpointError
from torchseg_zoo.files import printable
from torchseg_zoo.registry import known_model
from torchseg_zoo.weights import manifest, terms
from torchseg_zoo.weights.cache import Cache, cache_root
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.released import (
    fetch_released,
    is_embedded,
    native_digest,
    source_digest,
    urls_of,
)

__all__ = ["OWN_FILE", "Choice", "Shelf"]

OWN_FILE = "own file"
"""Name of the choice that stands for ``DemoConfig.checkpoint``."""

_PLACES = {"hf": "the Hugging Face hub", "gdrive": "Google Drive", "file": "a file"}


@dataclass(frozen=True)
class Choice:
    """One model of the page.

    Args:
        name: ``"model.tag"``, or ``OWN_FILE``.
        title: what the list shows.
        here: whether it is on this machine.
        offer: what fetching it means, if it is not.
    """

    name: str
    title: str
    here: bool
    offer: str = ""


class Shelf:
    """The models that a demo offers.

    Args:
        config: says which.

    Raises:
        UnknownModelError, UnknownCheckpointError: if ``config.model`` names no checkpoint.
    """

    def __init__(self, config: DemoConfig) -> None:
        self._config = config
        if config.checkpoint is None:
            model, _, tag = config.model.partition(".")
            known_model(model)
            self.first = manifest.find(model, tag).name
        else:
            self.first = OWN_FILE

    def choices(self) -> list[Choice]:
        """What there is now, models on this machine first."""
        with Cache(cache_root()) as cache:
            entries = [(entry, _is_here(entry, cache)) for entry in manifest.list_checkpoints()]
        choices = [
            Choice(
                entry.name,
                entry.name if here else f"{entry.name} · to download, {_size(entry)}",
                here,
                "" if here else _offer(entry),
            )
            for entry, here in sorted(entries, key=lambda pair: not pair[1])
            if here or (self._config.downloads and entry.sources) or entry.name == self.first
        ]
        if self._config.checkpoint is not None:
            title = printable(Path(self._config.checkpoint).name)
            choices.insert(0, Choice(OWN_FILE, title, True))
        return choices

    def find(self, name: object) -> Choice:
        """The choice of this name.

        Raises:
            UnknownCheckpointError: if the page does not offer it.
        """
        found = next((choice for choice in self.choices() if choice.name == name), None)
        if found is None:
            raise UnknownCheckpointError(
                "this model is not offered here",
                where=printable(name),
                fix="choose one of the list",
            )
        return found

    def fetch(self, name: object) -> None:
        """Downloads a checkpoint into the cache.

        Raises:
            UnknownCheckpointError: as ``find``.
            DownloadError, IntegrityError, CacheError: as ``weights.fetch``.
        """
        choice = self.find(name)
        if not choice.here:
            fetch_released(manifest.load()[choice.name])


def _is_here(entry: Checkpoint, cache: Cache) -> bool:
    if is_embedded(entry):
        return True
    digests = source_digest(cache, entry), native_digest(cache, entry)
    return any(digest and cache.has(digest) for digest in digests)


def _size(entry: Checkpoint) -> str:
    return "size unknown" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.0f} MB"


def _offer(entry: Checkpoint) -> str:
    url = urlsplit(urls_of(entry)[0])
    host = _PLACES.get(url.scheme, url.netloc)
    return (
        f"{entry.name} is not on this machine yet. To download: {_size(entry)}, from {host}. "
        f"Licences: {terms.said(entry)}."
    )
