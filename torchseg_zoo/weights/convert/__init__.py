"""Foreign layouts → native names. One file per layout; none imports a model.

A converter takes a flat state dict and returns the factory's name, the model's configuration and
the renamed tensors. ``recognise`` finds the layout by the names that only it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from torch import Tensor

from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, ZooError
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

__all__ = ["LAYOUTS", "Converted", "convert", "describe"]

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
        layout = _recognised(tensors)
        if layout is None:
            raise CheckpointFormatError(
                "no known layout has these names",
                why=", ".join(list(tensors)[:5]) or "it is empty",
                fix=f"known are {', '.join(LAYOUTS)}; load_model(layout=) says which one it is",
            )
    if layout not in LAYOUTS:
        raise ArgumentError(f"no layout {layout!r}", fix=f"choose from {', '.join(LAYOUTS)}")
    try:
        return LAYOUTS[layout](tensors)
    except KeyError as error:
        raise CheckpointFormatError(
            f"no tensor {error.args[0]!r}, which every {layout} checkpoint of this kind has",
            where=f"layout {layout}",
            fix="fetch the whole file again, or pass the layout that it has",
        ) from error
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, ZooError):
            raise
        # Configurations are read off shapes, and those may be anything.
        raise CheckpointFormatError(
            f"no {layout} checkpoint has tensors of these shapes",
            where=f"layout {layout}",
            why=f"{type(error).__name__}: {error}",
            fix="fetch the file again, or pass the layout that it has",
        ) from error


def describe(state_dict: Mapping[str, object]) -> str:
    """What a foreign state dict is for, in words, as far as it can be told.

    Returns:
        ``Converted.holds``, or the layout alone where the file is damaged; "" if no layout has such
        names.
    """
    with suppress(CheckpointFormatError):
        tensors = unwrap(state_dict)
        if layout := _recognised(tensors):
            with suppress(CheckpointFormatError):
                return convert(tensors, layout=layout).holds
            return f"a model in the layout of {layout}"
    return ""


def _recognised(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, module in _MODULES.items() if module.recognise(tensors)), None)
