"""Models from the Hugging Face hub: out of a repository, or a folder that was made for it.

The names and keywords, here and in ``hub_save``, are those of
``huggingface_hub.PyTorchModelHubMixin``, which is not inherited for two reasons: importing it takes
longer than importing torch, and its own loading falls back to unpickling ``pytorch_model.bin`` in
this process, with whatever keys it has. Here weights come from safetensors, strictly; a ``.bin``
goes through the guarded child.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import CheckpointFormatError, DownloadError, IntegrityError
from torchseg_zoo.files import open_regular, printable, sha256_of
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import model_from_meta
from torchseg_zoo.models.hub_client import (
    CONFIG,
    NO_FILE,
    PICKLED,
    WEIGHTS,
    hub_errors,
)
from torchseg_zoo.weights import sources
from torchseg_zoo.weights.addresses import hub_endpoint
from torchseg_zoo.weights.cache import Cache, cache_root
from torchseg_zoo.weights.fetch import fetch
from torchseg_zoo.weights.guard import read_foreign
from torchseg_zoo.weights.header import FORMAT, is_safetensors, read_header
from torchseg_zoo.weights.load import read_tensors

__all__ = ["from_pretrained"]

_CONFIG_LIMIT = 1 << 20


def from_pretrained(
    repo_or_folder: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> SegmentationModel:
    """Rebuilds a model of any family from a hub repository or a folder; in evaluation mode.

    Args:
        repo_or_folder: ``"org/repo"``, or the folder that ``save_pretrained`` wrote.
        revision: branch, tag or commit of the repository.
        token: for private repositories; the one that the hub's client knows without it.
        cache_dir: where the hub's client keeps files; this package's cache and the client's own
            usual place without it.
        local_files_only: open no socket.
        force_download: fetch again what is cached.

    Raises:
        DownloadError: if there is no such repository, revision or file, or it cannot be reached.
        IntegrityError: if a file is not what the hub announced.
        UnsafeCheckpointError: if there is only a pickle, which asks for code to be run.
        CheckpointFormatError: if the files do not describe a model, or its weights do not fit.
    """
    folder = Path(repo_or_folder)
    if folder.is_dir():
        config_file, weights, mapped = folder / CONFIG, folder / WEIGHTS, False
        if not weights.exists() and (folder / PICKLED).exists():
            weights = folder / PICKLED
    else:
        repository = _Repository(
            os.fspath(repo_or_folder), revision, token, cache_dir, local_files_only, force_download
        )
        config_file = repository.config()
        weights, mapped = repository.weights(config_file.parent.name), True
    config = _read_config(config_file)
    return model_from_meta(config, _tensors(weights, config, mapped), where=printable(weights))


@dataclass(frozen=True)
class _Repository:
    """A repository on the hub, and how it is to be reached."""

    name: str
    revision: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool
    force: bool

    def config(self) -> Path:
        """``config.json`` in the client's cache, in a folder named by its commit."""
        return self._by_client(CONFIG, self.revision)

    def weights(self, commit: str) -> Path:
        """The weights of the same commit, which the branch may have left meanwhile."""
        try:
            return self._file(WEIGHTS, commit)
        except DownloadError as error:
            if error.what != NO_FILE:
                raise
            with suppress(DownloadError):
                return self._file(PICKLED, commit)
            raise

    def _file(self, name: str, commit: str) -> Path:
        url = f"hf://{self.name}@{commit}/{name}"
        if self.local_files_only:
            return _held(url) or self._by_client(name, commit)
        # A token or cache of its own is known to the client only.
        if self.token is None and self.cache_dir is None and not self.force:
            return fetch(url)
        return _verified(self._by_client(name, commit))

    def _by_client(self, name: str, revision: str | None) -> Path:
        from huggingface_hub import hf_hub_download

        where = f"hf://{self.name}@{revision or 'main'}/{name}"
        with hub_errors(where):
            return Path(
                hf_hub_download(
                    self.name,
                    name,
                    revision=revision,
                    token=self.token,
                    cache_dir=None if self.cache_dir is None else os.fspath(self.cache_dir),
                    local_files_only=self.local_files_only or bool(sources.offline()),
                    force_download=self.force,
                    endpoint=hub_endpoint(),
                )
            )


def _held(url: str) -> Path | None:
    """The file in this package's cache, without asking anybody."""
    with Cache(cache_root()) as cache:
        pin = cache.pin_of([sources.parse(url).key])
        return cache.find(pin.sha256) if pin else None


def _verified(path: Path) -> Path:
    """The client names large files by their digest, and trusts the connection for the rest."""
    announced = path.resolve().name
    if len(announced) == 64:
        found = sha256_of(path, error=DownloadError)
        if found != announced:
            raise IntegrityError(
                f"sha256 is {found}, not {announced}",
                where=printable(path),
                fix="call again with force_download=True",
            )
    return path


def _read_config(path: Path) -> dict[str, Any]:
    with open_regular(path, error=CheckpointFormatError) as file:
        text = file.read(_CONFIG_LIMIT + 1)
    try:
        if len(text) > _CONFIG_LIMIT:
            raise ValueError(f"it has more than {_CONFIG_LIMIT} bytes")
        record = json.loads(text)
        if not isinstance(record, dict):
            raise ValueError("it is not a record")
    except (ValueError, RecursionError) as error:
        raise CheckpointFormatError(
            "cannot be read",
            where=printable(path),
            why=f"{type(error).__name__}: {error}",
            fix="name a repository or folder that save_pretrained() wrote",
        ) from error
    return record


def _tensors(path: Path, config: Mapping[str, Any], mapped: bool) -> dict[str, Tensor]:
    """The weights; a file in a cache has no name, so what it begins with tells what it is."""
    if not is_safetensors(path):
        return read_foreign(path)
    described = _described(path)
    wanted = {key: config.get(key) for key in ("family", "config")}
    if described and {key: described.get(key) for key in wanted} != wanted:
        raise CheckpointFormatError(
            f"{CONFIG} and {WEIGHTS} describe two models",
            where=printable(path),
            why="one of them was replaced, or saving was interrupted",
            fix="save or publish the model again",
        )
    return read_tensors(path, mapped=mapped)


def _described(path: Path) -> Mapping[str, Any]:
    """What the weights' own header says of the model; nothing if others have written them."""
    with suppress(KeyError, RecursionError, json.JSONDecodeError):
        record = json.loads(read_header(path).metadata[FORMAT])
        if isinstance(record, dict):
            return record
    return {}
