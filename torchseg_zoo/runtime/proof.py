"""The proof that lies beside an exported file, as far as running needs it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from torchseg_zoo.errors import ExportError, IntegrityError
from torchseg_zoo.files import open_regular, printable

__all__ = ["artefact_digest", "check_digest", "proof_path"]


def proof_path(path: Path) -> Path:
    """``model.onnx`` → ``model.onnx.parity.json``."""
    return path.with_name(path.name + ".parity.json")


def artefact_digest(path: Path) -> str:
    """SHA-256, in hex, of an exported file; of OpenVINO's graph together with its weights.

    Raises:
        ExportError: if it cannot be read.
    """
    digest = hashlib.sha256()
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    for part in parts:
        with open_regular(part, error=ExportError) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_digest(path: Path) -> None:
    """Refuses a file that is not the one its proof was made for; without a proof all is well.

    Raises:
        IntegrityError: if the digests differ.
        ExportError: if the proof cannot be read.
    """
    proof = proof_path(path)
    try:
        wanted = json.loads(proof.read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ExportError(
            "the proof beside it cannot be read",
            where=printable(proof),
            why=type(error).__name__,
            fix="export the model again, or remove the file",
        ) from error
    found = artefact_digest(path)
    if found != wanted:
        raise IntegrityError(
            "is not the file that its parity.json was made for",
            where=printable(path),
            why=f"sha256 is {found[:16]}…, was {str(wanted)[:16]}…",
            fix="export the model again, or fetch the file and its proof anew",
        )
