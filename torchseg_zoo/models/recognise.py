"""What model a bare state dict belongs to, for messages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.registry import list_models, model_factory
from torchseg_zoo.weights.convert import describe
from torchseg_zoo.weights.convert.base import unwrap

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["describe_state"]

Shapes = dict[str, tuple[int, ...]]


def describe_state(state_dict: Mapping[str, object]) -> str:
    """What a state dict is for, in words.

    Names of this package's own do not tell the model: all registered ones are built on the meta
    device and compared, which takes seconds the first time. Only messages need it.

    Returns:
        ``"pspnet_r101, 150 classes, in the layout of mmseg"``, or without a layout for native
        names; "" if it fits nothing.
    """
    if foreign := describe(state_dict):
        return foreign
    with suppress(CheckpointFormatError):
        shapes = {name: tuple(tensor.shape) for name, tensor in unwrap(state_dict).items()}
        return next(filter(None, (_as(name, shapes) for name in list_models())), "")
    return ""


def _as(name: str, shapes: Shapes) -> str:
    """The model's name and the number of classes, if all tensors fit with that many."""
    factory = model_factory(name)
    own, classifiers = _made(factory, None)
    if not own or own.keys() != shapes.keys():
        return ""
    counts = {shapes[f"{path}.weight"][:1] for path in classifiers}
    if len(counts) != 1 or not (count := counts.pop()) or count[0] < 1:
        return ""
    return f"{name}, {count[0]} classes" if _made(factory, count[0])[0] == shapes else ""


@functools.lru_cache(maxsize=256)
def _made(
    factory: Callable[..., SegmentationModel], num_classes: int | None
) -> tuple[Shapes, tuple[str, ...]]:
    """Shapes of a factory's model, and the paths of its classifiers; none if it cannot be built."""
    with torch.device("meta"):
        try:
            model = factory(num_classes=num_classes)
        except Exception:  # a factory of a user's may need arguments, or fail as it likes
            return {}, ()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return shapes, tuple(model.classifiers())
