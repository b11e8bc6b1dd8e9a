"""Checkpoints that want more than to be read: pickles that run code, lie, or go on and on.

They are written opcode by opcode, since ``pickle`` itself refuses to write most of them.
"""

from __future__ import annotations

import collections
import io
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

Payload = tuple[str, bytes, str]  # name, file, expected class of error

UNSAFE, FORMAT = "UnsafeCheckpointError", "CheckpointFormatError"
STOP, REDUCE, MARK, EMPTY_TUPLE = b".", b"R", b"(", b")"

# Each is asked for with the canary's command as its argument.
_CALLABLES = """
os.system posix.system builtins.eval builtins.exec builtins.getattr builtins.__import__
builtins.compile builtins.open builtins.print builtins.globals __builtin__.eval __builtin__.apply
__main__.run subprocess.Popen subprocess.check_output runpy.run_path importlib.import_module
pickle.loads torch.load torch.hub.load torch.jit.load torch.storage._load_from_bytes
torch.serialization.add_safe_globals torch.utils.cpp_extension.load torch._C._jit_pass_inline
timeit.timeit pty.spawn shutil.rmtree socket.create_connection webbrowser.open ctypes.CDLL
numpy.load numpy.f2py.run_main operator.attrgetter functools.partial types.FunctionType
sys.exit os._exit code.interact cProfile.run pip._internal.main copyreg._reconstructor
collections.namedtuple torch._utils._rebuild_wrapper_subclass
"""


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(name: str) -> bytes:
    """GLOBAL."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def call(name: str, argument: bytes) -> bytes:
    """GLOBAL and REDUCE with one argument."""
    return named(name) + argument + b"\x85" + REDUCE


def torch_zip(program: bytes, storages: dict[str, bytes] | None = None, **how: Any) -> bytes:
    """A file as ``torch.save`` packs it, around any pickle and storages."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **how) as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", "little")
        for key, data in (storages or {}).items():
            archive.writestr(f"a/data/{key}", data)
        archive.writestr("a/version", "3\n")
    return out.getvalue()


def saved(record: object, *, legacy: bool = False) -> bytes:
    """What ``torch.save`` writes."""
    out = io.BytesIO()
    torch.save(record, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def tensor(key: str, elements: int, shape: tuple[int, ...], stride: tuple[int, ...],
           *, offset: int = 0, kind: str = "torch FloatStorage") -> bytes:  # fmt: skip
    """A pickled tensor on the storage ``key``, which need not exist or be so long."""

    def number(value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        data = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return MARK + b"".join(map(number, values)) + b"t"

    module, _, name = kind.partition(" ")
    storage = MARK + text("storage") + f"c{module}\n{name}\n".encode()
    storage += text(key) + text("cpu") + number(elements) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n" + MARK + storage + number(offset) + numbers(shape)
        + numbers(stride) + b"\x89" + b"ccollections\nOrderedDict\n" + EMPTY_TUPLE + REDUCE
        + b"t" + REDUCE
    )  # fmt: skip


def state(**tensors: bytes) -> bytes:
    """A pickled dict of such tensors."""
    items = b"".join(text(name) + data for name, data in tensors.items())
    return b"\x80\x02}" + MARK + items + b"u" + STOP


def payloads(canary: Path) -> Iterator[Payload]:
    """Every file, its name and what it must end in."""
    command = text(f"touch {canary}")
    yield from _calls(command)
    yield from _other_ways(command)
    yield from _lies()
    yield from _bombs()
    yield from _odd_files()


def _calls(command: bytes) -> Iterator[Payload]:
    for name in _CALLABLES.split():
        yield name, torch_zip(b"\x80\x02" + call(name, command) + STOP), UNSAFE


def _other_ways(command: bytes) -> Iterator[Payload]:
    system = b"cos\nsystem\n"
    good = saved({"a": torch.ones(3)})
    ways = {
        "inst": MARK + command + b"ios\nsystem\n" + STOP,
        "obj": MARK + system + command + b"o" + STOP,
        "newobj": b"\x80\x02" + system + command + b"\x85\x81" + STOP,
        "newobj_ex": b"\x80\x04" + system + command + b"\x85}\x92" + STOP,
        "stack_global": b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93" + command + b"\x85R.",
        "framed": b"\x80\x04\x95" + struct.pack("<Q", 40) + b"\x8c\x02os\x8c\x06system\x93"
        + command + b"\x85R.",
        "extension": b"\x80\x02\x82\x01" + command + b"\x85R.",
        "by memo": b"\x80\x02" + system + b"q\x000h\x00" + command + b"\x85R.",
        "twice reduced": b"\x80\x02" + call("functools.partial", system) + EMPTY_TUPLE + b"R.",
        "attribute chain": b"\x80\x02" + named("builtins.getattr") + named("os") + text("system")
        + b"\x86R" + command + b"\x85R.",
        "state of an object": b"\x80\x02ccollections\nOrderedDict\n)R" + call("os.system", command)
        + b"b.",
        "in a persistent id": b"\x80\x02" + call("os.system", command) + b"Q.",
        "after much harmless": b"\x80\x02" + b"]0" * 50_000 + call("os.system", command) + STOP,
        "in meta": b"\x80\x02}" + MARK + text("state_dict") + b"}" + text("meta")
        + call("os.system", command) + b"u.",
        "as a key": b"\x80\x02}" + call("os.system", command) + b"K\x01s.",
        "unused on the stack": b"\x80\x02" + call("os.system", command) + b"0}.",
    }  # fmt: skip
    for name, program in ways.items():
        yield name, torch_zip(program), UNSAFE
        yield f"{name}, bare", program, UNSAFE
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    evil = b"\x80\x02" + call("os.system", command) + STOP
    yield "as legacy object", magic + evil + pickle.dumps([], 2), UNSAFE
    yield "as legacy keys", magic + pickle.dumps({}, 2) + evil, UNSAFE
    yield "as legacy magic", evil + magic, UNSAFE
    yield "a whole model", saved(torch.nn.Linear(2, 2)), UNSAFE
    yield "a lambda's home", saved({"f": torch.nn.functional.relu}), UNSAFE
    both = io.BytesIO(good)
    with zipfile.ZipFile(both, "a") as archive:
        archive.writestr("b/data.pkl", evil)
    yield "a second data.pkl", both.getvalue(), UNSAFE


def _lies() -> Iterator[Payload]:
    four = {"0": struct.pack("<4f", 1, 2, 3, 4)}
    good = tensor("0", 4, (4,), (1,))
    lies = {
        "storage longer than its record": state(a=tensor("0", 400, (400,), (1,))),
        "storage shorter than its record": state(a=tensor("0", 2, (2,), (1,))),
        "storage of a terabyte": state(a=tensor("0", 1 << 38, (1 << 38,), (1,))),
        "shape beyond the storage": state(a=tensor("0", 4, (4000,), (1,))),
        "offset beyond the storage": state(a=tensor("0", 4, (4,), (1,), offset=1 << 40)),
        "negative offset": state(a=tensor("0", 4, (4,), (1,), offset=-4)),
        "negative size": state(a=tensor("0", 4, (-4,), (1,))),
        "negative stride": state(a=tensor("0", 4, (4,), (-1,), offset=3)),
        "expanded to a terabyte": state(a=tensor("0", 4, (1 << 38,), (0,))),
        "expanded a little": state(a=tensor("0", 4, (2, 4), (0, 1))),
        "overlapping rows": state(a=tensor("0", 4, (2, 3), (1, 1))),
        "nine dimensions": state(a=tensor("0", 4, (1,) * 9, (1,) * 9)),
        "overflowing sizes": state(a=tensor("0", 4, (1 << 32, 1 << 32), (1 << 32, 1))),
        "a storage that is missing": state(a=tensor("9", 4, (4,), (1,))),
        "one storage, two types": state(
            a=good, b=tensor("0", 1, (1,), (1,), kind="torch DoubleStorage")
        ),
        "a name with blanks": state(**{"a b": good}),
        "a name with control characters": state(**{"a\x1b[2J": good}),
        "an empty name": state(**{"": good}),
        "an endless name": state(**{"a" * 600: good}),
        "a number for state": b"\x80\x02K\x01.",
        "a list for state": b"\x80\x02]" + good + b"a.",
        "nothing in state": b"\x80\x02}.",
    }
    for name, program in lies.items():
        yield name, torch_zip(program, four), FORMAT
    for name, record in {
        "infinite": {"a": torch.tensor([1.0, float("inf")])},
        "not a number": {"a": torch.tensor([1.0, float("nan")])},
        "complex": {"a": torch.zeros(2, dtype=torch.complex64)},
    }.items():
        yield name, saved(record), UNSAFE if name == "complex" else FORMAT
    base = torch.ones(1000)
    yield "one storage, many names", saved({f"a{i}": base for i in range(5000)}), FORMAT
    yield "sparse", saved({"a": torch.eye(3).to_sparse()}), UNSAFE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to give them up
        quantized = torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)
        yield "quantized", saved({"a": quantized}), UNSAFE
    yield "on meta", saved({"a": torch.ones(2, device="meta")}), UNSAFE


def _bombs() -> Iterator[Payload]:
    array = b"cnumpy.core.multiarray\n_reconstruct\n" + MARK + b"cnumpy\nndarray\n"
    dtype = b"cnumpy\ndtype\n" + MARK + text("O8") + b"\x89\x88tR"
    terabyte = b"\x8a\x06" + (1 << 40).to_bytes(6, "little")
    bombs = {
        "lists in lists": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + STOP,
        "tuples in tuples": b"\x80\x02)" + b"\x85" * 200_000 + STOP,
        "a deep key": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
        "doubled by memo": b"\x80\x02]q\x00" + b"".join(
            b"](h%c" % index + b"h%ceq%c" % (index, index + 1) for index in range(90)
        ) + STOP,
        "a list in itself": b"\x80\x02]q\x00h\x00a.",
        "marks": b"\x80\x02" + MARK * 300_000 + STOP,
        "a million operations": b"\x80\x02" + b"N0" * 600_000 + b"N.",
        "a terabyte of bytes": b"\x80\x02" + call("builtins.bytearray", terabyte) + STOP,
        "a terabyte of array": b"\x80\x02" + array + terabyte
        + b"\x85" + text("d") + b"tR.",
        "a scalar that is an object": b"\x80\x02cnumpy.core.multiarray\nscalar\n" + dtype
        + text("abcdefgh") + b"\x86R.",
        "a list times a billion": b"\x80\x02" + call("builtins.list", b"K\x01") + STOP,
        "long that lies": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
        "text that lies": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"abc.",
        "bytes that lie": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        "memo at the end": b"\x80\x02Nr\xff\xff\xff\xff.",
        "memo of nothing": b"\x80\x02h\x07.",
    }  # fmt: skip
    for name, program in bombs.items():
        yield name, torch_zip(program), FORMAT
    yield "a compressed zip", torch_zip(b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED), FORMAT
    bomb = b"\x80\x02" + b"N0" * (40 << 20) + b"N."
    yield "a zip bomb", torch_zip(bomb, compression=zipfile.ZIP_DEFLATED), FORMAT


def _odd_files() -> Iterator[Payload]:
    good = saved({"a": torch.ones(300)})
    old = saved({"a": torch.ones(300)}, legacy=True)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        info = tarfile.TarInfo("storages")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"abcd"))
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as inside:
        inside.writestr("a/constants.pkl", b"\x80\x02).")
        inside.writestr("a/code/__torch__.py", "import os")
    odd = {
        "nothing": b"",
        "one byte": b"\x80",
        "text": b"<html><title>Sign in</title></html>" * 30,
        "zeros": bytes(5000),
        "no opcode": b"\x80\x02\xff\xfe.",
        "stop at once": b"\x80\x02.",
        "protocol 255": b"\x80\xff}.",
        "a plain pickle": pickle.dumps({"a": [1, 2, 3]}, 2),
        "a bare array": pickle.dumps(np.ones(3), 2),
        "a counter": saved(collections.Counter("abc")),
        "a tar": tar.getvalue(),
        "TorchScript": script.getvalue(),
        "a zip of something else": zipped("readme.txt", b"hello"),
        "half a zip": good[: len(good) // 2],
        "a zip without its end": good[:-30],
        "half a legacy file": old[: len(old) // 2],
        "a legacy file less a byte": old[:-1],
    }
    for name, data in odd.items():
        yield name, data, FORMAT


def zipped(name: str, data: bytes) -> bytes:
    """A zip of one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, data)
    return out.getvalue()
