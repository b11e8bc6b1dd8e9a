"""A small manifest: one checkpoint of each kind that the commands of ``weights`` tell apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopback import content

from torchseg_zoo.weights import manifest, released

FOREIGN = "bisenet_x39.cityscapes"  # a file of TorchSeg's layout, no digest published
PREFIX = "pspnet_r50.cityscapes"  # 8 digits published
FULL = "fcn_r50.voc"  # full digest and size; may be used commercially
DRIVE = "dfn_r101.voc"  # on Google Drive: no name, no digest
EMBEDDED = "bisenet_x39.camvid"
DATA = {PREFIX: content(2 << 20, 1), FULL: content(30_000, 2)}
REAL = json.loads(manifest.manifest_path().read_text(encoding="utf-8"))

Declare = Callable[[list[dict[str, Any]]], None]


def real(name: str, **changes: Any) -> dict[str, Any]:
    """An entry of the real manifest, altered."""
    model, _, tag = name.partition(".")
    entry = next(e for e in REAL["checkpoints"] if (e["model"], e["tag"]) == (model, tag))
    return {**entry, **changes}


def write_manifest(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({**REAL, "checkpoints": records}))
    return path


def source_of(cache: Path) -> str:
    """The digest that ``FOREIGN`` as it was downloaded is kept under."""
    with released.Cache(cache) as opened:
        digest = released.source_digest(opened, manifest.load()[FOREIGN])
    assert digest
    return digest
