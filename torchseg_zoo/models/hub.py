"""Models on the Hugging Face hub: from a repository or folder, into one, and up to the hub.

The names and keywords are those of ``huggingface_hub.PyTorchModelHubMixin``, which is not inherited
for two reasons: importing it takes longer than importing torch, and its own loading falls back to
unpickling ``pytorch_model.bin`` in this process, with whatever keys it has. Here weights come
from safetensors, strictly; a ``.bin`` goes through the guarded child.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DataError,
    DownloadError,
    IntegrityError,
    ZooError,
)
from torchseg_zoo.files import atomic_write, make_folder, open_regular, printable, sha256_of
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.card import eval_results, model_card
from torchseg_zoo.models.checkpoint import model_from_meta
from torchseg_zoo.models.description import describe_model
from torchseg_zoo.weights import sources
from torchseg_zoo.weights.cache import Cache, cache_root
from torchseg_zoo.weights.fetch import fetch
from torchseg_zoo.weights.guard import read_foreign
from torchseg_zoo.weights.header import FORMAT, is_safetensors, read_header
from torchseg_zoo.weights.load import read_tensors
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.save import write_tensors

__all__ = [
    "describing_files",
    "from_pretrained",
    "hub_endpoint",
    "hub_errors",
    "push_to_hub",
    "save_pretrained",
]

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
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


def save_pretrained(
    model: SegmentationModel,
    save_directory: str | os.PathLike[str],
    *,
    checkpoint: Checkpoint | None = None,
    repo_id: str | None = None,
) -> None:
    """Writes a folder that ``from_pretrained`` reads and the hub understands, or nothing.

    It gets ``model.safetensors``, ``config.json``, ``preprocessor_config.json``, a model card as
    ``README.md``, and ``.eval_results``. Other files of an existing folder stay.

    Args:
        model: not a fused one.
        save_directory: created if need be.
        checkpoint: the manifest's entry whose weights these are; its scores and licences go into
            the card. A model that was trained further is no longer that checkpoint.
        repo_id: ``org/repo``, for the card's usage example.

    Raises:
        ArgumentError: if the model was fused.
        DataError: if the folder or a file cannot be written.
    """
    if model.fused:
        raise ArgumentError(
            f"{model.config.model} was fused for inference, so its tensors have other names",
            where="model",
            fix="save the model before fuse()",
        )
    folder = Path(save_directory)
    texts = describing_files(model, model_card(model, checkpoint, repo_id=repo_id))
    results = eval_results(checkpoint) if checkpoint else {}
    texts |= {f".eval_results/{name}": text for name, text in results.items()}
    with _staged(folder, [*texts, WEIGHTS]) as staged:
        for name, text in texts.items():
            data = text.encode()
            atomic_write(staged[name], lambda file, data=data: file.write(data))  # type: ignore[misc]
        write_tensors(staged[WEIGHTS], model.state_dict(), describe_model(model))


def describing_files(model: SegmentationModel, card: str) -> dict[str, str]:
    """What lies beside published weights: name → text of the configuration and the given card."""
    return {
        CONFIG: _json(_config_of(model)),
        PREPROCESSOR: _json(_preprocessor_of(model)),
        "README.md": card,
    }


def push_to_hub(
    model: SegmentationModel,
    repo_id: str,
    *,
    commit_message: str = "Push model using torchseg_zoo",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    allow_patterns: list[str] | str | None = None,
    ignore_patterns: list[str] | str | None = None,
    delete_patterns: list[str] | str | None = None,
    checkpoint: Checkpoint | None = None,
) -> str:
    """Uploads what ``save_pretrained`` writes, in one commit.

    Args:
        model: not a fused one.
        repo_id: ``org/repo``; created if need be.
        commit_message, private, token, branch, create_pr, allow_patterns, ignore_patterns,
            delete_patterns: as in ``huggingface_hub.PyTorchModelHubMixin.push_to_hub``.
        checkpoint: as in ``save_pretrained``.

    Returns:
        URL of the commit.

    Raises:
        ArgumentError: if the model was fused.
        DownloadError: if the hub cannot be reached, or refuses.
    """
    with tempfile.TemporaryDirectory(prefix="torchseg_zoo-") as folder:
        save_pretrained(model, folder, checkpoint=checkpoint, repo_id=repo_id)

        from huggingface_hub import HfApi

        with hub_errors(repo_id):
            api = HfApi(endpoint=hub_endpoint(), token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            if branch is not None:
                api.create_branch(repo_id, branch=branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )
    return str(commit.commit_url)


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
            if error.what != _NO_FILE:
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


_NO_FILE = "no such file on the hub"


@contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Turns what the hub's client raises into errors of ours.

    Raises:
        DownloadError: whatever the client raised.
    """
    try:
        yield
    except ZooError:
        raise
    # The client's transport has changed more than once, and with it what it raises.
    except Exception as error:
        kind = type(error).__name__
        status = getattr(getattr(error, "response", None), "status_code", None)
        if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
            what, fix = _NO_FILE, "check the repository, revision and file"
        elif kind == "LocalEntryNotFoundError":
            what, fix = "not in the cache, and not to be had", "try again with a connection"
        elif kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"):
            what, fix = "no such repository or revision on the hub", "check the name, and the token"
        elif status in (401, 403):
            what, fix = "the hub wants a login for this", "run `hf auth login` or set HF_TOKEN"
        else:
            what, fix = "the hub cannot be reached, or refuses", "try again later"
        why = f"{kind}: {' '.join(str(error).split())[:200]}"
        raise DownloadError(what, where=printable(where), why=printable(why), fix=fix) from error


def hub_endpoint() -> str | None:
    """The hub's address where the user has set another one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


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


def _config_of(model: SegmentationModel) -> dict[str, Any]:
    names = model.labels.classes
    return {
        "library_name": "torchseg_zoo",
        **describe_model(model),
        # What other tools of the hub look for.
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _preprocessor_of(model: SegmentationModel) -> dict[str, Any]:
    """The preprocessing in the words that other tools of the hub use."""
    preprocess = model.preprocess
    return {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "torchseg_zoo": preprocess.to_dict(),
    }


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@contextmanager
def _staged(folder: Path, names: list[str]) -> Iterator[dict[str, Path]]:
    """Temporary paths beside the final ones; all are renamed when the block has succeeded.

    The weights are renamed last: whoever reads in between finds them and the configuration telling
    of two models, and is told so.
    """
    existed = folder.exists()
    make_folder(folder)
    token = secrets.token_hex(8)
    parents = {folder / name: (folder / name).parent for name in names}
    made = [make_folder(parent) for parent in parents.values() if not parent.exists()]
    staged = {name: (folder / name).with_name(f".tmp-{token}-{Path(name).name}") for name in names}
    try:
        for name in names:
            if (folder / name).is_dir():
                raise DataError(
                    "is a folder", where=printable(folder / name), fix="choose another folder"
                )
        yield staged
        for name, path in staged.items():
            path.replace(folder / name)
    except BaseException as error:
        for path in staged.values():
            with suppress(OSError):
                path.unlink()
        for parent in [*made, *([] if existed else [folder])]:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) and not isinstance(error, ZooError):
            raise DataError(
                "cannot be written", where=printable(folder), why=error.strerror
            ) from error
        raise
