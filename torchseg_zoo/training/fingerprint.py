"""What a data set is, in a few numbers: enough to notice that a run goes on with another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from torchseg_zoo.data.datasets.files import FileDataset
from torchseg_zoo.data.sample import Dataset

__all__ = ["fingerprint"]

_LOOKED_AT = 32  # files or samples; reading all would make every start wait


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Length, classes, and digests of the label mapping, of file names and of some contents.

    A folder that was moved, or is mounted elsewhere, has the same fingerprint.

    Args:
        dataset: for files, their names and the sizes in bytes of some are taken; otherwise the
            first and the last sample.

    Raises:
        DataError: if such a sample cannot be read.
    """
    found: dict[str, Any] = {
        "samples": len(dataset),
        "classes": list(dataset.labels.classes),
        "ignore index": dataset.labels.ignore_index,
    }
    labels = dataset.labels.to_dict()
    mapping = {name: labels[name] for name in ("raw_ids", "raw_colors") if name in labels}
    if mapping:
        found["label mapping"] = _short_digest([repr(mapping).encode()])
    if isinstance(dataset, FileDataset):
        return found | _of_files(dataset)
    ends = sorted({0, len(dataset) - 1})
    return found | {"contents": _short_digest(_sample_bytes(dataset, index) for index in ends)}


def _of_files(dataset: FileDataset) -> dict[str, Any]:
    names = (b"\0".join(bytes(file.name, "utf-8", "surrogateescape") for file in pair if file)
             for pair in dataset.pairs)  # fmt: skip
    sizes = []
    for index in np.linspace(0, len(dataset) - 1, _LOOKED_AT).astype(int):
        for file in filter(None, dataset.pairs[index]):
            with suppress(OSError):  # who reads it says what is wrong
                sizes.append(file.stat().st_size)
    return {
        "file names": _short_digest(names),
        "file sizes": _short_digest(str(size).encode() for size in sizes),
    }


def _sample_bytes(dataset: Dataset, index: int) -> bytes:
    sample = dataset[index]
    label = b"" if sample.label is None else sample.label.tobytes()
    return str(sample.image.shape).encode() + sample.image.tobytes() + label


def _short_digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]
