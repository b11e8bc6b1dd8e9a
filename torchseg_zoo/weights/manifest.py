"""The declared checkpoints; ``weights_manifest.json`` is the only place where one is declared.

A checkpoint has one entry. Its tag is what users type: the name of a data set, ``cityscapes``,
for the entry that a model has by default, ``cityscapes.mmseg-512x1024-80k`` for others. A default
entry answers to its particular tag as well: that is one of its ``aliases``.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import CheckpointFormatError, UnknownCheckpointError

__all__ = [
    "Checkpoint",
    "Metric",
    "Source",
    "Unreleased",
    "dump",
    "find",
    "list_checkpoints",
    "load",
    "manifest_path",
    "unreleased",
]

FILE_NAME = "weights_manifest.json"
SOURCE_KINDS = ("embedded", "hf", "https", "gdrive", "file")
STATUSES = ("listed", "loaded", "scored")
CHANNEL_ORDERS = ("rgb", "bgr")
_AT_COMMIT = re.compile(r"@[0-9a-f]{40}/")  # a branch moves, and its files with it
# Licences under which weights, and models made from them, may be sold. Only these exact names
# count: what is said in a sentence is for a lawyer to read.
PERMISSIVE = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "MIT")


@dataclass(frozen=True)
class Source:
    """Where the bytes of a checkpoint are.

    Args:
        kind: ``embedded`` (a file name inside the package), ``hf``, ``https``, ``gdrive`` or
            ``file``.
        location: file name, ``org/repo@revision/file``, URL or id, as the kind asks.
        member: the checkpoint's name inside the zip archive that ``location`` is; "" if it is the
            checkpoint itself.
    """

    kind: str
    location: str
    member: str = ""

    @property
    def url(self) -> str:
        """The spelling that ``weights.fetch`` takes; "" for embedded files."""
        prefix = {"hf": "hf://", "gdrive": "gdrive://", "https": "", "file": ""}
        return prefix[self.kind] + self.location if self.kind in prefix else ""


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
        replay: the same for a machine: ``mode`` (as inference modes go to JSON), ``resize``
            (``short_side`` and ``long_side`` that pictures were fitted into), ``label_size``; only
            what is known, and nothing that the checkpoint's preprocessing says already.
        paper: ``miou_percent`` and ``pixel_accuracy_percent`` that the paper has for this.
        earlier: the same from an earlier README of the same project, where it differs.
    """

    dataset: str
    split: str
    mode: str
    miou_percent: float
    pixel_accuracy_percent: float | None = None
    source: str = ""
    protocol: str = ""
    replay: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    earlier: Mapping[str, float] = field(default_factory=dict)


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
        converted_from: ``layout``, ``sha256``, ``sources`` and the like of the foreign file that a
            published native one was converted from; loading does not look at it.
        preprocess: how pictures become input, in RGB order whatever ``channel_order`` is.
        labels: what the classes mean; the entry has the name of a known set.
        aliases: further tags of the same entry.
        channel_order: ``bgr`` if the file's first convolutions take BGR; conversion turns them.
        unverified: what nobody could read off a published source: ``preprocess.std``, or
            ``config.<field>`` where the file's own shapes decide.
        metrics: scores with their protocols.
        train_set: what it was trained on, in words.
        ohem: whether hard pixels were selected in training; ``None`` when not known.
        licenses: ``code``, ``weights`` and ``dataset``, each in words.
        recipe: how it was trained, in words and figures.
        origin: who trained it.
        status: ``listed`` (from a public index), ``loaded`` (converted from the real file) or
            ``scored`` (a score was reproduced).
        note: what a user should know before use.
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
    aliases: tuple[str, ...] = ()
    channel_order: str = "rgb"
    unverified: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    train_set: str = ""
    ohem: bool | None = None
    licenses: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    status: str = "listed"
    note: str = ""
    converted_from: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``model.tag``."""
        return f"{self.model}.{self.tag}"

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the entry, ``name`` first."""
        return tuple(f"{self.model}.{tag}" for tag in (self.tag, *self.aliases))

    @property
    def dataset(self) -> str:
        """The first part of the tag."""
        return self.tag.partition(".")[0]

    @property
    def commercial_ok(self) -> bool:
        """Whether the stated terms of weights and training data both allow commercial use.

        ``False`` wherever a term is not stated, or is stated in a sentence.
        """
        return all(self.licenses.get(part) in PERMISSIVE for part in ("weights", "dataset"))

    def metric(self, mode: str = "") -> Metric | None:
        """The first score of a mode; without one the first that is not ``msf``."""
        for metric in self.metrics:
            if metric.mode == mode or (not mode and metric.mode != "msf"):
                return metric
        return None

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], *, where: str) -> Checkpoint:
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
                    "labels": LABEL_SETS[record["labels"]],
                    "metrics": tuple(Metric(**metric) for metric in record.get("metrics", ())),
                    "aliases": _strings(record.get("aliases", ())),
                    "unverified": _strings(record.get("unverified", ())),
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
        text = "model tag sha256 layout origin status channel_order train_set note"
        kinds: dict[str, Any] = dict.fromkeys(text.split(), str)
        kinds |= dict.fromkeys(("config", "licenses", "recipe", "converted_from"), Mapping)
        kinds |= {"size_bytes": int | None, "ohem": bool | None}
        values = {name: getattr(self, name) for name in kinds}
        return [
            f"{name} is {values[name]!r}"
            for name, kind in kinds.items()
            if not isinstance(values[name], kind)
        ]

    def _wrong_values(self) -> list[str]:
        problems = [f"source kind {s.kind!r}" for s in self.sources if s.kind not in SOURCE_KINDS]
        problems += [
            f"{s.location} names no commit"
            for s in self.sources
            if s.kind == "hf" and not _AT_COMMIT.search(s.location)
        ]
        if self.status not in STATUSES:
            problems.append(f"status {self.status!r}")
        if self.channel_order not in CHANNEL_ORDERS:
            problems.append(f"channel_order {self.channel_order!r}")
        if len(self.sha256) not in (0, 8, 64):
            problems.append(f"sha256 of {len(self.sha256)} digits")
        for name in self.unverified:
            record, _, key = name.partition(".")
            fields = {"config": self.config, "preprocess": self.preprocess.to_dict()}
            if key not in fields.get(record, ()):
                problems.append(f"unverified {name!r}")
        if self.config.get("num_classes") != self.labels.num_classes:
            problems.append(
                f"{self.config.get('num_classes')} classes in the model, "
                f"{self.labels.num_classes} in the labels"
            )
        return problems


@dataclass(frozen=True)
class Unreleased:
    """What one may look for in vain.

    Args:
        model: factory name.
        tag: data set, or a particular tag.
        why: why there is no such checkpoint.
        fix: what to do instead.
    """

    model: str
    tag: str
    why: str
    fix: str


def _strings(values: Any) -> tuple[str, ...]:
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"expected a list of texts, got {values!r}")
    return tuple(values)


def manifest_path() -> Path:
    """The manifest: inside the package when installed, beside it in a source checkout."""
    package = Path(__file__).parents[1]
    inside = package / FILE_NAME
    return inside if inside.exists() else package.with_name(FILE_NAME)


@functools.cache
def load() -> dict[str, Checkpoint]:
    """All declared checkpoints, ``"model.tag"`` → entry; aliases are not among the keys.

    Raises:
        CheckpointFormatError: if the manifest cannot be read.
    """
    return read(manifest_path())


def read(path: Path) -> dict[str, Checkpoint]:
    """Reads and validates a manifest file; see ``load``."""
    checkpoints: dict[str, Checkpoint] = {}
    taken: set[str] = set()
    for index, entry in enumerate(_records(path, "checkpoints")):
        checkpoint = Checkpoint.from_dict(entry, where=f"{path} entry {index}")
        for name in checkpoint.names:
            if name in taken:
                raise CheckpointFormatError(f"{name} is declared twice", where=path)
            taken.add(name)
        checkpoints[checkpoint.name] = checkpoint
    return checkpoints


def unreleased() -> list[Unreleased]:
    """What the manifest says is not to be had.

    Raises:
        CheckpointFormatError: if the manifest cannot be read.
    """
    path = manifest_path()
    try:
        return [Unreleased(**record) for record in _records(path, "unreleased")]
    except TypeError as error:
        raise _unreadable(path, error) from error


def _records(path: Path, key: str) -> list[Any]:
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointFormatError:
    return CheckpointFormatError(
        "the weights manifest cannot be read",
        where=path,
        why=f"{type(error).__name__}: {error}",
        fix="reinstall torchseg-zoo",
    )


def dump(record: Mapping[str, Any]) -> str:
    """The one form in which a manifest is written: sorted, one value a line."""
    entries = sorted(record["checkpoints"], key=lambda entry: (entry["model"], entry["tag"]))
    whole = {**record, "checkpoints": entries}
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def list_checkpoints(model: str | None = None) -> list[Checkpoint]:
    """Declared checkpoints, of one model or of all, sorted by name."""
    entries = load().values()
    return sorted(
        (entry for entry in entries if model is None or entry.model == model),
        key=lambda entry: entry.name,
    )


def find(model: str, tag: str) -> Checkpoint:
    """The checkpoint that answers to ``model.tag``.

    Raises:
        UnknownCheckpointError: if there is none; the message lists those that are, and says so
            where a file is known not to be released.
    """
    entries = list_checkpoints(model)
    for entry in entries:
        if f"{model}.{tag}" in entry.names:
            return entry
    tags = [tag for entry in entries for tag in (entry.tag, *entry.aliases)]
    near = difflib.get_close_matches(tag, tags, n=1)
    known = next((one for one in unreleased() if (one.model, one.tag) == (model, tag)), None)
    why = None
    if known is not None:
        why, fix = known.why, known.fix
    elif not tags:
        fix = "no checkpoint of this model is released; build it with pretrained=None and train it"
    else:
        fix = (f"did you mean {near[0]!r}? " if near else "") + f"available: {_listing(entries)}"
    raise UnknownCheckpointError(f"{model} has no checkpoint {tag!r}", why=why, fix=fix)


def _listing(entries: list[Checkpoint]) -> str:
    """Tags of one model in a line: all plain ones, and how many there are beside them."""
    plain = [entry.tag for entry in entries if "." not in entry.tag]
    others = [entry.tag for entry in entries if "." in entry.tag]
    if len(plain) + len(others) <= 6:
        return ", ".join(plain + others)
    return f"{', '.join(plain)} and {len(others)} more: list_checkpoints({entries[0].model!r})"
