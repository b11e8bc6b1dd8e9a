"""Foreign layouts → native names. One file per layout; none imports a model.

A converter takes a flat state dict and returns the factory's name, the model's configuration and
the renamed tensors. ``recognise`` finds the layout by the names that only it has.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchseg_zoo.errors import ArgumentError, CheckpointFormatError
from torchseg_zoo.weights.convert import (
    denseaspp,
    encoding,
    jfzhang95,
    mmseg,
    openseg,
    semseg,
    torchseg,
    torchvision,
    vainf,
)
from torchseg_zoo.weights.convert.base import Converted, Converter, unwrap

__all__ = ["LAYOUTS", "Converted", "convert"]

_MODULES = {
    "semseg": semseg,
    "torchseg": torchseg,
    "mmseg": mmseg,
    "torchvision": torchvision,
    "vainf": vainf,
    "jfzhang95": jfzhang95,
    "denseaspp": denseaspp,
    "encoding": encoding,
    "openseg": openseg,
}
LAYOUTS: dict[str, Converter] = {name: module.convert for name, module in _MODULES.items()}


def convert(state_dict: Mapping[str, object], *, layout: str | None = None) -> Converted:
    """Renames a foreign state dict.

    Args:
        state_dict: tensors by name, bare or in the usual wrappings (``model``, ``state_dict``,
            ``module.`` prefixes).
        layout: name of the layout; recognised by its keys without it.

    Raises:
        ArgumentError: if there is no such layout.
        CheckpointFormatError: if no layout fits, or a key is unknown.
    """
    tensors: Mapping[str, Tensor] = unwrap(state_dict)
    if layout is None:
        found = [name for name, module in _MODULES.items() if module.recognise(tensors)]
        if not found:
            raise CheckpointFormatError(
                "no known layout has these names",
                why=", ".join(list(tensors)[:5]) or "it is empty",
                fix=f"pass layout=, one of {', '.join(LAYOUTS)}",
            )
        layout = found[0]
    if layout not in LAYOUTS:
        raise ArgumentError(f"no layout {layout!r}", fix=f"choose from {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](tensors)
