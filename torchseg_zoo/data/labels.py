"""Label sets: what the class indices of a model or data set mean; ``label_sets`` has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchseg_zoo.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LabelSet", "generic_labels"]

Color = tuple[int, int, int]

_GENERIC = re.compile(r"class \d+")  # as ``generic_labels`` names them: nobody said what they are


@dataclass(frozen=True)
class LabelSet:
    """Names and colours of classes 0 .. K-1, and the index that stands for "do not count".

    Args:
        name: short name of the set, e.g. ``"cityscapes"``.
        classes: K class names; the position is the class index (train id).
        palette: K colours, (red, green, blue), each 0..255.
        ignore_index: label value left out of losses and metrics.
        raw_ids: raw label value on disk → train id, for data sets whose files hold other values.
            Values that are not listed become ``ignore_index``. ``None``: files hold train ids.
        raw_colors: (red, green, blue) on disk → train id or ``ignore_index``, for label maps that
            are painted; palette files count by their colours, too. Every colour must be listed.
            ``None``: files hold numbers.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = 255
    raw_ids: Mapping[int, int] | None = None
    raw_colors: Mapping[Color, int] | None = None

    def __post_init__(self) -> None:
        if not self.classes:
            raise ArgumentError(
                "a label set needs at least one class", where=f"labels {self.name!r}"
            )
        if len(self.classes) != len(self.palette):
            raise ArgumentError(
                f"{len(self.classes)} classes but {len(self.palette)} colours",
                where=f"labels {self.name!r}",
                fix="give one colour per class",
            )
        if self.raw_ids is not None and self.raw_colors is not None:
            raise ArgumentError(
                "raw_ids and raw_colors exclude each other",
                where=f"labels {self.name!r}",
                fix="files hold numbers or colours: give one of the two",
            )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    def first_difference(self, other: LabelSet) -> int | None:
        """The first class that is another in ``other``, a set of as many classes; or ``None``.

        Spelling, as of "traffic light" and "traffic_light", does not matter, and classes that have
        only numbers for names may be any.
        """
        for index, names in enumerate(zip(self.classes, other.classes, strict=True)):
            if any(_GENERIC.fullmatch(name) for name in names):
                continue
            first, second = (re.sub(r"[\W_]+", "", name).casefold() for name in names)
            if first != second:
                return index
        return None

    def palette_array(self) -> np.ndarray:
        """Colours as a (256, 3) uint8 table; indices without a class are black."""
        import numpy as np  # here, because listing checkpoints needs label sets but no arrays

        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.palette
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; ``from_dict`` reads it back."""
        record: dict[str, Any] = {
            "name": self.name,
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "ignore_index": self.ignore_index,
        }
        if self.raw_ids is not None:
            record["raw_ids"] = {str(raw): train for raw, train in self.raw_ids.items()}
        if self.raw_colors is not None:
            record["raw_colors"] = {
                bytes(color).hex(): train for color, train in self.raw_colors.items()
            }
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LabelSet:
        """Reads the form written by ``to_dict``."""
        raw_ids, raw_colors = record.get("raw_ids"), record.get("raw_colors")
        return cls(
            name=str(record["name"]),
            classes=tuple(str(name) for name in record["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in record["palette"]),
            ignore_index=int(record.get("ignore_index", 255)),
            raw_ids=raw_ids and {int(raw): int(train) for raw, train in raw_ids.items()},
            raw_colors=raw_colors
            and {_color(text): int(train) for text, train in raw_colors.items()},
        )


def _color(text: str) -> Color:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


def generic_labels(num_classes: int, name: str = "custom") -> LabelSet:
    """Label set with numbered names and well-separated colours, for models without named classes.

    The colours follow the bit-interleaving rule of the PASCAL VOC development kit.
    """
    palette = []
    for index in range(num_classes):
        color = [0, 0, 0]
        bits = index + 1
        for shift in range(7, -1, -1):
            for channel in range(3):
                color[channel] |= ((bits >> channel) & 1) << shift
            bits >>= 3
        palette.append((color[0], color[1], color[2]))
    return LabelSet(name, tuple(f"class {i}" for i in range(num_classes)), tuple(palette))
