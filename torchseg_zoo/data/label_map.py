"""Label maps: reading them from files as the numbers stored, checking them, mapping them."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageFile

from torchseg_zoo.data.decode import MAX_PIXELS, decode, decoding, orientation, turned
from torchseg_zoo.data.label_sets import RAW_VALUES
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.lookup import look_up
from torchseg_zoo.errors import ArgumentError, DataError, described, listed
from torchseg_zoo.files import printable

__all__ = [
    "allowed_values",
    "check_label_values",
    "checked_train_ids",
    "decode_label",
    "read_label",
    "stored_indices",
    "to_train_ids",
]

# Only in these an index surely comes back as the number that was meant.
_LABEL_FORMATS = ("PNG", "TIFF", "BMP")
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")
_LABEL_SPOILERS = {
    "GIF": "programs that write GIF renumber the palette",
    "PPM": "its numbers are relative to a maximum, to which they are stretched on reading",
}

_BLOCK_PX = 2**22  # pixels counted at once, to keep temporary copies of big maps small


def read_label(
    path: str | os.PathLike[str] | bytes, *, num_classes: int | None = None, name: str | None = None
) -> np.ndarray:
    """Reads a label map as the numbers that are stored, whatever colours a palette gives them.

    EXIF orientation is applied, so that the map agrees with its picture.

    Args:
        path: PNG, TIFF or BMP file: palette, grey, or RGB(A) with three equal channels and no
            transparency. 16- and 32-bit numbers are taken if all are below 256. Or the bytes of
            such a file.
        num_classes: if given, every number must be below it or 255.
        name: what messages call the map; its path by default, which bytes do not have.

    Returns:
        (H, W) uint8, C-contiguous.

    Raises:
        DataError: as ``read_image``; or if the file holds colours, transparency, numbers that do
            not fit, or is of a format that changes them.
    """
    where = name or ("bytes" if isinstance(path, bytes) else printable(path))
    picture, depth = decode_label(path, where)
    label = stored_indices(picture, depth, where)
    if num_classes is not None:
        _check_values(label, num_classes, 255, where)
    return label


def decode_label(
    path: str | os.PathLike[str] | bytes, where: str
) -> tuple[ImageFile.ImageFile, int]:
    """Decodes a label map's file, of a format that keeps numbers as they are.

    Args:
        path: the file, or its bytes.
        where: its name for messages.

    Returns:
        The picture as stored, not yet turned, and its bits per sample; see ``decode``.

    Raises:
        DataError: as ``decode``; or if files of its format cannot hold a label map.
    """
    picture, depth = decode(path, where, MAX_PIXELS)
    if picture.format not in _LABEL_FORMATS or picture.info.get("compression") in _LOSSY_TIFF:
        raise DataError(
            f"{picture.format} files cannot hold a label map",
            where=where,
            why=_LABEL_SPOILERS.get(
                picture.format or "", "lossy compression changes the class indices"
            ),
            fix="export the label map again as PNG, from its source and not from this file",
        )
    return picture, depth


def stored_indices(picture: ImageFile.ImageFile, depth: int, where: str) -> np.ndarray:
    """The numbers in a label map that ``decode_label`` gave, turned as EXIF wants it displayed.

    Returns:
        (H, W) uint8, C-contiguous.

    Raises:
        DataError: as ``read_label``.
    """
    with decoding(where):
        return turned(_stored_indices(picture, depth, where), orientation(picture))


def check_label_values(label: np.ndarray, labels: LabelSet, *, where: object) -> None:
    """Checks that a label map holds nothing but train ids and the ignore index.

    Args:
        label: (H, W) uint8 train ids, that is after ``to_train_ids``.
        labels: what the ids mean.
        where: the file, for the message.

    Raises:
        ArgumentError: if ``label`` is not (H, W) uint8.
        DataError: if there are other values; names the first such pixel as (column, row), what is
            allowed, and how often each stray value occurs, for at most five of them.
    """
    _check_values(label, labels.num_classes, labels.ignore_index, printable(where))


def to_train_ids(label: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Maps the label values on disk to train ids.

    Args:
        label: (H, W) uint8 raw ids.
        labels: its ``raw_ids`` say which raw id becomes which train id; raw ids that it does not
            list become ``ignore_index``. Without ``raw_ids`` the label comes back unchanged.

    Returns:
        (H, W) uint8 train ids.

    Raises:
        ArgumentError: if ``label`` is not (H, W) uint8, or an id to map to is not in 0..255.
    """
    _require_label(label)
    if labels.raw_ids is None:
        return label
    targets = {raw: train for raw, train in labels.raw_ids.items() if 0 <= raw <= 255}
    for value in (labels.ignore_index, *targets.values()):
        if not 0 <= value <= 255:
            raise ArgumentError(
                f"cannot store {value} in an 8-bit label map",
                where=f"labels {labels.name!r}",
                fix="use train ids and an ignore index in 0–255",
            )
    table = np.full(256, labels.ignore_index, np.uint8)
    for raw, train in targets.items():
        table[raw] = train
    return look_up(table, label)


def checked_train_ids(stored: np.ndarray, labels: LabelSet, *, where: object) -> np.ndarray:
    """Maps what a label file holds to train ids, and refuses what stands for nothing.

    Args:
        stored: (H, W) uint8, as ``read_label`` gives it.
        labels: what the values mean. Of the sets in ``label_sets`` it is known which values their
            files hold, unlabelled ones included; of others with ``raw_ids`` any value is taken.
        where: the file, for the message.

    Returns:
        (H, W) uint8 train ids.

    Raises:
        ArgumentError: as ``to_train_ids``.
        DataError: as ``check_label_values``.
    """
    if labels.raw_ids is None:
        check_label_values(stored, labels, where=where)
        return stored
    known = _known_values(labels)
    if known is not None:
        _require_label(stored)
        if not ((stored < known.stop) | (stored == 255)).all():  # all of them start at 0
            words = f"{known.start}–{known.stop - 1}"
            fix = (
                f"give the label files of {labels.name} as they are released, or say what these "
                "values mean: classes= (--classes FILE)"
            )
            counts = _histogram(stored) * ~allowed_values(labels)
            _refuse_stray(stored, counts, words + " or 255", fix, printable(where))
    return to_train_ids(stored, labels)


def allowed_values(labels: LabelSet) -> np.ndarray:
    """(256,) bool: which numbers a label file may hold, by the rule of ``checked_train_ids``."""
    known = _known_values(labels)
    allowed = np.zeros(256, np.bool_)
    if known is not None:
        allowed[[*known, 255]] = True
    elif labels.raw_ids is not None:
        allowed[:] = True
    else:
        allowed[: labels.num_classes] = True
        if 0 <= labels.ignore_index <= 255:
            allowed[labels.ignore_index] = True
    return allowed


def _known_values(labels: LabelSet) -> range | None:
    known = RAW_VALUES.get(labels.name)
    return known if known and labels.raw_ids and set(labels.raw_ids) <= set(known) else None


def _stored_indices(picture: Image.Image, depth: int, where: str) -> np.ndarray:
    """Loaded picture of any mode → (H, W) uint8 indices, not yet turned."""
    mode = picture.mode
    values = np.asarray(picture)
    if mode in ("1", "P", "L"):
        values = values.astype(np.uint8)
        if mode == "L" and depth in (2, 4):
            # Pillow stretches grey of few bits to 0..255; the indices were the numbers before.
            values //= 255 // (2**depth - 1)
        return values
    if mode.startswith("I"):
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 255:
            raise DataError(
                f"label values run from {low} to {high}, allowed are 0–255",
                where=where,
                fix="map them to class indices and save as 8-bit PNG",
            )
        return values.astype(np.uint8)
    if mode in ("LA", "RGB", "RGBA", "RGBX"):
        if mode in ("LA", "RGBA") and int(values[:, :, -1].min()) < 255:
            raise DataError(
                "the label map has transparent pixels",
                where=where,
                fix="save class indices as 8-bit PNG without transparency, 255 for unlabelled",
            )
        grey = values[:, :, 0]
        if mode == "LA" or bool((values[:, :, 1:3] == values[:, :, :1]).all()):
            return grey
        stray = np.argwhere((values[:, :, 1:3] != values[:, :, :1]).any(axis=2))[0]
        row, column = int(stray[0]), int(stray[1])
        color = tuple(int(v) for v in values[row, column, :3])
        raise DataError(
            f"the label map holds colours, not class indices: pixel ({column}, {row}) is {color}",
            where=where,
            fix="convert its colours to class indices and save as palette or grey PNG",
        )
    raise DataError(
        f"a label map cannot be of mode {mode}",
        where=where,
        fix="save class indices as palette or grey 8-bit PNG",
    )


def _check_values(label: np.ndarray, num_classes: int, ignore_index: int, where: str) -> None:
    _require_label(label)
    # Almost all maps are good, and comparing costs a tenth of counting.
    if bool(((label < min(num_classes, 256)) | (label == ignore_index)).all()):
        return
    counts = _histogram(label)
    counts[:num_classes] = 0
    if 0 <= ignore_index <= 255:
        counts[ignore_index] = 0
    allowed = f"0–{num_classes - 1}"
    if ignore_index >= num_classes:
        allowed += f" or {ignore_index}"
    stray = np.flatnonzero(counts)
    if len(stray) == 1 and stray[0] == num_classes and not (label == 0).any():
        fix = (
            "the values seem to start at 1: subtract 1, or map them; `torchseg-zoo check-data "
            "--out DIR` writes how to DIR/classes.json"
        )
    else:
        fix = (
            f"map the values to class indices, {ignore_index} for unlabelled; `torchseg-zoo "
            "check-data --out DIR` writes how to DIR/classes.json"
        )
    _refuse_stray(label, counts, allowed, fix, where)


def _refuse_stray(
    label: np.ndarray, counts: np.ndarray, allowed: str, fix: str, where: str
) -> None:
    """Raises if ``counts`` says that there are values that should not be."""
    stray = np.flatnonzero(counts)
    if not len(stray):
        return
    table = np.zeros(256, np.bool_)
    table[stray] = True
    row, column = np.unravel_index(int(table[label].argmax()), label.shape)
    often = listed([f"{value} ({counts[value]} px)" for value in stray])
    raise DataError(
        f"pixel ({column}, {row}) = {label[row, column]}, allowed {allowed}",
        where=where,
        why=f"stray values: {often}",
        fix=fix,
    )


def _histogram(label: np.ndarray) -> np.ndarray:
    """How often each of 0..255 occurs; (256,) int64."""
    counts = np.zeros(256, np.int64)
    flat = label.reshape(-1)
    for start in range(0, flat.size, _BLOCK_PX):  # bincount widens its input to 8 bytes a pixel
        counts += np.bincount(flat[start : start + _BLOCK_PX], minlength=256)
    return counts


def _require_label(label: np.ndarray) -> None:
    if not isinstance(label, np.ndarray) or label.ndim != 2 or label.dtype != np.uint8:
        raise ArgumentError(
            f"got {described(label)} for a label map", where="label", fix="pass (H, W) uint8"
        )
