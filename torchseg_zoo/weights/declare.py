"""Published native files, written into the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torchseg_zoo.files import atomic_write
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.manifest import Checkpoint, Source

__all__ = ["declare_published", "held_by"]

# What is told of a foreign file once the entry points to a native one.
_TOLD = ("layout", "sha256", "size_bytes", "sources", "channel_order", "unverified")


def held_by(repo_id: str, entry: Checkpoint) -> Source | None:
    """The entry's source that is a file of this repository on the hub, if it has one."""
    on_hub = (source for source in entry.sources if source.kind == "hf")
    return next((source for source in on_hub if source.location.startswith(f"{repo_id}@")), None)


def declare_published(
    entry: Checkpoint, location: str, *, config: Mapping[str, Any], sha256: str, size_bytes: int
) -> None:
    """Makes the manifest's entry that of a published native file.

    Args:
        entry: as it is.
        location: ``org/repo@commit/file``.
        config: the model's configuration as the file's shapes have decided it.
        sha256: digest of the file, in hex.
        size_bytes: its length.

    Raises:
        DataError: if the manifest cannot be written.
    """
    path = manifest.manifest_path()
    record = json.loads(path.read_text(encoding="utf-8"))
    for found in record["checkpoints"]:
        if (found["model"], found["tag"]) == (entry.model, entry.tag):
            _point_to(found, location, sha256)
            found |= {"config": config, "sha256": sha256, "size_bytes": size_bytes}
    atomic_write(path, lambda file: file.write(manifest.dump(record).encode()))
    manifest.load.cache_clear()


def _point_to(found: dict[str, Any], location: str, sha256: str) -> None:
    source = {"kind": "hf", "location": location}
    if found["layout"] == "native":
        # Where the file is another one now, the other sources hold what was corrected since.
        repo_id = location.partition("@")[0]
        others = [
            other
            for other in found["sources"]
            if found["sha256"] == sha256 and not other["location"].startswith(f"{repo_id}@")
        ]
        embedded = [other for other in others if other["kind"] == "embedded"]
        found["sources"] = [*embedded, source, *(o for o in others if o not in embedded)]
    else:
        found["converted_from"] = {key: found[key] for key in _TOLD if key in found}
        found |= {"layout": "native", "sources": [source]}
        found.pop("channel_order", None)
    if found.get("status", "listed") == "listed":
        found["status"] = "loaded"
    # The shapes of the converted file have decided these.
    doubtful = [name for name in found.pop("unverified", ()) if not name.startswith("config.")]
    if doubtful:
        found["unverified"] = doubtful
