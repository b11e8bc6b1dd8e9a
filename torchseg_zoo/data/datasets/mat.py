"""Label maps in MATLAB files, as two data sets are released: SBD and COCO-Stuff 10k."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from torchseg_zoo.errors import DataError, MissingExtraError
from torchseg_zoo.files import open_regular, printable

__all__ = ["read_mat_label"]


def read_mat_label(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads the label map of a ``.mat`` file.

    Args:
        path: MATLAB file up to version 7 with ``GTcls.Segmentation`` (SBD) or ``S`` (COCO-Stuff).

    Returns:
        (H, W) uint8, the numbers that are stored.

    Raises:
        DataError: if the file cannot be read, or holds no such map of numbers in 0..255.
        MissingExtraError: if scipy is not installed.
    """
    where = printable(path)
    loadmat = _import_loadmat(where)
    with open_regular(path) as stream:
        content = stream.read()
    try:
        found = loadmat(io.BytesIO(content), variable_names=["GTcls", "S"])
    except MemoryError:
        raise
    except Exception as cause:  # a damaged file raises whatever its bytes run into
        raise DataError(
            "not a MATLAB file that can be read",
            where=where,
            why=str(cause) or type(cause).__name__,
            fix="fetch it again",
        ) from cause
    values = _map_in(found)
    if values is None:
        raise DataError(
            "no label map in this MATLAB file",
            where=where,
            why="looked for GTcls.Segmentation (SBD) and S (COCO-Stuff)",
            fix="give the .mat files of SBD's dataset/cls or of COCO-Stuff 10k's annotations",
        )
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= 255:
        raise DataError(
            f"label values run from {low} to {high}, allowed are 0–255",
            where=where,
            fix="fetch it again",
        )
    return np.ascontiguousarray(values, dtype=np.uint8)


def _map_in(found: dict[str, Any]) -> np.ndarray | None:
    values = found.get("S")
    record = found.get("GTcls")
    if isinstance(record, np.ndarray) and "Segmentation" in (record.dtype.names or ()):
        values = record["Segmentation"].flat[0] if record.size else None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size:
        return None
    # MATLAB stores numbers as doubles unless told otherwise.
    whole = values.dtype.kind == "f" and bool((values == values.round()).all())
    return values if whole or values.dtype.kind in "iu" else None


def _import_loadmat(where: str) -> Any:
    try:
        from scipy.io import loadmat
    except ImportError as cause:
        raise MissingExtraError(
            "MATLAB files are read with scipy, which is not installed",
            where=where,
            fix='pip install "torchseg-zoo[mat]", or give the masks as PNG',
        ) from cause
    return loadmat
