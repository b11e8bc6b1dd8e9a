"""Label sets: what the class indices of a model or data set mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchseg_zoo.errors import ArgumentError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CAMVID", "CITYSCAPES", "LABEL_SETS", "LabelSet", "generic_labels"]

Color = tuple[int, int, int]


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
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ignore_index: int = 255
    raw_ids: Mapping[int, int] | None = None

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

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

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
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> LabelSet:
        """Reads the form written by ``to_dict``."""
        raw_ids = record.get("raw_ids")
        return cls(
            name=str(record["name"]),
            classes=tuple(str(name) for name in record["classes"]),
            palette=tuple((int(r), int(g), int(b)) for r, g, b in record["palette"]),
            ignore_index=int(record.get("ignore_index", 255)),
            raw_ids=raw_ids and {int(raw): int(train) for raw, train in raw_ids.items()},
        )


def _labels(
    name: str, rows: Sequence[tuple[str, Color]], raw_ids: Mapping[int, int] | None = None
) -> LabelSet:
    return LabelSet(
        name, tuple(name for name, _ in rows), tuple(color for _, color in rows), raw_ids=raw_ids
    )


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


CITYSCAPES = _labels(
    "cityscapes",
    [
        ("road", (128, 64, 128)),
        ("sidewalk", (244, 35, 232)),
        ("building", (70, 70, 70)),
        ("wall", (102, 102, 156)),
        ("fence", (190, 153, 153)),
        ("pole", (153, 153, 153)),
        ("traffic light", (250, 170, 30)),
        ("traffic sign", (220, 220, 0)),
        ("vegetation", (107, 142, 35)),
        ("terrain", (152, 251, 152)),
        ("sky", (70, 130, 180)),
        ("person", (220, 20, 60)),
        ("rider", (255, 0, 0)),
        ("car", (0, 0, 142)),
        ("truck", (0, 0, 70)),
        ("bus", (0, 60, 100)),
        ("train", (0, 80, 100)),
        ("motorcycle", (0, 0, 230)),
        ("bicycle", (119, 11, 32)),
    ],
    raw_ids={
        raw: train
        for train, raw in enumerate(
            (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
        )
    },
)

CAMVID = _labels(
    "camvid",
    [
        ("sky", (128, 128, 128)),
        ("building", (128, 0, 0)),
        ("pole", (192, 192, 128)),
        ("road", (128, 64, 128)),
        ("pavement", (60, 40, 222)),
        ("tree", (128, 128, 0)),
        ("sign", (192, 128, 128)),
        ("fence", (64, 64, 128)),
        ("car", (64, 0, 128)),
        ("pedestrian", (64, 64, 0)),
        ("bicyclist", (0, 128, 192)),
    ],
    raw_ids={index: index for index in range(11)},
)

LABEL_SETS: dict[str, LabelSet] = {labels.name: labels for labels in (CITYSCAPES, CAMVID)}
