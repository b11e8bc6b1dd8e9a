"""What reading from the Hugging Face hub and writing to it share: names of files, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchseg_zoo.errors import DownloadError, ZooError
from torchseg_zoo.files import printable

__all__ = [
    "CONFIG",
    "NO_FILE",
    "PICKLED",
    "PREPROCESSOR",
    "WEIGHTS",
    "hub_errors",
]

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
NO_FILE = "no such file on the hub"


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
            what, fix = NO_FILE, "check the repository, revision and file"
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
