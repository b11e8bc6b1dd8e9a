"""The classes file of a folder of one's own: names, and colours if wanted."""

from __future__ import annotations

import json
import re
from pathlib import Path

from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.errors import DataError, ZooError
from torchseg_zoo.files import open_regular, printable

__all__ = ["find_classes", "read_classes"]

_COLOR = re.compile(r"#?([0-9a-fA-F]{6})")
_MOST = 255  # 8-bit label maps, less the ignore index


def find_classes(folder: Path) -> LabelSet | None:
    """The label set of ``classes.txt`` or ``classes.json`` in a folder; ``None`` without either.

    Raises:
        DataError: as ``read_classes``.
    """
    for name in ("classes.txt", "classes.json"):
        if (folder / name).exists():
            return read_classes(folder / name)
    return None


def read_classes(path: str | Path) -> LabelSet:
    """Reads a classes file.

    Args:
        path: text with one class name in a line, in the order of the values in the label maps, and
            after a tab a colour as rrggbb if wanted; or JSON as ``LabelSet.to_dict`` gives it. 255
            in a label map means unlabelled.

    Returns:
        Label set named after the folder. Classes without a colour get one.

    Raises:
        DataError: if the file cannot be read, names nothing, too many or a class twice, or has a
            colour that is none.
    """
    path = Path(path)
    where = printable(path)
    with open_regular(path) as stream:
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            return _checked(LabelSet.from_dict(json.loads(text)), where)
    except ZooError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as cause:
        raise DataError(
            "the classes file cannot be read",
            where=where,
            why=str(cause),
            fix="write one class name in a line, as UTF-8 text",
        ) from cause
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(
            "the classes file is empty", where=where, fix="write one class name in a line"
        )
    names, colors = [], []
    for number, line in enumerate(lines, start=1):
        name, _, color = (part.strip() for part in line.partition("\t"))
        found = _COLOR.fullmatch(color)
        if color and found is None:
            raise DataError(
                f"{color!r} is no colour",
                where=f"{where} class {number}",
                fix="give it as rrggbb, like ff0000 for red",
            )
        names.append(name)
        colors.append(found and bytes.fromhex(found[1]))
    spare = generic_labels(min(len(names), _MOST)).palette
    palette = [
        (color[0], color[1], color[2]) if color else spare[index % _MOST]
        for index, color in enumerate(colors)
    ]
    return _checked(LabelSet(path.resolve().parent.name, tuple(names), tuple(palette)), where)


def _checked(labels: LabelSet, where: str) -> LabelSet:
    if labels.num_classes > _MOST:
        raise DataError(
            f"{labels.num_classes} classes", where=where, fix=f"label maps hold at most {_MOST}"
        )
    twice = next((n for n in labels.classes if labels.classes.count(n) > 1), None)
    if twice is not None:
        raise DataError(
            f"class {twice!r} is there twice", where=where, fix="give every class its own name"
        )
    return labels
