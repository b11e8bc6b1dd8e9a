"""Declares a model as a released checkpoint, in a manifest that lasts for one test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import save_model
from torchseg_zoo.weights import load, manifest

TAG = "testset.tiny"


def entry_of(model: SegmentationModel, file: Path) -> dict[str, Any]:
    """The manifest entry of a model whose tensors are in ``file``."""
    return {
        "model": model.config.model,
        "tag": TAG,
        "config": model.config.to_dict(),
        "sources": [{"kind": "embedded", "location": file.name}],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "size_bytes": file.stat().st_size,
        "layout": "native",
        "preprocess": model.preprocess.to_dict(),
        "labels": model.labels.name,
        "licenses": {"code": "MIT", "weights": "none", "dataset": "none"},
        "origin": "a test",
        "status": "loaded",
    }


def record_of(model: SegmentationModel, file: Path, **changes: Any) -> dict[str, Any]:
    """A whole manifest with that one entry; its label set must be among the known ones."""
    return {"checkpoints": [{**entry_of(model, file), **changes}], "unreleased": []}


@contextmanager
def declare(
    model: SegmentationModel, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> Iterator[None]:
    """Makes ``model`` the only released checkpoint, as ``<its name>.<TAG>``.

    Args:
        model: what is released.
        folder: where its file and manifest go.
        monkeypatch: puts everything back after the test.
        changes: fields of the manifest's entry that differ from what ``entry_of`` gives.
    """
    file = folder / "tiny.safetensors"
    save_model(model, file)
    path = folder / "weights_manifest.json"
    path.write_text(json.dumps(record_of(model, file, **changes)))
    monkeypatch.setitem(LABEL_SETS, model.labels.name, model.labels)
    monkeypatch.setattr(manifest, "manifest_path", lambda: path)
    monkeypatch.setattr(load, "EMBEDDED", folder)
    manifest.load.cache_clear()
    try:
        yield
    finally:
        manifest.load.cache_clear()
