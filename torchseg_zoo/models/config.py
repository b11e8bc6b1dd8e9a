"""What rebuilds a model: its configuration, and which inputs it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torchseg_zoo.backbones import Backbone, BackboneOptions, create_backbone
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError
from torchseg_zoo.types import Size

__all__ = ["InputRule", "ModelConfig"]


@dataclass(frozen=True)
class InputRule:
    """Which input sizes a model takes.

    Args:
        multiple: both sides must be multiples of this.
        fixed: the only (height, width) that works, or ``None``.
    """

    multiple: int = 1
    fixed: Size | None = None

    def nearest(self, height: int, width: int) -> Size:
        """The smallest size that works and holds (height, width), or the fixed one."""
        if self.fixed is not None:
            return self.fixed
        return (
            -(-height // self.multiple) * self.multiple,
            -(-width // self.multiple) * self.multiple,
        )


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a model again; each family adds its own fields.

    Args:
        model: factory name, e.g. ``"bisenet_r18"``.
        backbone: see ``create_backbone``.
        num_classes: K.
        in_channels: C of the input.
        align_corners: how maps and logits are resized.
        backbone_options: strides and dilations of the backbone.
    """

    model: str
    backbone: str
    num_classes: int = 19
    in_channels: int = 3
    align_corners: bool = True
    backbone_options: BackboneOptions = BackboneOptions()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        if not isinstance(self.num_classes, int) or self.num_classes < 1:
            raise ArgumentError(
                f"num_classes is {self.num_classes!r}",
                where=self.model,
                fix="give a whole number of at least 1",
            )
        if self.num_classes > 255:
            raise ArgumentError(
                f"num_classes is {self.num_classes}",
                where=self.model,
                why="label maps are uint8 and 255 means ignore",
                fix="give at most 255",
            )
        if not isinstance(self.in_channels, int) or self.in_channels < 1:
            raise ArgumentError(
                f"in_channels is {self.in_channels!r}",
                where=self.model,
                fix="give a whole number of at least 1",
            )

    def make_backbone(self, *, levels: int, pretrained: bool) -> Backbone:
        """The network below the heads; arguments and errors are those of ``create_backbone``."""
        return create_backbone(
            self.backbone,
            in_channels=self.in_channels,
            levels=levels,
            options=self.backbone_options,
            pretrained=pretrained,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; ``from_dict`` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Reads the form written by ``to_dict``.

        Raises:
            CheckpointFormatError: if it has a field that this family does not know.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(record) - known):
            raise CheckpointFormatError(
                f"{cls.__name__} has no field {', '.join(unknown)}", fix="update torchseg-zoo"
            )
        values = _tuples(record)
        if isinstance(options := values.get("backbone_options"), dict):
            values["backbone_options"] = BackboneOptions(**options)
        return cls(**values)


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists and dicts where configurations have tuples and records."""
    return {
        key: tuple(value)
        if isinstance(value, list)
        else _tuples(value)
        if isinstance(value, Mapping)
        else value
        for key, value in record.items()
    }
