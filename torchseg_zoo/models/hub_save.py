"""Models to the Hugging Face hub: into a folder that it understands, and up."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torchseg_zoo.errors import ArgumentError, DataError, ZooError
from torchseg_zoo.files import atomic_write, make_folder, printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.card import eval_results, model_card
from torchseg_zoo.models.description import describe_model
from torchseg_zoo.models.hub_client import CONFIG, PREPROCESSOR, WEIGHTS, hub_errors
from torchseg_zoo.weights.addresses import hub_endpoint
from torchseg_zoo.weights.manifest import Checkpoint
from torchseg_zoo.weights.save import write_tensors

__all__ = ["describing_files", "push_to_hub", "save_pretrained"]


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
