"""Reads one foreign checkpoint, in the child process that ``guard`` starts, and nowhere else.

What comes out is a safetensors file of plain tensors, or one line of JSON that says why not.
``torch.load(weights_only=True)`` runs nothing that a file asks for. Should it have a hole, the file
still meets a process without network, environment or time, which may write one file.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, BinaryIO, NoReturn

_SLACK = 200 << 20  # bytes of memory beside three times the file's size
_MAX_OPERATIONS = 1_000_000  # of a pickle; a model has some 30 per tensor
_MAX_PICKLE = 64 << 20
_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 8
_BLOCK = 1 << 20
_TOO_MUCH = "wants more memory than a file of its size may"
_LEGACY_PICKLES = 5  # magic number, protocol, system, object, storage keys; then come the storages

# What files of plain tensors and numbers name. Torch itself allows a little more (quantized, sparse
# and wrapped tensors), for which no model here has any use.
_STORAGES = "FloatStorage DoubleStorage HalfStorage LongStorage IntStorage ShortStorage CharStorage"
_TENSORS = "FloatTensor DoubleTensor HalfTensor LongTensor IntTensor ShortTensor ByteTensor"
_NUMBERS = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
_HARMLESS_OF = {
    "collections": "OrderedDict Counter defaultdict",
    "_codecs": "encode",
    "builtins": "set bytearray complex dict int float list str tuple bool",
    "__builtin__": "set dict int float list str tuple bool",
    "torch": f"Tensor Size device {_NUMBERS} {_TENSORS} "
    f"{_STORAGES} BFloat16Storage ByteStorage BoolStorage",
    "torch.cuda": f"{_TENSORS} {_STORAGES} BFloat16Storage ByteStorage BoolStorage",
    "torch.storage": "UntypedStorage TypedStorage _LegacyStorage",
    "torch.nn.parameter": "Parameter",
    "torch.serialization": "_get_layout",
    "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter",
    "torch._tensor": "_rebuild_from_type_v2",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
}
_HARMLESS = {f"{module}.{name}" for module, names in _HARMLESS_OF.items() for name in names.split()}
# Records that training tools leave beside the tensors. They are read as empty shells.
_IGNORED = (
    "argparse.Namespace",
    "easydict.EasyDict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "mmengine.logging.history_buffer.HistoryBuffer",
)


class _Refused(Exception):
    """The file is refused: ``kind`` is ``unsafe`` or ``format``."""

    def __init__(self, kind: str, what: str, why: str = "") -> None:
        super().__init__(what)
        self.kind, self.what, self.why = kind, what, why


class _Shell:
    """Stands for an object whose class is not looked at."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def main() -> NoReturn:
    """Reads the job from standard input, does it, reports on standard output."""
    job = json.loads(sys.stdin.buffer.readline())
    report = os.dup(1)
    os.dup2(2, 1)  # whatever prints must not be taken for the report
    sys.path[:] = job["path"]
    _leave_the_network()
    _end_with_the_parent()
    os.write(report, json.dumps(outcome_of(job["file"], job["out"])).encode() + b"\n")
    # Without taking down what may be a very deep or very odd heap.
    os._exit(0)


def outcome_of(path: str, out: str) -> dict[str, Any]:
    """Converts a file under limits that stay with this process; what became of it."""
    try:
        size = os.path.getsize(path)  # noqa: PTH202 (the fewer imports here, the better)
        _limit_work(size)
        zipped, storages = _inspect(path)

        import torch

        torch.set_num_threads(1)
        _limit_reach(size, out)
        return {"tensors": _read(path, out, zipped, storages, size)}
    except _Refused as refused:
        return {"kind": refused.kind, "what": refused.what, "why": refused.why}
    except MemoryError:
        return {"kind": "format", "what": _TOO_MUCH}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return {"kind": "space" if full else "format", "what": "cannot be read", "why": str(error)}
    except BaseException as error:
        return {"kind": "format", "what": "cannot be read", "why": _in_short(error)}


def _leave_the_network() -> None:
    """Moves this process into an empty network, where the system allows it. Before any thread."""
    import ctypes

    user, network = 0x10000000, 0x40000000
    try:
        unshare = ctypes.CDLL(None).unshare
        if unshare(network) != 0:
            unshare(user | network)
    except (OSError, AttributeError, TypeError):
        pass  # no such call on this system


def _end_with_the_parent() -> None:
    """Standard input ends when the parent does, in whatever way."""
    import threading

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _limit_work(size: int) -> None:
    """Limits processor time, torch's import included, and what may be written."""
    _set_limits(
        RLIMIT_CPU=15 + _spent_s() + size // (20 << 20),
        RLIMIT_FSIZE=2 * size + (8 << 20),
        RLIMIT_CORE=0,
    )


def _limit_reach(size: int, out: str) -> None:
    """Limits memory, files and processes, and refuses what reading has no need for."""
    mapped = _mapped_bytes()
    memory = {"RLIMIT_AS": mapped + 3 * size + _SLACK} if mapped else {}
    _set_limits(RLIMIT_NOFILE=64, RLIMIT_NPROC=0, **memory)
    sys.addaudithook(lambda event, arguments: _refuse_events(event, arguments, out))


def _set_limits(**limits: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has none of these
        return
    for name, value in limits.items():
        try:
            which = getattr(resource, name)
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        except (AttributeError, ValueError, OSError):
            continue  # not on this system


def _spent_s() -> int:
    import time

    return int(time.process_time())


def _mapped_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


_NO_EVENTS = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn",
              "os.spawn", "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod",
              "os.link", "os.symlink", "os.truncate", "shutil.", "ctypes.dlopen", "pty.spawn",
              "webbrowser.", "urllib.", "ftplib.", "smtplib.")  # fmt: skip


def _refuse_events(event: str, arguments: tuple[Any, ...], out: str) -> None:
    writes = event == "open" and set(arguments[1] or "") & set("wax+") and arguments[0] != out
    if writes or event.startswith(_NO_EVENTS):
        raise _Refused("unsafe", f"tried {event} while it was read")


def _inspect(path: str) -> tuple[bool, Counter[int] | None]:
    """Whether it is a zip, and the sizes of the storages in it; what it asks for is checked."""
    import zipfile

    if zipfile.is_zipfile(path):
        return True, _check_zip(path)
    with open(path, "rb") as file:  # noqa: PTH123
        for _ in range(_LEGACY_PICKLES):
            _scan(file, "the file")
    return False, None


def _read(path: str, out: str, zipped: bool, storages: Counter[int] | None, size: int) -> int:
    """Reads, checks and writes the tensors; their number."""
    import torch

    _allow_harmless()
    try:
        record = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (_Refused, MemoryError):
        raise
    except Exception as error:
        raise _of_torch(error) from error
    if not isinstance(record, Mapping):
        raise _Refused(
            "format", "there are no tensors in it", f"it holds a {type(record).__name__}"
        )

    from torchseg_zoo.errors import CheckpointFormatError
    from torchseg_zoo.weights.convert.base import unwrap
    from torchseg_zoo.weights.save import write_tensors_to

    try:
        tensors = unwrap(record)
    except CheckpointFormatError as error:
        raise _Refused("format", error.what, error.why or "") from error
    _check(tensors, size, storages)
    with open(out, "wb") as file:  # noqa: PTH123
        write_tensors_to(file, tensors, {})
    return len(tensors)


def _allow_harmless() -> None:
    """Lets torch read the numpy numbers that many projects keep beside their tensors."""
    import torch

    allowed: list[Any] = [(_Shell, name) for name in _IGNORED]
    for kind in (dict, list, int, float, str, tuple, bool, set):
        allowed += [(kind, f"{module}.{kind.__name__}") for module in ("builtins", "__builtin__")]
    allowed.append((defaultdict, "collections.defaultdict"))
    try:
        import numpy as np
        from numpy._core import multiarray
    except ImportError:
        torch.serialization.add_safe_globals(allowed)
        return
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed.append((multiarray.scalar, f"{module}.scalar"))
        allowed.append((multiarray._reconstruct, f"{module}._reconstruct"))
    allowed += [np.ndarray, np.dtype]
    # A dtype is an instance of a class of its own, which torch asks for when its state is set.
    allowed += [type(np.dtype(code)) for code in "?bBhHiIlLqQefdgFDSUOV"]
    torch.serialization.add_safe_globals(allowed)


def _of_torch(error: Exception) -> _Refused:
    """Torch's refusal in our words: its own recommend to switch the guard off."""
    import pickle
    import re

    text = str(error)
    if "allocate memory" in text:
        return _Refused("format", _TOO_MUCH)
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"WeightsUnpickler error: ([^\n]*)", text)
        why = (found[1] if found else text.strip().partition("\n")[0]).partition(". Please")[0]
        unsafe = re.search(r"(?i)global |unrecognized function|only create new object|blocked", why)
        return _Refused("unsafe" if unsafe else "format", "is not a file of plain tensors", why)
    return _Refused("format", "cannot be read", _in_short(error))


def _in_short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _check_zip(path: str) -> Counter[int]:
    """Checks how a zip is made and what its pickle names; the sizes of its storages."""
    import io
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise _Refused("format", "its zip has two entries of one name")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _Refused("format", "its zip is compressed, which torch.save never does")
            programs = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if not programs:
                raise _Refused("format", "its zip has no data.pkl, so torch.save did not write it")
            for entry in programs:
                if entry.file_size > _MAX_PICKLE:
                    raise _Refused("format", f"a pickle of {entry.file_size / 1e6:.0f} MB")
                _scan(io.BytesIO(archive.read(entry)), entry.filename)
            return Counter(entry.file_size for entry in entries if "/data/" in entry.filename)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise _Refused("format", "its zip is damaged", _in_short(error)) from error


def _scan(file: BinaryIO, name: str) -> None:
    """Reads a pickle's operations without doing them, and names the first that asks for code."""
    import pickletools

    texts: list[str] = []
    try:
        for count, (opcode, argument, place) in enumerate(pickletools.genops(file)):
            if count > _MAX_OPERATIONS:
                raise _Refused("format", f"a pickle of more than {_MAX_OPERATIONS} operations")
            if isinstance(argument, str):
                texts = [*texts[-1:], argument]
            wanted = _wanted(opcode.name, argument, texts)
            if wanted and wanted not in _HARMLESS and wanted not in _IGNORED:
                what = f"asks for {wanted} at byte {place} of {name}"
                raise _Refused("unsafe", what, "a file of plain tensors has no need for it")
    except _Refused:
        raise
    except Exception as error:  # genops raises what its many readers do
        raise _Refused("format", "is no checkpoint, or a damaged one", _in_short(error)) from error


def _wanted(operation: str, argument: object, texts: list[str]) -> str:
    """The global that an operation fetches, or ""; of the stack's, what it seems to be."""
    if operation in ("GLOBAL", "INST"):
        return str(argument).replace(" ", ".", 1)[:200]
    if operation == "STACK_GLOBAL":
        return ".".join(texts)[:200] or "a nameless global"
    return "an extension" if operation.startswith("EXT") else ""


def _check(tensors: Mapping[str, Any], size: int, storages: Counter[int] | None) -> None:
    """Checks names, kinds, layouts, sizes and values of all tensors."""
    from torchseg_zoo.weights.header import NAME

    if len(tensors) > _MAX_TENSORS:
        raise _Refused("format", f"{len(tensors)} tensors")
    total = 0
    owned: dict[int, int] = {}
    for name, tensor in tensors.items():
        if not NAME.fullmatch(name):
            raise _Refused("format", f"the odd name {name[:80]!r}")
        if problem := _problem(tensor):
            raise _Refused("format", f"{name} {problem}")
        total += tensor.numel() * tensor.element_size()
        storage = tensor.untyped_storage()
        if storage.nbytes():
            owned[storage.data_ptr()] = storage.nbytes()
    # Shared tensors are written twice, and a file may have some; but not without end.
    if total > 2 * size + _BLOCK or sum(owned.values()) > size:
        raise _Refused("format", f"{total / 1e6:.1f} MB of tensors in {size / 1e6:.1f} MB of file")
    places = sorted(owned.items())
    apart = all(a + length <= b for (a, length), (b, _) in pairwise(places))
    if storages is not None and not (apart and Counter(owned.values()) <= storages):
        raise _Refused("format", "its pickle and its zip do not agree on the tensors' sizes")
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise _Refused("format", f"{name} holds infinite values or no numbers")


def _problem(tensor: Any) -> str:
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return f"is a {type(tensor).__name__}, not a plain tensor"
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return f"is a {tensor.layout} tensor on {tensor.device}, not a dense one with values"
    from torchseg_zoo.weights.header import DTYPES

    if str(tensor.dtype).removeprefix("torch.") not in {
        kind.torch_name for kind in DTYPES.values()
    }:
        return f"is {tensor.dtype}"
    if tensor.dim() > _MAX_DIMENSIONS:
        return f"has {tensor.dim()} dimensions"
    reach = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length > 1 and stride < reach:
            return f"has elements that share memory: strides {tensor.stride()}"
        reach += (length - 1) * stride if length > 1 else 0
    return ""


def _finite(tensor: Any) -> bool:
    import torch

    if not tensor.is_floating_point():
        return True
    # By blocks: isfinite makes copies of what it looks at.
    flat = tensor.detach().contiguous().view(-1)
    return all(bool(torch.isfinite(block).all()) for block in flat.split(_BLOCK))


if __name__ == "__main__":
    main()
