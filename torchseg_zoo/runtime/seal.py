"""A seal that only this user can set: proof that a file was written here and is unchanged."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from torchseg_zoo.errors import CacheError
from torchseg_zoo.files import printable
from torchseg_zoo.weights.folder import Folder

__all__ = ["Sealer"]

_SECRET_BYTES = 32


class Sealer:
    """Seals contents with a secret of this user, and knows its own seals again.

    Args:
        secret: file with the secret, created by the first ``seal``; by default
            ``torchseg_zoo/engine_secret`` under ``XDG_STATE_HOME`` or ``~/.local/state``, apart
            from the cache: a cache that comes from elsewhere does not bring its secret along.

    Raises:
        CacheError: if there is no home directory for it.
    """

    def __init__(self, secret: Path | None = None) -> None:
        self._path = secret or _state_home() / "torchseg_zoo" / "engine_secret"

    def seal(self, name: str, content: bytes) -> str:
        """The seal of a content under a name, 64 hex digits.

        Raises:
            CacheError: if the secret cannot be read or written.
        """
        secret = self._secret(create=True)
        assert secret is not None
        return _seal(secret, name, content)

    def holds(self, seal: str, name: str, content: bytes) -> bool:
        """Whether this user sealed just this content under this name.

        Raises:
            CacheError: if the secret is there and cannot be read.
        """
        secret = self._secret(create=False)
        if secret is None:
            return False
        return hmac.compare_digest(seal.encode(), _seal(secret, name, content).encode())

    def _secret(self, *, create: bool) -> bytes | None:
        path = self._path
        try:
            if create:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Folder.root(path.parent)
            if folder is None:
                return None
            try:
                found = folder.read(path.name, limit=_SECRET_BYTES + 1)
                whole = found is not None and len(found) == _SECRET_BYTES
                if not whole and create:
                    folder.write(path.name, secrets.token_bytes(_SECRET_BYTES))
                    # Another process may have been first or last: what is there counts.
                    found = folder.read(path.name, limit=_SECRET_BYTES + 1)
            finally:
                folder.close()
        except CacheError:
            raise
        except OSError as error:
            raise CacheError(
                "cannot keep the secret that engines and packages are sealed with",
                where=printable(path),
                why=error.strerror,
                fix="set XDG_STATE_HOME to a folder of your own",
            ) from error
        return found if found is not None and len(found) == _SECRET_BYTES else None


def _seal(secret: bytes, name: str, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return hmac.digest(secret, f"{name} {digest}".encode(), "sha256").hex()


def _state_home() -> Path:
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    if given.is_absolute():  # the XDG rules say that a relative path is to be ignored
        return given
    try:
        return Path("~/.local/state").expanduser()
    except RuntimeError as error:
        raise CacheError(
            "there is no home directory",
            why=str(error),
            fix="set XDG_STATE_HOME to a folder of your own",
        ) from error
