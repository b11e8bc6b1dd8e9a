"""Exported files that are programs: engines and packages, whose opening runs what is in them.

Such a file is opened only if this user made it on this machine, which a seal in the record beside
it proves, or if its sha256 is given. It is read whole, and just the bytes that were checked are
handed on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torchseg_zoo.errors import ArgumentError, ExportError, IntegrityError
from torchseg_zoo.files import atomic_write_all, open_regular, printable
from torchseg_zoo.runtime.proof import check_digest
from torchseg_zoo.runtime.seal import Sealer

__all__ = [
    "BuildRecord",
    "record_path",
    "refuse_other_machine",
    "save_built",
    "trusted_content",
]

_FORMAT = 2


@dataclass(frozen=True)
class BuildRecord:
    """What lies beside an engine or package as ``<file>.json``.

    Args:
        artefact: what the file takes and gives, see ``Artefact.to_json``.
        sha256: of the file.
        built_for: what it was built on, such as ``{"GPU": "NVIDIA H100 (sm_90)"}``.
        seal: see ``Sealer``; "" before it is saved.
    """

    artefact: str
    sha256: str
    built_for: Mapping[str, str]
    seal: str = ""

    def to_json(self) -> str:
        """The record as it stands in the file."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path, *, kind: str) -> BuildRecord | None:
        """The record beside a file; ``None`` if there is none.

        Args:
            path: the engine or package.
            kind: which of the two, for errors.

        Raises:
            ExportError: if it cannot be read by this version.
        """
        where = record_path(path)
        try:
            record = json.loads(where.read_text(encoding="utf-8"))
            if record.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            texts = [value for key, value in record.items() if key != "built_for"]
            if not all(isinstance(text, str) for text in (*texts, *record["built_for"].values())):
                raise ValueError("not all of it is text")
            return cls(**record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ExportError(
                f"the record of this {kind} cannot be read",
                where=printable(where),
                why=f"{type(error).__name__}: {error}",
                fix=f"update torchseg-zoo, or build the {kind} again",
            ) from error


def record_path(path: Path) -> Path:
    """``model.engine`` → ``model.engine.json``."""
    return path.with_name(path.name + ".json")


def save_built(path: Path, content: bytes, record: BuildRecord) -> None:
    """Writes a file that was just built, and its sealed record beside it; both or neither.

    Raises:
        DataError: if they cannot be written; earlier ones stay.
        CacheError: if there is no place for the secret that seals are made with.
    """
    sealed = replace(record, seal=Sealer().seal(record.sha256, content))
    atomic_write_all({path: content, record_path(path): sealed.to_json().encode()})


def trusted_content(
    path: Path, *, trusted: str | None, kind: str
) -> tuple[bytes, str, BuildRecord | None]:
    """The bytes of a file that may be opened.

    Args:
        path: the file.
        trusted: sha256 of it, 64 hex digits, from whoever built it; needed for any that this user
            did not build on this machine.
        kind: ``"engine"`` or ``"package"``; the argument is then ``trust_<kind>``.

    Returns:
        The bytes, their sha256, and the record beside the file if there is one.

    Raises:
        ExportError: if the file cannot be read or is not trusted.
        IntegrityError: if it is not the file that is trusted, recorded or proven.
        ArgumentError: if ``trusted`` is no digest.
    """
    with open_regular(path, error=ExportError) as file:
        content = file.read()
    sha256 = hashlib.sha256(content).hexdigest()
    record = BuildRecord.read(path, kind=kind)
    argument = f"trust_{kind}"
    if trusted is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", trusted):
        raise ArgumentError(f"{trusted!r} is no sha256", where=argument, fix="give 64 hex digits")
    if trusted is not None and trusted.lower() != sha256:
        raise IntegrityError(
            f"is not the {kind} that is trusted",
            where=printable(path),
            why=f"its sha256 is {sha256}, trusted is {trusted.lower()}",
            fix="fetch the file again, or ask its builder for the digest",
        )
    if record is not None and record.sha256 != sha256:
        raise IntegrityError(
            f"is not the {kind} that its record was written for",
            where=printable(path),
            why=f"its sha256 is {sha256}, recorded is {record.sha256}",
            fix="fetch the file and its record again, or build it anew",
        )
    ours = record is not None and Sealer().holds(record.seal, sha256, content)
    if trusted is None and not ours:
        article = "an" if kind == "engine" else "a"
        raise ExportError(
            f"was not built here, and opening {article} {kind} runs what is in it",
            where=printable(path),
            fix="build it from the model, or pass the sha256 that its builder gave you as "
            f"{argument} (--{argument.replace('_', '-')})",
        )
    check_digest(path)
    return content, sha256, record


def refuse_other_machine(
    path: Path, built_for: Mapping[str, str], here: Mapping[str, str], *, kind: str
) -> None:
    """Refuses what was built for something else than is here.

    Args:
        path: the file, for errors.
        built_for: as in its record.
        here: the same of this machine, for each that has to be the same.
        kind: ``"engine"`` or ``"package"``.

    Raises:
        ExportError: if one differs.
    """
    for name, found in here.items():
        built = built_for.get(name, "unknown")
        if built != found:
            raise ExportError(
                f"was built for another {name}",
                where=printable(path),
                why=f"built for {built}, here is {found}",
                fix=f"build the {kind} on this machine",
            )
