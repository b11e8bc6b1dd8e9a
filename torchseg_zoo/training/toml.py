"""Settings as a TOML file: written here, read by Python's own reader."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from typing import Any

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.files import atomic_write, open_regular, printable

__all__ = ["format_settings", "read_settings", "write_settings"]


def format_settings(settings: Mapping[str, Any], *, comment: str = "") -> str:
    """One ``name = value`` per line; TOML has no null, so what is ``None`` is left out.

    Args:
        settings: texts, numbers, truth values, and lists or tuples of these.
        comment: lines to stand before them.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"{name} = {_value(value)}" for name, value in settings.items() if value is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for this one character that TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def write_settings(
    path: str | os.PathLike[str], settings: Mapping[str, Any], *, comment: str = ""
) -> None:
    """Writes ``format_settings`` into a file, whole or not at all.

    Raises:
        DataError: if it cannot be written.
    """
    text = format_settings(settings, comment=comment)
    atomic_write(path, lambda file: file.write(text.encode()))


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        DataError: if it cannot be read.
        ArgumentError: if it is no TOML, or its values stand in tables.
    """
    with open_regular(path) as file:
        content = file.read()
    try:
        settings = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ArgumentError(
            "is not a TOML file",
            where=printable(path),
            why=str(error),
            fix="write one NAME = VALUE per line, as torchseg-zoo train --save-config does",
        ) from error
    tables = [name for name, value in settings.items() if isinstance(value, dict)]
    if tables:
        raise ArgumentError(
            f"has a table [{tables[0]}]",
            where=printable(path),
            fix="settings are flat: one NAME = VALUE per line",
        )
    return settings
