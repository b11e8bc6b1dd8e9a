"""PyTorch's ``.pt2`` files: programs of ``torch.export``, and packages of AOTInductor.

Reading a program unpickles parts of it and evaluates text in it; a package is native code. So
opening either runs what is in it, and ``trust`` says which are opened.
"""

from __future__ import annotations

import io
import json
import platform
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from torchseg_zoo.errors import ArgumentError, ExportError, InputShapeError, MissingExtraError
from torchseg_zoo.files import printable
from torchseg_zoo.runtime.artefact import METADATA_KEY, Artefact
from torchseg_zoo.runtime.cuda import CudaDevice, Device
from torchseg_zoo.runtime.runner import Runner
from torchseg_zoo.runtime.trust import refuse_other_machine, trusted_content

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BUILT_FOR_KEY", "Pt2Runner", "built_for", "open_runner"]

BUILT_FOR_KEY = f"{METADATA_KEY}_built_for"
"""Name of the metadata entry that says what the file was built on, as JSON."""

_COMPILED = "data/aotinductor/"
_EXTRA = "extra/"
# Runs before a graph is recorded: what they set up must not be in it.
_WARM_UPS = 3

Program = Callable[["Tensor"], Any]
"""An input → an output, or several in a tuple or list."""


class Pt2Runner(Runner):
    """A program that labels pictures.

    Args:
        path: the file.
        artefact: what it says of itself.
        program: what it computes.
        device: the GPU that it runs on; ``None`` for the CPU.
        cuda_graph: on a GPU, and if the file takes one size: record a CUDA graph.
        resize: see ``Runner``.
    """

    def __init__(
        self,
        path: Path,
        artefact: Artefact,
        program: Program,
        *,
        device: Device | None = None,
        cuda_graph: bool = True,
        resize: bool = False,
    ) -> None:
        super().__init__(path, artefact, resize=resize)
        self._program, self._device = program, device
        self._cuda_graph = cuda_graph and artefact.size is not None
        self._recorded: dict[tuple[int, ...], _Recorded] = {}

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """See ``Runner.run``; raises ``InputShapeError`` for what the program cannot take."""
        import torch

        try:
            with torch.inference_mode():
                if self._device is None:
                    return [value.numpy() for value in _listed(self._program(_tensor(batch)))]
                return self._on_gpu(batch, self._device)
        except (RuntimeError, AssertionError) as error:
            raise InputShapeError(
                f"cannot compute {batch.dtype} {'×'.join(map(str, batch.shape))}",
                where=printable(self.path),
                why=_first_line(error),
                fix="give pictures of the file's size, or export it for yours",
            ) from error

    def _on_gpu(self, batch: np.ndarray, device: Device) -> list[np.ndarray]:
        if self._cuda_graph:
            if batch.shape not in self._recorded:
                self._recorded[batch.shape] = _Recorded(self._program, device, batch)
            return self._recorded[batch.shape].run(batch)
        memory = device.empty(batch.shape, str(batch.dtype))
        with device.active():
            memory.copy_(_tensor(batch))
            results = [value.cpu() for value in _listed(self._program(memory))]
        return [value.numpy() for value in results]


class _Recorded:
    """A CUDA graph for one shape, with the memory that it reads and writes."""

    def __init__(self, program: Program, device: Device, batch: np.ndarray) -> None:
        self._device = device
        self._staging = device.staging(batch.shape, str(batch.dtype))
        self._memory = device.empty(batch.shape, str(batch.dtype))
        with device.active():
            self._memory.copy_(_tensor(batch))
            for _ in range(_WARM_UPS):
                self._outputs = _listed(program(self._memory))
            device.synchronize()

        def work() -> None:
            self._outputs = _listed(program(self._memory))

        self._replay = device.captured(work)
        self._results = [
            device.staging(value.shape, str(value.dtype).removeprefix("torch."))
            for value in self._outputs
        ]

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        np.copyto(self._staging.numpy(), batch)
        with self._device.active():
            self._memory.copy_(self._staging, non_blocking=True)
            self._replay()
            for result, output in zip(self._results, self._outputs, strict=True):
                result.copy_(output, non_blocking=True)
            self._device.synchronize()
        return [result.numpy().copy() for result in self._results]


@dataclass(frozen=True)
class _Told:
    """What a file says of itself.

    Args:
        artefact: see ``Artefact``.
        built_for: see ``BuildRecord``.
        compiled: whether it is a package of AOTInductor.
    """

    artefact: Artefact
    built_for: dict[str, str]
    compiled: bool


def built_for(device: str) -> dict[str, str]:
    """What a compiled package is tied to.

    Args:
        device: ``"cpu"``, or the name of a GPU as ``CudaDevice`` has it.
    """
    import torch

    tied = {
        "PyTorch": str(torch.__version__),
        "system": f"{sys.platform} {platform.machine()}",
    }
    if device == "cpu":
        return tied | {"CPU": torch.backends.cpu.get_cpu_capability()}
    return tied | {"GPU": device}


def open_runner(
    path: Path,
    *,
    device: str,
    threads: int | None,
    resize: bool,
    trust_package: str | None = None,
    cuda_graph: bool = True,
) -> Pt2Runner:
    """Opens a program or package; see ``runtime.load`` for arguments and errors.

    Threads are set for all of torch in this process.
    """
    content, _, _ = trusted_content(path, trusted=trust_package, kind="package")
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "running .pt2 files needs torch", fix="pip install torch"
        ) from error
    told = _told(content, path)
    target = _target(told, device, path)
    if told.compiled:
        here = built_for("cpu" if target is None else target.gpu)
        refuse_other_machine(path, told.built_for, here, kind="package")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on its own parts
            program = _opened(content, told, target)
    except Exception as error:  # unpickling, linking and reading have errors of all classes
        raise ExportError(
            "PyTorch cannot load it",
            where=printable(path),
            why=f"{_first_line(error)}; written by PyTorch {told.built_for.get('PyTorch')}, "
            f"here is {torch.__version__}",
            fix="export the model again, with this version",
        ) from error
    return Pt2Runner(
        path, told.artefact, program, device=target, cuda_graph=cuda_graph, resize=resize
    )


def _told(content: bytes, path: Path) -> _Told:
    texts: dict[str, str] = {}
    compiled = False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                inner = name.partition("/")[2]
                if inner.startswith(_COMPILED):
                    compiled = True
                    if inner.endswith("metadata.json"):
                        texts |= json.loads(archive.read(name))
                elif inner.startswith(_EXTRA + METADATA_KEY):
                    texts[inner.removeprefix(_EXTRA)] = archive.read(name).decode()
        built = json.loads(texts.get(BUILT_FOR_KEY, "{}"))
    except (zipfile.BadZipFile, ValueError, TypeError) as error:
        raise ExportError(
            "cannot be read as .pt2",
            where=printable(path),
            why=_first_line(error),
            fix="export the model again; the file may be cut",
        ) from error
    return _Told(Artefact.from_json(texts.get(METADATA_KEY), path), built, compiled)


def _target(told: _Told, device: str, path: Path) -> CudaDevice | None:
    """The GPU to run on; ``None`` for the CPU."""
    import torch

    on_gpu = "GPU" in told.built_for if told.compiled else torch.cuda.is_available()
    if device == "auto":
        return CudaDevice() if on_gpu else None
    if told.compiled and (device != "cpu") != on_gpu:
        raise ArgumentError(
            f"{device!r} cannot run {printable(path)}",
            where="device",
            why=f"it was compiled for {'a GPU' if on_gpu else 'the CPU'}",
            fix="use auto, or compile it for that device",
        )
    return None if device == "cpu" else CudaDevice(device)


def _opened(content: bytes, told: _Told, target: CudaDevice | None) -> Program:
    import torch

    if told.compiled:
        compiled: Program = torch._inductor.aoti_load_package(
            io.BytesIO(content),
            run_single_threaded=target is not None,  # its synchronisation cannot be recorded
            device_index=-1 if target is None else target.index,
        )
        return compiled
    program = torch.export.load(io.BytesIO(content))
    if target is not None:
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, f"cuda:{target.index}")
    # Guards also hold what the traced size had by chance, as that it needed no padding, and would
    # refuse others that are computed right: which, the proof beside the file says.
    return program.module(check_guards=False)


def _listed(outputs: Any) -> Sequence[Tensor]:
    return outputs if isinstance(outputs, tuple | list) else (outputs,)


def _tensor(batch: np.ndarray) -> Tensor:
    import torch

    if not batch.flags.writeable:  # torch warns of such arrays, though nothing writes to them
        batch = batch.copy()
    return torch.from_numpy(batch)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
