"""What is in the files of one sample, problems included: looked at once, judged elsewhere."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from torchseg_zoo.data.color_map import count_colors, packed_colors
from torchseg_zoo.data.datasets.files import FileDataset
from torchseg_zoo.data.datasets.mat import read_mat_label
from torchseg_zoo.data.decode import MAX_PIXELS, decode, orientation
from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.data.label_map import decode_label, stored_indices
from torchseg_zoo.data.sample import Dataset
from torchseg_zoo.errors import DataError, ZooError
from torchseg_zoo.files import printable
from torchseg_zoo.types import Size

__all__ = ["MOST_COLORS", "SampleFacts", "facts_of", "look_at"]

MOST_COLORS = 256
"""Colours kept of one painted label map, the commonest; more are never classes."""


@dataclass
class SampleFacts:
    """One sample as its files have it.

    Args:
        name: the picture.
        label: the label map, ``None`` without one.
        size: (height, width) at which the picture is displayed; ``None`` if it cannot be read.
        label_size: likewise for the label map.
        turn: EXIF orientation of the picture, 1..8.
        label_turn: likewise for the label map.
        digest: of the decoded picture; equal pictures have equal ones, whatever their files.
        values: number in the label map → pixels.
        colors: packed colour → pixels, of label maps that are painted; see ``packed_colors``.
        num_colors: distinct colours, of which ``colors`` may hold the commonest only.
        palette: number → packed colour, of those in a palette file.
        problem: why the picture cannot be read.
        label_problem: why the label map cannot be read.
        remarks: what reading them warned of.
    """

    name: str
    label: str | None = None
    size: Size | None = None
    label_size: Size | None = None
    turn: int = 1
    label_turn: int = 1
    digest: str = ""
    values: dict[int, int] = field(default_factory=dict)
    colors: dict[int, int] = field(default_factory=dict)
    num_colors: int = 0
    palette: dict[int, int] = field(default_factory=dict)
    problem: ZooError | None = None
    label_problem: ZooError | None = None
    remarks: list[str] = field(default_factory=list)


def look_at(dataset: Dataset, indices: Sequence[int], *, workers: int = 1) -> Iterator[SampleFacts]:
    """The facts of some samples, in their order.

    Args:
        dataset: of files, or any other; of these only what they yield is seen.
        indices: which samples.
        workers: processes that read; 1 reads in this one.

    Raises:
        DataError: if a process that reads is killed, as by a lack of memory.
    """
    if workers <= 1 or len(indices) < 2 * workers:
        for index in indices:
            yield facts_of(dataset, index)
        return
    # Spawned, not forked: the caller may have threads.
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_take, initargs=(dataset,)
    )
    try:
        chunk = max(1, min(16, len(indices) // (4 * workers)))
        yield from pool.map(_facts, indices, chunksize=chunk)
    except BrokenProcessPool as cause:
        raise DataError(
            "a process that reads samples was killed",
            why="there may be too little memory",
            fix="use fewer: workers= (--workers)",
        ) from cause
    finally:
        pool.shutdown(cancel_futures=True)


_taken: list[Dataset] = []  # of a reading process, which gets its data set once


def _take(dataset: Dataset) -> None:
    _taken[:] = [dataset]


def _facts(index: int) -> SampleFacts:
    return facts_of(_taken[0], index)


def facts_of(dataset: Dataset, index: int) -> SampleFacts:
    """The facts of one sample; whatever is wrong with it is among them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(dataset, FileDataset):
            image, label = dataset.pairs[index]
            facts = _facts_of_files(image, label, painted=dataset.labels.raw_colors is not None)
        else:
            facts = _facts_of_sample(dataset, index)
    facts.remarks = [str(one.message) for one in caught]
    return facts


def _facts_of_files(image: Path, label: Path | None, *, painted: bool) -> SampleFacts:
    facts = SampleFacts(printable(image), None if label is None else printable(label))
    try:
        picture, _ = decode(image, facts.name, MAX_PIXELS)
        facts.turn = orientation(picture)
        pixels = as_rgb(picture)
        facts.size, facts.digest = (pixels.shape[0], pixels.shape[1]), _digest(pixels)
    except ZooError as error:
        facts.problem = error
    if label is not None:
        try:
            _look_at_label(label, facts, painted=painted)
        except ZooError as error:
            facts.label_problem = error
    return facts


def _look_at_label(path: Path, facts: SampleFacts, *, painted: bool) -> None:
    where = printable(path)
    if path.suffix.lower() == ".mat":
        _count(read_mat_label(path), facts)
        return
    picture, depth = decode_label(path, where)
    facts.label_turn = orientation(picture)
    if painted or not _holds_numbers(picture):
        packed = packed_colors(picture, where)
        facts.label_size = packed.shape[0], packed.shape[1]
        colors, counts = count_colors(packed)
        facts.num_colors = len(colors)
        kept = zip(colors[:MOST_COLORS].tolist(), counts[:MOST_COLORS].tolist(), strict=True)
        facts.colors = dict(kept)
        return
    _count(stored_indices(picture, depth, where), facts)
    if picture.mode == "P":
        table = np.asarray(picture.getpalette() or [], np.uint32).reshape(-1, 3)
        facts.palette = {
            value: int(table[value] @ (65536, 256, 1))
            for value in facts.values
            if value < len(table)
        }


def _holds_numbers(picture: Image.Image) -> bool:
    """Whether a label map has one number a pixel: all but RGB with unequal channels has."""
    if picture.mode not in ("RGB", "RGBA", "RGBX"):
        return True
    values = np.asarray(picture)
    return bool((values[:, :, 1:3] == values[:, :, :1]).all())


def _count(label: np.ndarray, facts: SampleFacts) -> None:
    facts.label_size = label.shape[0], label.shape[1]
    counts = np.bincount(label.reshape(-1), minlength=256)
    facts.values = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _facts_of_sample(dataset: Dataset, index: int) -> SampleFacts:
    """Of a data set without files: it reads, and its labels are train ids."""
    try:
        sample = dataset[index]
    except ZooError as error:
        return SampleFacts(error.where or f"sample {index}", problem=error)
    size = sample.image.shape[0], sample.image.shape[1]
    facts = SampleFacts(sample.name, size=size, digest=_digest(sample.image))
    if sample.label is not None:
        facts.label = sample.name
        _count(sample.label, facts)
    return facts


def _digest(pixels: np.ndarray) -> str:
    content = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(pixels).data)
    return content.hexdigest()
