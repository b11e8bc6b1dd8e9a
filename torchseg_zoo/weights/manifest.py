"""The declared checkpoints; ``weights_manifest.json`` is the only place where one is declared."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import CheckpointFormatError, UnknownCheckpointError

__all__ = ["Checkpoint", "Metric", "Source", "find", "list_checkpoints", "load", "manifest_path"]

FILE_NAME = "weights_manifest.json"
SOURCE_KINDS = ("embedded", "hf", "https", "gdrive", "file")
STATUSES = ("listed", "loaded", "scored")


@dataclass(frozen=True)
class Source:
    """Where the bytes of a checkpoint are.

    Args:
        kind: ``embedded`` (a file name inside the package), ``hf``, ``https``, ``gdrive`` or
            ``file``.
        location: file name, URL or id, as the kind asks.
    """

    kind: str
    location: str


@dataclass(frozen=True)
class Metric:
    """One score, with all that is needed to measure it again.

    Args:
        dataset: e.g. ``"camvid"``.
        split: e.g. ``"val"``.
        mode: how pictures were scored, e.g. ``"whole"``, ``"sliding"``, ``"msf"``.
        miou_percent: mean intersection over union, 0..100.
        pixel_accuracy_percent: share of labelled pixels that are right, 0..100, where known.
        source: who measured it, in words.
        protocol: scales, flip, window, selection and the like, in words.
    """

    dataset: str
    split: str
    mode: str
    miou_percent: float
    pixel_accuracy_percent: float | None = None
    source: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """One released set of weights.

    Args:
        model: factory name.
        tag: ``dataset[.origin]``.
        config: the model's configuration, complete; a checkpoint rebuilds its own model.
        sources: where the bytes are, in order of preference.
        sha256: digest of the file in hex; 8 digits when only the published prefix is known, "" when
            nothing is.
        size_bytes: length of the file; ``None`` when unknown.
        layout: naming scheme of the tensors; ``native`` needs no conversion.
        preprocess: how pictures become input.
        labels: what the classes mean.
        metrics: scores with their protocols.
        licenses: ``code``, ``weights`` and ``dataset``, each in words.
        recipe: how it was trained, in words and figures.
        origin: who trained it.
        status: ``listed`` (from a public index), ``loaded`` (converted from the real file) or
            ``scored`` (a score was reproduced).
    """

    model: str
    tag: str
    config: Mapping[str, Any]
    sources: tuple[Source, ...]
    sha256: str
    size_bytes: int | None
    layout: str
    preprocess: Preprocess
    labels: LabelSet
    metrics: tuple[Metric, ...] = ()
    licenses: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    status: str = "listed"

    @property
    def name(self) -> str:
        """``model.tag``."""
        return f"{self.model}.{self.tag}"

    @classmethod
    def from_dict(
        cls, record: Mapping[str, Any], label_sets: Mapping[str, LabelSet], *, where: str
    ) -> Checkpoint:
        """Reads one entry of the manifest.

        Raises:
            CheckpointFormatError: if a field is missing, unknown or has a wrong value.
        """
        try:
            entry = cls(
                **{
                    **record,
                    "sources": tuple(Source(**source) for source in record["sources"]),
                    "preprocess": Preprocess.from_dict(record["preprocess"]),
                    "labels": label_sets[record["labels"]],
                    "metrics": tuple(Metric(**metric) for metric in record.get("metrics", ())),
                }
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointFormatError(
                "bad manifest entry", where=where, why=f"{type(error).__name__}: {error}"
            ) from error
        if problems := entry._wrong_types() or entry._wrong_values():
            raise CheckpointFormatError("bad manifest entry", where=where, why=", ".join(problems))
        return entry

    def _wrong_types(self) -> list[str]:
        kinds: dict[str, Any] = dict.fromkeys(
            ("model", "tag", "sha256", "layout", "origin", "status"), str
        )
        kinds |= dict.fromkeys(("config", "licenses", "recipe"), Mapping)
        kinds["size_bytes"] = int | None
        values = {name: getattr(self, name) for name in kinds}
        return [
            f"{name} is {values[name]!r}"
            for name, kind in kinds.items()
            if not isinstance(values[name], kind)
        ]

    def _wrong_values(self) -> list[str]:
        problems = [f"source kind {s.kind!r}" for s in self.sources if s.kind not in SOURCE_KINDS]
        if self.status not in STATUSES:
            problems.append(f"status {self.status!r}")
        if len(self.sha256) not in (0, 8, 64):
            problems.append(f"sha256 of {len(self.sha256)} digits")
        if self.config.get("num_classes") != self.labels.num_classes:
            problems.append(
                f"{self.config.get('num_classes')} classes in the model, "
                f"{self.labels.num_classes} in the labels"
            )
        return problems


def manifest_path() -> Path:
    """The manifest: inside the package when installed, beside it in a source checkout."""
    package = Path(__file__).parents[1]
    inside = package / FILE_NAME
    return inside if inside.exists() else package.with_name(FILE_NAME)


@functools.cache
def load() -> dict[str, Checkpoint]:
    """All declared checkpoints, ``"model.tag"`` → entry.

    Raises:
        CheckpointFormatError: if the manifest cannot be read.
    """
    return read(manifest_path())


def read(path: Path) -> dict[str, Checkpoint]:
    """Reads and validates a manifest file; see ``load``."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        label_sets = {
            name: LabelSet.from_dict({"name": name, **labels})
            for name, labels in record["label_sets"].items()
        }
        entries = list(record["checkpoints"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointFormatError(
            "the weights manifest cannot be read",
            where=path,
            why=f"{type(error).__name__}: {error}",
            fix="reinstall torchseg-zoo",
        ) from error
    checkpoints: dict[str, Checkpoint] = {}
    for index, entry in enumerate(entries):
        checkpoint = Checkpoint.from_dict(entry, label_sets, where=f"{path} entry {index}")
        if checkpoint.name in checkpoints:
            raise CheckpointFormatError(f"{checkpoint.name} is declared twice", where=path)
        checkpoints[checkpoint.name] = checkpoint
    return checkpoints


def list_checkpoints(model: str | None = None) -> list[Checkpoint]:
    """Declared checkpoints, of one model or of all, sorted by name."""
    entries = load().values()
    return sorted(
        (entry for entry in entries if model is None or entry.model == model),
        key=lambda entry: entry.name,
    )


def find(model: str, tag: str) -> Checkpoint:
    """The checkpoint ``model.tag``.

    Raises:
        UnknownCheckpointError: if it is not declared; the message lists those that are.
    """
    checkpoints = load()
    if f"{model}.{tag}" in checkpoints:
        return checkpoints[f"{model}.{tag}"]
    tags = [entry.tag for entry in list_checkpoints(model)]
    near = difflib.get_close_matches(tag, tags, n=1)
    if not tags:
        fix = "no checkpoint of this model is released; build it with pretrained=None and train it"
    else:
        fix = (f"did you mean {near[0]!r}? " if near else "") + f"available: {', '.join(tags)}"
    raise UnknownCheckpointError(f"{model} has no {tag!r}", where="pretrained", fix=fix)
