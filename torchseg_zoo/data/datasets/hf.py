"""Data sets of the Hugging Face ``datasets`` library, from the hub or from a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.data.image import read_image
from torchseg_zoo.data.label_map import checked_train_ids, read_label
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.sample import Sample, require_same_size
from torchseg_zoo.errors import ArgumentError, DataError, MissingExtraError
from torchseg_zoo.files import printable

__all__ = ["TableDataset", "hugging_face"]

# Names that such tables give their columns, the commonest first.
_IMAGE_NAMES = ("image", "pixel_values", "img", "picture", "photo", "jpg", "png")
_LABEL_NAMES = (
    "label", "labels", "mask", "masks", "annotation", "annotations", "segmentation",
    "segmentation_mask", "segmentation_map", "semantic_segmentation", "semantic_mask", "label_map",
    "gt", "ground_truth", "target", "label.segmentation_bitmap",
)  # fmt: skip
_SPLITS = {"val": ("val", "validation", "valid", "dev")}


def hugging_face(
    source: str,
    split: str,
    labels: LabelSet | None = None,
    *,
    image: str | None = None,
    label: str | None = None,
) -> TableDataset:
    """Opens a data set of the ``datasets`` library.

    Args:
        source: folder written by ``save_to_disk``; or whatever ``load_dataset`` takes (a name on
            the hub, a folder of files), with ``:CONFIGURATION`` after it if need be.
        split: ``"val"`` also finds ``validation``, ``valid`` and ``dev``.
        labels: what the values mean, for tables that do not name their classes. Names of
            ``ClassLabel`` features inside the label column, or in a column that lists classes,
            take precedence.
        image: the column of pictures; guessed by type and name.
        label: the column of label maps (pictures, or rows of numbers); guessed by name.

    Raises:
        MissingExtraError: if ``datasets`` is not installed.
        DataError: if there is no such data set or split.
        ArgumentError: if a column cannot be guessed or is not there, or the classes are not known.
    """
    table = _load(source, split)
    name = f"hf:{source}"
    pictures = _image_column(table.features, image, name)
    maps = _label_column(table.features, pictures, label, name)
    names = _class_names(table.features, maps)
    if names is not None and (labels is None or labels.classes != names):
        labels = LabelSet(source, names, generic_labels(len(names)).palette)
    if labels is None:
        raise ArgumentError(
            "the table does not tell how many classes there are",
            where=name,
            fix="say how many, or name them in a file: num_classes= or classes= (--classes K|FILE)",
        )
    return TableDataset(table, labels, pictures, maps, name)


class TableDataset:
    """Rows of a ``datasets.Dataset``; satisfies ``Dataset``.

    Args:
        table: the rows.
        labels: what the values of the label maps mean.
        image: name of the column of pictures.
        label: name of the column of label maps, or ``None`` for pictures without labels.
        name: the table's, for messages and the names of samples.
    """

    def __init__(
        self, table: Any, labels: LabelSet, image: str, label: str | None, name: str
    ) -> None:
        self.labels = labels
        self._image, self._label, self._name = image, label, name
        # Undecoded: the file's bytes tell more than what the library would make of them.
        columns = [image] if label is None else [image, label]
        for column in columns:
            if _kind(table.features[column]) == "Image":
                table = table.cast_column(column, type(table.features[column])(decode=False))
        self._table = table.select_columns(columns)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        """Reads one sample.

        Raises:
            DataError: if a picture cannot be read, picture and labels differ in size, or a label
                value stands for no class.
        """
        row = self._table[index]
        name = f"{self._name}[{index}]"
        image = read_image(_content(row[self._image], name), name=f"{name} {self._image}")
        if self._label is None:
            return Sample(name, image, None)
        where = f"{name} {self._label}"
        stored = _stored_map(row[self._label], where)
        require_same_size(stored, image, where=where, picture=name)
        return Sample(name, image, checked_train_ids(stored, self.labels, where=where))


def _load(source: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as cause:
        raise MissingExtraError(
            "the datasets library is not installed",
            where=f"hf:{source}",
            fix='pip install "torchseg-zoo[hf]"',
        ) from cause
    try:
        if (Path(source) / "dataset_dict.json").exists() or (Path(source) / "state.json").exists():
            found = datasets.load_from_disk(source)
        else:
            name, _, config = (
                source.partition(":") if not Path(source).exists() else (source, "", "")
            )
            found = datasets.load_dataset(name, config or None)
    except Exception as cause:  # anything from a broken file to no network
        raise DataError(
            "the data set cannot be opened",
            where=f"hf:{source}",
            why=str(cause).partition("\n")[0] or type(cause).__name__,
            fix="check the name, the configuration and the network, or give a folder that "
            "save_to_disk wrote",
        ) from cause
    if not isinstance(found, dict):  # one table without splits is whatever it is taken for
        return found
    there = next((one for one in _SPLITS.get(split, (split,)) if one in found), None)
    if there is None:
        raise DataError(
            f"found no split {split!r}",
            where=f"hf:{source}",
            fix=f"it has {', '.join(map(str, found)) or 'none'}",
        )
    return found[there]


def _image_column(features: Mapping[str, Any], wanted: str | None, name: str) -> str:
    pictures = [column for column in features if _kind(features[column]) == "Image"]
    if wanted is not None:
        if wanted not in pictures:
            raise _no_column(f"no column {wanted!r} of pictures", features, name)
        return wanted
    if named := _called(pictures, _IMAGE_NAMES):
        return named
    others = [column for column in pictures if column.lower() not in _LABEL_NAMES]
    if len(others) != 1:
        raise _no_column("cannot tell which column holds the pictures", features, name)
    return others[0]


def _label_column(
    features: Mapping[str, Any], image: str, wanted: str | None, name: str
) -> str | None:
    """The column of label maps; ``None`` if there is nothing but pictures."""
    maps = [column for column in features if column != image and _may_be_map(features[column])]
    if wanted is not None:
        if wanted not in maps:
            raise _no_column(f"no column {wanted!r} of label maps", features, name)
        return wanted
    if named := _called(maps, _LABEL_NAMES):
        return named
    if len(maps) > 1:
        raise _no_column("cannot tell which column holds the label maps", features, name)
    return maps[0] if maps else None


def _called(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that has the first of the names that any has."""
    return next((one for name in names for one in columns if one.lower() == name), None)


def _no_column(what: str, features: Mapping[str, Any], name: str) -> ArgumentError:
    found = ", ".join(f"{column} ({_kind(features[column])})" for column in features)
    return ArgumentError(
        what, where=name, why=f"columns: {found}", fix="rename the columns to image and label"
    )


def _kind(feature: Any) -> str:
    return type(feature).__name__


def _may_be_map(feature: Any) -> bool:
    return _kind(feature) in ("Image", "Array2D") or _kind(getattr(feature, "feature", None)) in (
        "List",
        "LargeList",
        "Sequence",
    )


def _class_names(features: Mapping[str, Any], label: str | None) -> tuple[str, ...] | None:
    """Names of the classes, by the label column or by the only column that lists classes."""
    found = [tuple(one.names) for one in _class_labels(features[label])] if label else []
    if not found:
        # A single class per row is what the whole picture shows, not what its pixels do.
        lists = [one for column, one in features.items() if hasattr(one, "feature")]
        found = [tuple(one.names) for item in lists for one in _class_labels(item)]
    return found[0] if len(set(found)) == 1 else None


def _class_labels(feature: Any) -> Iterator[Any]:
    if _kind(feature) == "ClassLabel":
        yield feature
    elif hasattr(feature, "feature"):
        yield from _class_labels(feature.feature)


def _content(value: Any, name: str) -> bytes | str:
    """An undecoded picture → its bytes, or the file that has them."""
    if isinstance(value, dict):
        content = value.get("bytes") or value.get("path")
        if isinstance(content, bytes | str):
            return content
    raise DataError("there is no picture in this row", where=name, fix="leave the row out")


def _stored_map(value: Any, where: str) -> np.ndarray:
    """A label map as the table holds it → (H, W) uint8."""
    if value is None or isinstance(value, dict):
        return read_label(_content(value, where), name=where)
    try:
        numbers = np.asarray(value)
    except ValueError as cause:  # rows of different lengths
        raise _no_map(where) from cause
    if numbers.ndim != 2 or numbers.size == 0 or numbers.dtype.kind not in "iub":
        raise _no_map(where)
    low, high = int(numbers.min()), int(numbers.max())
    if low < 0 or high > 255:
        raise DataError(
            f"label values run from {low} to {high}, allowed are 0–255",
            where=where,
            fix="map them to class indices, 255 for unlabelled",
        )
    return np.ascontiguousarray(numbers, dtype=np.uint8)


def _no_map(where: str) -> DataError:
    return DataError(
        "not a label map: rows of whole numbers, all of one length, were expected",
        where=printable(where),
        fix="leave the row out, or store the label map as a PNG picture",
    )
