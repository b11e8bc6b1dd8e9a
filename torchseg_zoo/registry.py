"""Which models exist, by name. Free of torch: names are known before any model is imported."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import functools
import sys
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torchseg_zoo.errors import UnknownModelError
from torchseg_zoo.weights import manifest

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = [
    "create_model",
    "given_options",
    "known_model",
    "list_models",
    "model_factory",
    "register_model",
]

_Factory = TypeVar("_Factory", bound="Callable[..., SegmentationModel]")
_FACTORIES: dict[str, Callable[..., SegmentationModel]] = {}
_GIVEN: ContextVar[frozenset[str]] = ContextVar("given_options", default=frozenset())


def register_model(factory: _Factory) -> _Factory:
    """Registers a factory under its own name; use it as a decorator, in this package or outside it.

    The factory takes ``pretrained: str | None`` first and keyword-only options after it, and
    returns a ``SegmentationModel``. Registering a name again replaces the earlier factory.
    """

    @functools.wraps(factory)
    def noting(*positional: Any, **options: Any) -> SegmentationModel:
        token = _GIVEN.set(frozenset(options))
        try:
            return factory(*positional, **options)
        finally:
            _GIVEN.reset(token)

    _FACTORIES[factory.__name__] = noting
    return cast(_Factory, noting)


def given_options() -> frozenset[str]:
    """The options that the caller of the running factory has written out.

    A default cannot be told from the same value given on purpose, and only the latter may be
    refused beside ``pretrained``.
    """
    return _GIVEN.get()


def create_model(name: str, pretrained: str | None = None, **options: Any) -> SegmentationModel:
    """Builds a model by name.

    Args:
        name: a registered name, ``"bisenet_x39"``, or a name with a checkpoint tag,
            ``"bisenet_x39.camvid"``.
        pretrained: checkpoint tag; not together with a tag in ``name``.
        options: what the factory takes: ``num_classes``, ``in_channels``, ``backbone``, ...

    Raises:
        UnknownModelError: if there is no such model.
        UnknownCheckpointError: if the model has no such checkpoint.
        TypeError: if the factory does not know an option.
    """
    name, dot, tag = name.partition(".")
    factory = model_factory(name)
    if not dot:
        return factory(pretrained, **options)
    if pretrained not in (None, tag):
        raise TypeError(f"{name}.{tag} names a checkpoint already; drop pretrained={pretrained!r}")
    return factory(tag, **options)


def model_factory(name: str) -> Callable[..., SegmentationModel]:
    """The factory registered as ``name``.

    Raises:
        UnknownModelError: if there is none; the message suggests the nearest names.
    """
    if name not in _FACTORIES:
        import torchseg_zoo.models  # noqa: F401  (registers the package's own)
    known_model(name)
    return _FACTORIES[name]


def known_model(name: str) -> None:
    """Checks that a model is registered, without importing any.

    Raises:
        UnknownModelError: if it is not; the message suggests the nearest names.
    """
    if name not in (names := _names()):
        near = difflib.get_close_matches(name, names, n=3)
        raise UnknownModelError(
            f"no model {name!r}",
            fix=f"did you mean {' or '.join(near)}?"
            if near
            else "list_models() names them all, as `torchseg-zoo list` does",
        )


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of models, sorted.

    Args:
        pattern: shell wildcards, e.g. ``"bisenet*"``; a plain word matches itself only.
        pretrained: list checkpoints instead, each once, as ``"model.tag"``; the pattern may match
            the model's name, the whole, or an alias of it.
    """
    if pretrained:
        return [
            entry.name
            for entry in manifest.list_checkpoints()
            if any(fnmatch.fnmatch(name, pattern) for name in (entry.model, *entry.names))
        ]
    return sorted(fnmatch.filter(_names(), pattern))


def _names() -> set[str]:
    if "torchseg_zoo.models" in sys.modules:
        return set(_FACTORIES)
    return _own_names() | set(_FACTORIES)


@functools.cache
def _own_names() -> set[str]:
    """Names of the package's factories, read from the source: importing it would load torch."""
    names = set()
    for path in Path(__file__).with_name("models").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(decorator, ast.Name) and decorator.id == register_model.__name__
                for decorator in node.decorator_list
            ):
                names.add(node.name)
    return names
