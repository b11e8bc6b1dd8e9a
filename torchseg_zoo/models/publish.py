"""Released checkpoints as native files in a repository on the Hugging Face hub.

Each checkpoint gets a folder of its own name with its weights, configuration and card; the
repository's own card lists them all. The manifest is written after each one, so that an interrupted
publication goes on where it stopped: what the hub has already under the same digest stays.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DownloadError,
    IntegrityError,
    listed,
)
from torchseg_zoo.files import sha256_of
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.build import released_file
from torchseg_zoo.models.card import collection_card, model_card
from torchseg_zoo.models.checkpoint import describe_model, load_model, save_model
from torchseg_zoo.models.hub_client import WEIGHTS, hub_errors
from torchseg_zoo.models.hub_save import describing_files
from torchseg_zoo.registry import create_model
from torchseg_zoo.weights import manifest, sources
from torchseg_zoo.weights.addresses import hub_endpoint
from torchseg_zoo.weights.declare import declare_published, held_by
from torchseg_zoo.weights.load import read_meta
from torchseg_zoo.weights.manifest import Checkpoint

__all__ = ["Published", "publish"]

_UNKNOWN = ("", "not stated")
_TRIAL_PX = 128  # side of the picture that a file must give finite logits for


@dataclass(frozen=True)
class Published:
    """What became of one checkpoint.

    Args:
        name: ``model.tag``.
        location: ``org/repo@commit/file``; without a commit if nothing was done.
        sha256: digest of the native file, in hex.
        size_bytes: its length.
        uploaded: whether its bytes went to the hub, or would have gone in a dry run; otherwise the
            hub had them already.
    """

    name: str
    location: str
    sha256: str
    size_bytes: int
    uploaded: bool


def publish(
    names: Sequence[str],
    repo_id: str,
    *,
    responsible: str = "",
    private: bool | None = None,
    dry_run: bool = False,
) -> Iterator[Published]:
    """Converts, verifies and uploads checkpoints, and writes their new sources into the manifest.

    What can be refused is refused before the first one is touched. The token is the one that the
    hub's client knows (``hf auth login`` or ``HF_TOKEN``).

    Args:
        names: ``model.tag``, each.
        repo_id: ``org/repo``; created if need be.
        responsible: the person or organisation that takes responsibility for publishing weights
            whose licence is not stated; it goes into their cards.
        private: whether a new repository is for its owners only.
        dry_run: convert and verify, and ask the hub what it has; change nothing there and nothing
            in the manifest.

    Returns:
        An iterator that does the work, one checkpoint at a time.

    Raises:
        ArgumentError: if the licence of a checkpoint's weights is not stated and nobody takes
            responsibility, or the manifest in use is not a checkout's.
        UnknownModelError, UnknownCheckpointError: if one does not exist.
        DownloadError: if a file cannot be had, or the hub cannot be reached or refuses.
        IntegrityError: if a file, here or on the hub, is not what it should be.
        CheckpointFormatError: if a file does not rebuild its model, or the model does not work.
    """
    entries = {entry.name: entry for entry in map(_named, names)}
    if not entries:
        raise ArgumentError("there is nothing to publish", fix="name checkpoints as MODEL.TAG")
    _check_licences(list(entries.values()), responsible)
    if variable := sources.offline():
        raise DownloadError("cannot publish offline", where=repo_id, fix=f"unset {variable}")
    if not dry_run:
        _check_manifest(manifest.manifest_path())
    hub = _Hub(repo_id, private)
    return _publish(hub, list(entries.values()), responsible, dry_run)


def _named(name: str) -> Checkpoint:
    model, _, tag = name.partition(".")
    return manifest.find(model, tag)


def _check_licences(entries: Sequence[Checkpoint], responsible: str) -> None:
    unknown = [e.name for e in entries if e.licenses.get("weights", "") in _UNKNOWN]
    if not unknown or responsible.strip():
        return
    raise ArgumentError(
        f"the licence of the weights is not stated: {listed(unknown)}",
        where="responsible",
        why="a repository's licence does not cover its weights",
        fix="ask the owners, or say who takes responsibility: responsible= (--responsible NAME)",
    )


def _check_manifest(path: Path) -> None:
    package = Path(__file__).parents[1]
    if path.is_relative_to(package):
        raise ArgumentError(
            "this is the manifest of an installation, which the next update replaces",
            where=path,
            fix="publish from a checkout (pip install -e .)",
        )


def _publish(
    hub: _Hub, entries: Sequence[Checkpoint], responsible: str, dry_run: bool
) -> Iterator[Published]:
    for entry in entries:
        with tempfile.TemporaryDirectory(prefix="torchseg_zoo-") as folder:
            done = _publish_one(hub, entry, responsible, dry_run, Path(folder))
        yield done
    if not dry_run:
        mine = [e for e in manifest.list_checkpoints() if held_by(hub.repo_id, e)]
        if files := hub.changed({"README.md": collection_card(mine)}):
            hub.commit(files, "List of checkpoints")


def _publish_one(
    hub: _Hub, entry: Checkpoint, responsible: str, dry_run: bool, folder: Path
) -> Published:
    model, path = _native(entry, folder)
    sha256 = sha256_of(path, error=DownloadError)
    _check_model(model, path)
    unknown = entry.licenses.get("weights", "") in _UNKNOWN
    card = model_card(model, entry, responsible=responsible if unknown else "", declared=True)
    name = f"{entry.name}/{WEIGHTS}"
    commit = hub.commit_with(name, sha256)
    size_bytes = path.stat().st_size
    done = Published(entry.name, f"{hub.repo_id}/{name}", sha256, size_bytes, not commit)
    if dry_run:
        return done
    files: dict[str, Path | bytes] = {} if commit else {name: path}
    files |= hub.changed(describing_files(model, card), entry.name)
    if files:
        commit = hub.commit(files, f"{entry.name}, sha256 {sha256[:8]}")
    if hub.commit_with(name, sha256, revision=commit) != commit:
        raise IntegrityError(
            f"the hub does not hold what was sent, sha256 {sha256}",
            where=f"hf://{hub.repo_id}@{commit}/{name}",
            fix="publish it again",
        )
    before = held_by(hub.repo_id, entry)
    if before is not None:  # what users of this manifest have already need not move
        earlier = before.location.partition("@")[2].partition("/")[0]
        commit = hub.commit_with(name, sha256, revision=earlier) or commit
    location = f"{hub.repo_id}@{commit}/{name}"
    config = model.config.to_dict()
    declare_published(entry, location, config=config, sha256=sha256, size_bytes=size_bytes)
    return replace(done, location=location)


def _native(entry: Checkpoint, folder: Path) -> tuple[SegmentationModel, Path]:
    """The model and its native file, whose header says of it what the manifest says.

    A preprocessing or label set that was corrected since the file was published is in the manifest
    only; the file is then written anew, into ``folder``.
    """
    model = create_model(entry.name)
    path = released_file(type(model), entry)
    if entry.layout == "native":
        sha256 = sha256_of(path, error=DownloadError)
        if sha256 != entry.sha256:
            raise IntegrityError(
                f"sha256 is {sha256}, not {entry.sha256}", where=path, fix="fetch it again"
            )
    told, wanted = read_meta(path), json.loads(json.dumps(describe_model(model)))
    if told == wanted:
        return model, path
    embedded = any(source.kind == "embedded" for source in entry.sources)
    if embedded or any(told.get(key) != wanted[key] for key in ("family", "config")):
        raise CheckpointFormatError(
            f"its header describes another model than the manifest's {entry.name}",
            where=path,
            fix="correct the manifest's entry, or write the embedded file anew",
        )
    anew = folder / WEIGHTS
    save_model(model, anew)
    return model, anew


def _check_model(model: SegmentationModel, path: Path) -> None:
    """Rebuilds the model from its file alone, strictly, and runs it."""
    rebuilt = load_model(path)
    size = model.input_rule.nearest(_TRIAL_PX, _TRIAL_PX)
    ramp = torch.linspace(-2, 2, size[0] * size[1]).reshape(1, 1, *size)
    with torch.inference_mode():
        logits = rebuilt(ramp.expand(-1, model.config.in_channels, -1, -1))
    if logits.shape != (1, model.num_classes, *size) or not torch.isfinite(logits).all():
        raise CheckpointFormatError(
            "the model does not give finite logits", where=path, fix="do not publish this file"
        )


class _Hub:
    """One repository on the hub, through the hub's own client."""

    def __init__(self, repo_id: str, private: bool | None) -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import (  # type: ignore[attr-defined,unused-ignore]
            validate_repo_id,
        )

        try:
            validate_repo_id(repo_id)
            if repo_id.count("/") != 1:
                raise HFValidationError("it has no organisation")
        except HFValidationError as error:
            raise ArgumentError(
                f"{repo_id!r} is no repository",
                where="repo_id",
                why=str(error),
                fix="give ORG/REPO",
            ) from error
        self.repo_id, self._private = repo_id, private
        self._api = HfApi(endpoint=hub_endpoint())
        self._made = False

    def commit_with(self, name: str, etag: str, *, revision: str = "main") -> str:
        """The commit that a revision is, if it has a file with this name and content; else ""."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import (
            EntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        url = hf_hub_url(self.repo_id, name, revision=revision, endpoint=hub_endpoint())
        with hub_errors(f"hf://{self.repo_id}"):
            try:
                found = self._api.get_hf_file_metadata(url=url)
            except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError):
                return ""
        return str(found.commit_hash) if found.etag == etag else ""

    def changed(self, texts: Mapping[str, str], folder: str = "") -> dict[str, Path | bytes]:
        """Those texts that the repository does not have like this, by their paths in it."""
        contents = {f"{folder}/{name}".lstrip("/"): text.encode() for name, text in texts.items()}
        return {
            path: data
            for path, data in contents.items()
            if not self.commit_with(path, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
        }

    def commit(self, files: Mapping[str, Path | bytes], message: str) -> str:
        """Writes files in one commit and returns its id."""
        from huggingface_hub import CommitOperationAdd

        with hub_errors(f"hf://{self.repo_id}"):
            if not self._made:
                self._api.create_repo(self.repo_id, private=self._private, exist_ok=True)
                self._made = True
            adds = [CommitOperationAdd(name, content) for name, content in files.items()]
            info = self._api.create_commit(self.repo_id, adds, commit_message=message)
        return str(info.oid)
