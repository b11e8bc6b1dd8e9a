"""The header of a safetensors file, checked to the last byte before anything believes it.

The format: eight bytes with the header's length, the header in JSON, the tensors' bytes without
gaps. JSON's readers differ in what they make of repeated keys, and safetensors' own reader allows a
100 MB header; so the rules here are narrower than the format's.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from torchseg_zoo.errors import CheckpointFormatError
from torchseg_zoo.files import open_regular, printable

__all__ = ["DTYPES", "FORMAT", "NAME", "Header", "is_safetensors", "read_header"]

FORMAT = "torchseg_zoo"  # the key in the header's metadata under which a model describes itself
NAME = re.compile(r"[!-~]{1,512}")  # what a tensor may be called
_LIMIT = 4 << 20
_MAX_DIMENSIONS = 8
_MAX_SIDE = 1 << 40
_FIELDS = {"dtype", "shape", "data_offsets"}


class DType(NamedTuple):
    """A number format: its name in ``torch`` and its bytes per element."""

    torch_name: str
    width: int


DTYPES = {
    "F64": DType("float64", 8),
    "F32": DType("float32", 4),
    "F16": DType("float16", 2),
    "BF16": DType("bfloat16", 2),
    "I64": DType("int64", 8),
    "I32": DType("int32", 4),
    "I16": DType("int16", 2),
    "I8": DType("int8", 1),
    "U8": DType("uint8", 1),
    "BOOL": DType("bool", 1),
}


@dataclass(frozen=True)
class Header:
    """What a file says it holds, and does.

    Args:
        tensors: name → (dtype code, shape, offset of its first byte in the file).
        metadata: free text by key.
        size: of the whole file in bytes.
    """

    tensors: dict[str, tuple[str, tuple[int, ...], int]]
    metadata: dict[str, str]
    size: int


def read_header(path: Path) -> Header:
    """Reads and checks a file's header against its length.

    Raises:
        CheckpointFormatError: if the file is cut, has bytes left over, or breaks a rule: header of
            at most 4 MB, no repeated keys, plain names, known dtypes, no gaps and no overlaps.
    """
    with open_regular(path, error=CheckpointFormatError) as file:
        return _Reader(file, printable(path)).read()


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors files do and pickles do not.

    Raises:
        CheckpointFormatError: if there is no such file.
    """
    with open_regular(path, error=CheckpointFormatError) as file:
        start = file.read(9)
    # The header's length has zeros in its upper bytes, where a zip or a pickle has none.
    return start[5:] == b"\0\0\0{"


class _Reader:
    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where = file, where

    def read(self) -> Header:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(8)
        if len(start) < 8:
            self._fail("byte 0", f"the file has {size} bytes")
        length = int.from_bytes(start, "little")
        if not 2 <= length <= min(_LIMIT, size - 8):
            self._fail("byte 0", f"a header of {length} bytes in a file of {size}")
        record = self._parse(self._file.read(length))
        metadata = record.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            self._fail("__metadata__", "not a record of texts")
        spans = sorted(self._span(name, entry) for name, entry in record.items())
        end = 0
        for start_byte, end_byte, name in spans:
            if start_byte != end:
                kind = "overlaps" if start_byte < end else "leaves a gap behind"
                self._fail(f"{name}.data_offsets", f"{kind} the tensor before, at byte {end}")
            end = end_byte
        if 8 + length + end != size:
            self._fail(f"byte {8 + length}", f"{end} bytes of tensors in {size - 8 - length}")
        tensors = {
            name: (entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
            for name, entry in record.items()
        }
        return Header(tensors, metadata, size)

    def _parse(self, text: bytes) -> dict[str, Any]:
        if not text.startswith(b"{"):
            self._fail("byte 8", "the header does not begin with {")
        try:
            record = json.loads(
                text.decode("utf-8"), object_pairs_hook=_unrepeated, parse_constant=_no_constant
            )
        except (ValueError, RecursionError) as error:
            self._fail("header", f"{type(error).__name__}: {error}")
        if not isinstance(record, dict):
            self._fail("header", "not a record")
        return record

    def _span(self, name: str, entry: object) -> tuple[int, int, str]:
        if not NAME.fullmatch(name):
            self._fail("header", f"the odd name {name[:80]!r}")
        if not isinstance(entry, dict) or set(entry) != _FIELDS:
            self._fail(name, f"has not just the fields {', '.join(sorted(_FIELDS))}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._fail(f"{name}.dtype", f"{str(dtype)[:40]!r} is not one of {', '.join(DTYPES)}")
        if not _whole(shape) or len(shape) > _MAX_DIMENSIONS:
            self._fail(f"{name}.shape", f"{str(shape)[:80]} is not a shape")
        if not _whole(offsets) or len(offsets) != 2:
            self._fail(f"{name}.data_offsets", f"{str(offsets)[:80]} is not two offsets")
        wanted = math.prod(shape) * DTYPES[dtype].width
        if offsets[1] - offsets[0] != wanted:
            self._fail(
                f"{name}.data_offsets", f"{offsets[1] - offsets[0]} bytes for a tensor of {wanted}"
            )
        return offsets[0], offsets[1], name

    def _fail(self, field: str, why: str) -> NoReturn:
        raise CheckpointFormatError(
            "not a readable safetensors file",
            where=self._where,
            why=f"{field}: {' '.join(why.split())}",
            fix="fetch or save it again; files of other projects need converting first",
        )


def _whole(numbers: object) -> bool:
    # bool is an int for isinstance, and JSON knows both.
    return isinstance(numbers, list) and all(
        type(number) is int and 0 <= number <= _MAX_SIDE for number in numbers
    )


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is there twice")
    return record


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
