"""Built engines, kept for the next time, and given out only as this user built them.

    engines/KEY.engine   a seal, then the serialized engine
    engines/KEY.timing   a seal, then TensorRT's timing cache of a GPU, driver and version

Deserialising an engine runs what is in it. So a file is read whole, its seal is checked, and just
those bytes are handed on; see ``runtime.seal``.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from torchseg_zoo.errors import CacheError
from torchseg_zoo.files import atomic_write, printable
from torchseg_zoo.runtime.seal import Sealer
from torchseg_zoo.weights.cache import cache_root
from torchseg_zoo.weights.folder import Folder, cache_error

__all__ = ["EngineCache", "EngineKey"]

_SEAL_LENGTH = 64


@dataclass(frozen=True)
class EngineKey:
    """What an engine depends on; another one for any of these.

    Args:
        gpu: name and compute capability.
        driver: version of the driver.
        tensorrt: version of TensorRT.
        graph_sha256: of the ONNX file.
        options: all that the builder was told, as JSON.
    """

    gpu: str
    driver: str
    tensorrt: str
    graph_sha256: str
    options: str

    def digest(self) -> str:
        """Name of the engine in the cache: 64 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def timing_digest(self) -> str:
        """Name of the timing cache, which serves all graphs of a machine."""
        machine = json.dumps(["timing", self.gpu, self.driver, self.tensorrt])
        return hashlib.sha256(machine.encode()).hexdigest()


class EngineCache:
    """The engines of this user.

    Args:
        root: top directory of the cache; by default that of the weights.
        sealer: by default the user's own.

    Raises:
        CacheError: if there is no home directory to put them in.
    """

    def __init__(
        self, root: str | os.PathLike[str] | None = None, *, sealer: Sealer | None = None
    ) -> None:
        self.root = cache_root(root)
        self._sealer = sealer or Sealer()

    def prepare(self) -> None:
        """Makes sure that engines can be kept, before one is built for minutes.

        Raises:
            CacheError: if the folder cannot be made or written to.
        """
        with self._engines(create=True):
            pass

    def find(self, key: EngineKey) -> bytes | None:
        """The engine as it was stored; ``None`` if there is none, or it was changed since.

        A changed one is told of by a warning.

        Raises:
            CacheError: if something else was planted in its place, or it cannot be read.
        """
        return self._find(f"{key.digest()}.engine")

    def find_timing(self, key: EngineKey) -> bytes:
        """TensorRT's timing cache for the key's machine, empty if there is none; as ``find``."""
        return self._find(f"{key.timing_digest()}.timing") or b""

    def store(self, key: EngineKey, engine: bytes) -> None:
        """Keeps an engine that was just built.

        Raises:
            CacheError: if it cannot be written; an earlier one stays.
        """
        self._store(f"{key.digest()}.engine", engine)

    def store_timing(self, key: EngineKey, timing: bytes) -> None:
        """Keeps a timing cache; errors as of ``store``."""
        self._store(f"{key.timing_digest()}.timing", timing)

    def _find(self, name: str) -> bytes | None:
        with self._engines(create=False) as folder:
            found = None if folder is None else _read(folder, name)
        if found is None:
            return None
        seal, content = found[:_SEAL_LENGTH].decode("ascii", "replace"), found[_SEAL_LENGTH:]
        if self._sealer.holds(seal, name, content):
            return content
        warnings.warn(
            f"{printable(self.root / 'engines' / name)} is not as it was built here; "
            "it is not used, but built anew",
            stacklevel=4,
        )
        return None

    def _store(self, name: str, content: bytes) -> None:
        seal = self._sealer.seal(name, content).encode()
        with self._engines(create=True) as folder:
            assert folder is not None
            atomic_write(
                folder.path / name, lambda file: file.writelines((seal, content)), error=CacheError
            )

    @contextmanager
    def _engines(self, *, create: bool) -> Iterator[Folder | None]:
        if create:
            try:
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise cache_error(self.root, error, "cannot create the cache") from error
        root = Folder.root(self.root)
        if root is None:
            yield None
            return
        try:
            folder = root.make_sub("engines") if create else root.sub("engines")
        finally:
            root.close()
        try:
            yield folder
        finally:
            if folder is not None:
                folder.close()


def _read(folder: Folder, name: str) -> bytes | None:
    descriptor = folder.open_existing(name)
    if descriptor is None:
        return None
    try:
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except OSError as error:
        raise cache_error(Path(folder.path, name), error, "cannot be read") from error
