"""``weights.header``: safetensors files that are not what they say."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import torchseg_zoo as tsz
from torchseg_zoo.errors import ArgumentError, CheckpointFormatError, ZooError
from torchseg_zoo.weights.header import FORMAT, is_safetensors, read_header
from torchseg_zoo.weights.load import check_fits, read_tensors
from torchseg_zoo.weights.save import write_tensors

DATA = bytes(range(16))
GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
}


def packed(header: object, data: bytes = DATA, *, length: int | None = None) -> bytes:
    """A file with this header, given as a record or as text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def changed(name: str, **fields: Any) -> dict[str, Any]:
    """The good header with one tensor's fields changed."""
    return {**GOOD, name: {**GOOD[name], **fields}}


def without(field: str) -> dict[str, Any]:
    return {**GOOD, "a": {key: value for key, value in GOOD["a"].items() if key != field}}


ONE = json.dumps(GOOD["a"])
TWO = json.dumps(GOOD["b"])

BAD: dict[str, tuple[bytes, str]] = {
    # the length
    "empty": (b"", "byte 0: the file has 0 bytes"),
    "seven bytes": (b"\2\0\0\0\0\0\0", "byte 0: the file has 7 bytes"),
    "no header": (packed(b""), "byte 0: a header of 0"),
    "one byte of header": (packed(b"{"), "byte 0"),
    "longer than the file": (packed(GOOD, length=5000), "byte 0: a header of 5000"),
    "endless": (packed(GOOD, length=2**63), "byte 0"),
    "all ones": (packed(GOOD, length=2**64 - 1), "byte 0"),
    "above 4 MB": (packed(b"{" + b" " * (4 << 20) + b"}", b""), "byte 0: a header of 4194306"),
    "shorter than itself": (packed(GOOD, length=20), "header"),
    "longer than itself": (packed(GOOD, length=len(json.dumps(GOOD)) + 3), "header"),
    # the JSON
    "an array": (packed(b"[1, 2]"), "byte 8"),
    "blanks first": (packed(b"  " + json.dumps(GOOD).encode()), "byte 8"),
    "two records": (packed(json.dumps(GOOD).encode() + b"{}"), "header: JSONDecodeError"),
    "cut": (packed(json.dumps(GOOD).encode()[:-1]), "header: JSONDecodeError"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "header: UnicodeDecodeError"),
    "UTF-16": (packed(json.dumps(GOOD).encode("utf-16")), "byte 8"),
    "deep": (packed(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "header: RecursionError"),
    "deep arrays": (packed(b'{"a":' + b"[" * 100_000), "header"),
    "a comment": (packed(b'{"a": ' + ONE.encode() + b"} // x"), "header"),
    "NaN": (packed(json.dumps(changed("a", shape=[float("nan")]))[:].encode()), "NaN is not JSON"),
    "Infinity": (packed(b'{"a": Infinity}'), "Infinity is not JSON"),
    "a number too long": (packed(b'{"a": ' + b"9" * 5000 + b"}"), "header: ValueError"),
    "a name twice": (packed(f'{{"a": {ONE}, "a": {ONE}, "b": {TWO}}}'.encode()), "'a' is there tw"),
    "a name twice, escaped": (packed(f'{{"a": {ONE}, "\\u0061": {ONE}}}'.encode()), "there twice"),
    "a field twice": (
        packed(b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
        "'dtype' is there twice",
    ),
    "metadata twice": (packed(b'{"__metadata__": {}, "__metadata__": {}}', b""), "there twice"),
    "metadata that is a list": (packed({"__metadata__": [], **GOOD}), "__metadata__"),
    "metadata with numbers": (packed({"__metadata__": {"a": 1}, **GOOD}), "__metadata__"),
    "metadata with records": (packed({"__metadata__": {"a": {}}, **GOOD}), "__metadata__"),
    # names
    "an empty name": (packed({"": GOOD["a"], "b": GOOD["b"]}), "the odd name ''"),
    "a blank in a name": (packed({"a b": GOOD["a"], "b": GOOD["b"]}), "the odd name 'a b'"),
    "a NUL in a name": (packed({"a\0": GOOD["a"], "b": GOOD["b"]}), "the odd name"),
    "a line in a name": (packed({"a\n": GOOD["a"], "b": GOOD["b"]}), "the odd name"),
    "an escape in a name": (packed({"\x1b[2J": GOOD["a"], "b": GOOD["b"]}), "the odd name"),
    "letters that look alike": (packed({"\u0430": GOOD["a"], "b": GOOD["b"]}), "the odd name"),
    "a lone surrogate": (packed(f'{{"\\ud800": {ONE}, "b": {TWO}}}'.encode()), "the odd name"),
    "an endless name": (packed({"a" * 600: GOOD["a"], "b": GOOD["b"]}), "the odd name"),
    # entries
    "an entry that is text": (packed({**GOOD, "a": "F32"}), "a: has not just the fields"),
    "an entry that is null": (packed({**GOOD, "a": None}), "a: has not just the fields"),
    "no dtype": (packed(without("dtype")), "a: has not just the fields"),
    "no shape": (packed(without("shape")), "a: has not just the fields"),
    "no offsets": (packed(without("data_offsets")), "a: has not just the fields"),
    "one field more": (packed(changed("a", stride=[1])), "a: has not just the fields"),
    "an unknown dtype": (packed(changed("a", dtype="Q4")), r"a\.dtype: 'Q4'"),
    "a dtype in small letters": (packed(changed("a", dtype="f32")), r"a\.dtype"),
    "a dtype that is a number": (packed(changed("a", dtype=32)), r"a\.dtype"),
    "a dtype that is a list": (packed(changed("a", dtype=["F32"])), r"a\.dtype"),
    "an eight-bit float": (packed(changed("a", dtype="F8_E4M3", shape=[8])), r"a\.dtype"),
    "a complex": (packed(changed("a", dtype="C64", shape=[1])), r"a\.dtype"),
    "a shape that is a number": (packed(changed("a", shape=2)), r"a\.shape"),
    "a negative side": (packed(changed("a", shape=[-2])), r"a\.shape"),
    "two negative sides": (packed(changed("a", shape=[-1, -2])), r"a\.shape"),
    "half a side": (packed(changed("a", shape=[2.0])), r"a\.shape"),
    "a side that is true": (packed(changed("a", shape=[2, True])), r"a\.shape"),
    "a side that is text": (packed(changed("a", shape=["2"])), r"a\.shape"),
    "nine dimensions": (packed(changed("a", shape=[2] + [1] * 8)), r"a\.shape"),
    "sides that overflow": (packed(changed("a", shape=[2**33, 2**33, 2**33])), r"a\.data_offs"),
    "a shape that is too long": (packed(changed("a", shape=[3])), r"a\.data_offsets: 8 bytes for"),
    "offsets backwards": (packed(changed("a", data_offsets=[8, 0])), r"a\.data_offsets"),
    "one offset": (packed(changed("a", data_offsets=[0])), r"a\.data_offsets"),
    "three offsets": (packed(changed("a", data_offsets=[0, 8, 8])), r"a\.data_offsets"),
    "an offset that is half": (packed(changed("a", data_offsets=[0, 8.0])), r"a\.data_offsets"),
    "an offset below zero": (packed(changed("a", data_offsets=[-8, 0])), r"a\.data_offsets"),
    "an offset beyond all": (
        packed(changed("a", data_offsets=[2**63, 2**63 + 8])),
        r"a\.data_offsets",
    ),
    "an overlap": (packed(changed("b", data_offsets=[4, 12])), r"b\.data_offsets: overlaps"),
    "the same bytes": (packed(changed("b", data_offsets=[0, 8])), r"data_offsets: overlaps"),
    "a gap": (packed(changed("b", data_offsets=[9, 17]), DATA + b"x"), "leaves a gap"),
    "a gap in front": (packed({"a": {**GOOD["a"], "data_offsets": [8, 16]}}), "leaves a gap"),
    # the data
    "a byte less": (packed(GOOD, DATA[:-1]), r"byte \d+: 16 bytes of tensors in 15"),
    "a byte more": (packed(GOOD, DATA + b"x"), r"byte \d+: 16 bytes of tensors in 17"),
    "no data": (packed(GOOD, b""), "16 bytes of tensors in 0"),
    "data without tensors": (packed({}, DATA), "0 bytes of tensors in 16"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_files(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    for mapped in (False, True):
        with pytest.raises(CheckpointFormatError, match=words) as caught:
            read_tensors(path, mapped=mapped)
        assert caught.value.where == str(path) and len(str(caught.value)) < 700


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 60


def test_good_files(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for data in (
        packed(GOOD),
        packed(json.dumps(GOOD).encode() + b"   "),
        packed({"__metadata__": {"a": "b"}, **GOOD}),
        packed({**GOOD, "none": {"dtype": "F16", "shape": [0, 3], "data_offsets": [16, 16]}}),
        packed({"flags": {"dtype": "BOOL", "shape": [16], "data_offsets": [0, 16]}}),
        packed({}, b""),
    ):
        path.write_bytes(data)
        assert is_safetensors(path) or data.startswith(b"\2")
        assert set(read_tensors(path, mapped=False)) == set(read_header(path).tensors)


def test_what_is_written_is_read_by_the_safetensors_package(tmp_path: Path) -> None:
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
             torch.int32, torch.int16, torch.int8, torch.uint8)  # fmt: skip
    tensors = {str(kind): torch.arange(6).to(kind).reshape(2, 3).T for kind in kinds}
    tensors |= {"bool": torch.tensor([True, False, True]), "scalar": torch.tensor(3.0),
                "empty": torch.zeros(0, 4)}  # fmt: skip
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_tensors(ours, tensors, {"a": "ö"})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, theirs)
    for read in (
        load_file(ours),
        read_tensors(ours, mapped=True),
        read_tensors(theirs, mapped=True),
    ):
        assert set(read) == set(tensors)
        for name, tensor in tensors.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    again = tmp_path / "again.safetensors"
    write_tensors(again, dict(reversed(tensors.items())), {"a": "ö"})
    assert again.read_bytes() == ours.read_bytes()
    assert json.loads(read_header(ours).metadata[FORMAT]) == {"a": "ö"}
    with pytest.raises(ArgumentError, match="complex64"):
        write_tensors(ours, {"c": torch.zeros(1, dtype=torch.complex64)}, {})
    assert again.read_bytes() == ours.read_bytes()


def test_tensors_that_lie_askew_are_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    record = {
        "flag": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
    }
    path.write_bytes(packed(record, b"\7" + struct.pack("<2f", 1, 2)))
    for mapped in (False, True):
        assert read_tensors(path, mapped=mapped)["a"].tolist() == [1, 2]


def test_writing_into_mapped_tensors_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(5)}, {})
    before = path.read_bytes()
    read_tensors(path, mapped=True)["a"].zero_()
    assert path.read_bytes() == before and read_tensors(path, mapped=True)["a"].sum() == 5


def test_dtypes_must_fit(tmp_path: Path) -> None:
    model = torch.nn.BatchNorm2d(2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_fits(model, state, where="x")
    half = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
    check_fits(model, half, where="x")  # a whole model in another precision
    with pytest.raises(CheckpointFormatError, match=r"1 of another type: weight is torch\.float16"):
        check_fits(model, {**state, "weight": half["weight"]}, where="x")
    with pytest.raises(CheckpointFormatError, match=r"of another type: num_batches_tracked is"):
        check_fits(model, {**state, "num_batches_tracked": torch.tensor(1.0)}, where="x")


def mutated(tmp_path: Path, count: int, seed: int) -> dict[str, int]:
    path = tmp_path / "m.safetensors"
    tsz.save_model(tsz.bisenet_x39(num_classes=2), path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(seed)
    tally: dict[str, int] = {}
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(data if rng.random() < 0.9 else data[: rng.randrange(len(data))])
        try:
            tensors = read_tensors(path, mapped=False)
            kind = "read"
            assert tensors
        except ZooError as error:
            kind = type(error).__name__
        tally[kind] = tally.get(kind, 0) + 1
    assert set(tally) <= {"read", "CheckpointFormatError"}
    return tally


def test_mutated_files(tmp_path: Path) -> None:
    assert mutated(tmp_path, 200, seed=1)["CheckpointFormatError"] > 100


@pytest.mark.soak
def test_many_mutated_files(tmp_path: Path) -> None:
    print(mutated(tmp_path, 10_000, seed=2))
