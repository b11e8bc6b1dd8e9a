"""List files of data sets: which picture goes with which label map, split by split.

A list has ``image<TAB>label`` in each line, relative to the data set's root; the list of a split
without labels has the image alone. Training, evaluation and prediction read them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchseg_zoo.data.datasets import ade20k, cityscapes, voc
from torchseg_zoo.data.datasets._layout import Pairs, files_of, match, require_root
from torchseg_zoo.data.datasets.mat import read_mat_label
from torchseg_zoo.data.image import write_png
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.files import atomic_write, make_folder, open_regular, printable

__all__ = ["PREPARED", "WrittenList", "prepare"]

_MASKS = "SegmentationClassAug"


@dataclass(frozen=True)
class WrittenList:
    """One list.

    Args:
        path: the file.
        samples: lines in it.
        labelled: whether each has a label map.
        changed: whether it was written; ``False`` if it was there with the same content.
    """

    path: Path
    samples: int
    labelled: bool
    changed: bool


def prepare(
    name: str,
    root: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    sbd: str | os.PathLike[str] | None = None,
    val_percent: float = 10,
    overwrite: bool = False,
) -> list[WrittenList]:
    """Writes ``train.txt`` and ``val.txt``, and an unlabelled ``test.txt`` if there are pictures.

    All splits are looked through, and all pairs checked, before the first list is written. Where
    SBD is given or lies in VOC's root, ``train_aug.txt`` comes on top; masks in MATLAB files are
    converted to PNG in ``SegmentationClassAug`` beside the lists.

    Args:
        name: one of ``PREPARED``.
        root: the data set's folder; paths in the lists start from it.
        out: folder for the lists, created if need be; ``root`` by default.
        sbd: folder of SBD, for VOC.
        val_percent: share of pictures for validation, above 0 and below 100, of a folder that has
            ``images`` and ``labels`` but no splits. Names decide which, so that it stays the same.
        overwrite: replace lists that hold something else.

    Raises:
        ArgumentError: if there is no such data set, or an argument does not go with it.
        DataError: if the root is another folder, half of a pair is missing, a list is there with
            other content, or a file cannot be written.
        MissingExtraError: if MATLAB files are to be converted and scipy is not installed.
    """
    if name not in PREPARED:
        raise ArgumentError(
            f"no data set {name!r}", where="data set", fix=f"known are {', '.join(PREPARED)}"
        )
    if sbd is not None and name != "voc":
        raise ArgumentError(f"SBD has nothing to do with {name}", where="sbd", fix="leave it out")
    if not 0 < val_percent < 100:
        raise ArgumentError(
            f"{val_percent} % for validation", where="val_percent", fix="give 0 < percent < 100"
        )
    base = Path(root)
    splits = PREPARED[name](base, sbd=sbd, val_percent=val_percent)
    target = base if out is None else make_folder(Path(out))
    masks = target / _MASKS
    planned = {split: _as_png(pairs, masks) for split, pairs in splits.items()}
    texts = {target / f"{split}.txt": _text(pairs, base) for split, pairs in planned.items()}
    same = {path: _is_there(path, text, overwrite) for path, text in texts.items()}
    for pairs in splits.values():
        _convert_masks(pairs, masks)
    for path, text in texts.items():
        if not same[path]:
            atomic_write(path, lambda stream, text=text: stream.write(text))  # type: ignore[misc]
    return [
        WrittenList(path, len(pairs), pairs[0][1] is not None, not same[path])
        for path, pairs in zip(texts, planned.values(), strict=True)
    ]


def _cityscapes(root: Path, **_: Any) -> dict[str, Pairs]:
    splits = {split: cityscapes.pairs(root, split) for split in ("train", "val")}
    if (root / "leftImg8bit" / "test").is_dir():
        splits["test"] = cityscapes.pairs(root, "test")
    return splits


def _voc(root: Path, *, sbd: str | os.PathLike[str] | None, **_: Any) -> dict[str, Pairs]:
    splits = {split: voc.pairs(root, split) for split in ("train", "val")}
    if sbd is not None or voc.has_sbd(root):
        splits["train_aug"] = voc.pairs(root, "train_aug", sbd=sbd)
    if (root / "ImageSets" / "Segmentation" / "test.txt").is_file():
        splits["test"] = voc.pairs(root, "test")
    return splits


def _ade20k(root: Path, **_: Any) -> dict[str, Pairs]:
    splits = {split: ade20k.pairs(root, split) for split in ("train", "val")}
    if (root / "testing").is_dir() or (root / "images" / "testing").is_dir():
        splits["test"] = ade20k.pairs(root, "test")
    return splits


def _camvid(root: Path, **_: Any) -> dict[str, Pairs]:
    shape = "CamVid's train, trainannot, val and valannot"
    base = require_root(root, "CamVid", ("train", "trainannot", "val", "valannot"), shape)
    splits = {
        split: _matched(base / split, base / f"{split}annot", shape) for split in ("train", "val")
    }
    if (base / "test").is_dir():
        splits["test"] = _pictures(base / "test")
    return splits


def _folder(root: Path, *, val_percent: float, **_: Any) -> dict[str, Pairs]:
    for images, labels in (("{}/images", "{}/labels"), ("images/{}", "labels/{}")):
        if not (root / images.format("train")).is_dir():
            continue
        splits = {
            split: _matched(
                root / images.format(split),
                root / labels.format(split),
                f"the {split} split's pictures and label maps, in {images.format(split)} and "
                f"{labels.format(split)},",
            )
            for split in ("train", "val")
        }
        if (root / images.format("test")).is_dir():
            splits["test"] = _pictures(root / images.format("test"))
        return splits
    shape = "images and labels, or train/images and train/labels beside val/..."
    base = require_root(root, "labelled pictures", ("images", "labels"), shape)
    return _divided(
        _matched(base / "images", base / "labels", "pictures and label maps"), val_percent
    )


def _divided(pairs: Pairs, val_percent: float) -> dict[str, Pairs]:
    """Two splits by the digests of the names: they do not depend on order or machine."""
    if len(pairs) < 2:
        raise DataError(
            "one picture cannot be divided into train and val",
            where=printable(pairs[0][0]),
            fix="add pictures, or make train/images, train/labels, val/images and val/labels",
        )
    ranked = sorted(pairs, key=lambda pair: hashlib.sha256(os.fsencode(pair[0].stem)).digest())
    count = min(max(1, round(len(pairs) * val_percent / 100)), len(pairs) - 1)
    return {"train": sorted(ranked[count:]), "val": sorted(ranked[:count])}


def _matched(images: Path, labels: Path, put: str) -> Pairs:
    return match(files_of(images, put=put), files_of(labels, put=put))


def _pictures(folder: Path) -> Pairs:
    return [(picture, None) for picture in files_of(folder, put="pictures").values()]


PREPARED: Mapping[str, Callable[..., dict[str, Pairs]]] = {
    "cityscapes": _cityscapes,
    "voc": _voc,
    "ade20k": _ade20k,
    "camvid": _camvid,
    "folder": _folder,
}
"""Data sets that lists can be written for; (root, options) → files by split."""


def _text(pairs: Pairs, root: Path) -> bytes:
    lines = []
    for files in pairs:
        fields = [_relative(path, root) for path in files if path is not None]
        lines.append("\t".join(fields) + "\n")
    return "".join(lines).encode()


def _relative(path: Path, root: Path) -> str:
    """A path as lists name it: from the root where possible, whole otherwise."""
    inside = path.is_relative_to(root)
    text = (path.relative_to(root) if inside else path.absolute()).as_posix()
    if text != text.strip() or any(mark in text for mark in "\t\n\r") or not _is_text(text):
        raise DataError(
            "no list can hold this name", where=printable(path), fix="rename the file or folder"
        )
    return text


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_there(path: Path, text: bytes, overwrite: bool) -> bool:
    """Whether the list is there already; refuses to lose another one."""
    if not path.exists():
        return False
    with open_regular(path) as stream:
        if stream.read() == text:
            return True
    if not overwrite:
        raise DataError(
            "is there already and holds something else",
            where=printable(path),
            fix="write the lists elsewhere with out= (--out), or replace it with overwrite=True "
            "(--overwrite)",
        )
    return False


def _as_png(pairs: Pairs, masks: Path) -> Pairs:
    """The pairs as they will be once MATLAB files are converted."""
    return [
        (image, masks / f"{label.stem}.png" if label and label.suffix == ".mat" else label)
        for image, label in pairs
    ]


def _convert_masks(pairs: Pairs, masks: Path) -> None:
    """MATLAB files → PNG; the folder appears under its name when all of them are in it."""
    sources = [label for _, label in pairs if label is not None and label.suffix == ".mat"]
    if not sources:
        return
    if masks.is_dir():
        lacking = [one for one in sources if not (masks / f"{one.stem}.png").is_file()]
        if lacking:
            raise DataError(
                f"{len(lacking)} of {len(sources)} masks are missing, the first is "
                f"{lacking[0].stem}.png",
                where=printable(masks),
                fix="remove this folder, and it will be made anew",
            )
        return
    partial = make_folder(masks.with_name(f".{masks.name}-partial"))
    palette = LABEL_SETS["voc"].palette_array()
    for source in sources:
        target = partial / f"{source.stem}.png"
        if not target.is_file():  # a run that was killed left whole files
            write_png(target, read_mat_label(source), palette=palette)
    try:
        partial.rename(masks)
    except OSError as cause:
        raise DataError(
            "cannot be created", where=printable(masks), why=cause.strerror, fix="check the folder"
        ) from cause
