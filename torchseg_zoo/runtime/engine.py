"""TensorRT engines as runners: from a file that is trusted, or just built.

An engine is a program: deserialising one runs what is in it. ``trust`` says which are opened.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.errors import ExportError
from torchseg_zoo.files import printable
from torchseg_zoo.runtime.artefact import Artefact
from torchseg_zoo.runtime.bindings import Binding, Cost
from torchseg_zoo.runtime.cuda import CudaDevice, Device
from torchseg_zoo.runtime.engine_session import EngineSession, tensorrt_module
from torchseg_zoo.runtime.runner import Runner
from torchseg_zoo.runtime.trust import (
    BuildRecord,
    refuse_other_machine,
    save_built,
    trusted_content,
)

__all__ = ["TensorRTModel", "built_for", "open_engine", "open_runner"]


class TensorRTModel(Runner):
    """An engine that labels pictures.

    Args:
        path: the file, or a name for errors.
        artefact: what the engine takes and gives; its ``size`` is ``None`` for a range of sizes.
        session: the engine.
        content: the serialized engine, to be saved.
        record: what it was built on.
        resize: see ``Runner``.

    Attributes:
        bindings: inputs, then outputs.
        sha256: of the serialized engine.
    """

    def __init__(
        self,
        path: Path,
        artefact: Artefact,
        session: EngineSession,
        content: bytes,
        record: BuildRecord,
        *,
        resize: bool = False,
    ) -> None:
        super().__init__(path, artefact, resize=resize)
        self._session, self._content, self._record = session, content, record

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """Inputs, then outputs."""
        return self._session.bindings

    @property
    def sha256(self) -> str:
        """Digest of the serialized engine."""
        return self._record.sha256

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """See ``Runner.run``; raises ``InputShapeError`` for sizes out of the engine's range."""
        return self.run_timed(batch)[0]

    def run_timed(self, batch: np.ndarray) -> tuple[list[np.ndarray], Cost]:
        """The outputs as ``run`` gives them, and what they cost."""
        outputs, cost = self._session.run({self.bindings[0].name: batch})
        arrays = [outputs[binding.name] for binding in self.bindings if binding.mode == "output"]
        if self.artefact.output.startswith("labels"):
            # Engines of other makers give labels as integers, and without a batch.
            labels = arrays[0].astype(np.uint8, copy=False)
            arrays[0] = labels[None] if labels.ndim == 2 else labels
        return arrays, cost

    def save(self, path: str | Path) -> Path:
        """Writes the engine, and what is known of it beside it as ``<file>.json``.

        Args:
            path: file to write or replace, ending in ``.engine``; its folder must exist.

        Returns:
            The path.

        Raises:
            ExportError: if the name has another ending.
            DataError: if the two cannot be written; earlier ones stay.
            CacheError: if there is no place for the secret that seals are made with.
        """
        path = Path(path)
        if path.suffix != ".engine":
            raise ExportError("the file name must end in .engine", where=printable(path))
        save_built(path, self._content, self._record)
        return path


def built_for(device: Device, trt: Any) -> dict[str, str]:
    """What an engine is tied to; see ``BuildRecord``."""
    return {"GPU": device.gpu, "TensorRT": str(trt.__version__)}


def open_runner(
    path: Path,
    *,
    device: str,
    threads: int | None,
    resize: bool,
    trust_engine: str | None = None,
) -> TensorRTModel:
    """Opens an engine; see ``runtime.load`` for arguments and errors. Threads mean nothing here."""
    return open_engine(path, device=device, resize=resize, trust_engine=trust_engine)


def open_engine(
    path: str | Path,
    *,
    trust_engine: str | None = None,
    described: Artefact | None = None,
    device: str | Device = "auto",
    cuda_graph: bool = True,
    resize: bool = False,
    trt: Any = None,
) -> TensorRTModel:
    """Opens an engine file.

    Args:
        path: the file. Unless it has a record beside it, as ``TensorRTModel.save`` writes one,
            ``described`` must be given.
        trust_engine: sha256 of the file, 64 hex digits, from whoever built it. Needed for any that
            this user did not build on this machine: what is in the file will be run.
        described: model, classes and preprocessing of an engine without a record. Size, input
            layout and kind of output are told by the engine's bindings.
        device: as ``CudaDevice``.
        cuda_graph: record a CUDA graph for each size of picture.
        resize: see ``Runner``.
        trt: module to use instead of ``tensorrt``.

    Raises:
        ExportError: if the file is not trusted, was built for another GPU or version of TensorRT,
            cannot be loaded, or does not say what it gives.
        IntegrityError: if it is not the file that is trusted or recorded.
        MissingExtraError: if TensorRT is not installed; it names the extra.
        ArgumentError: if there is no such GPU, or ``trust_engine`` is no digest.
    """
    path = Path(path)
    content, sha256, record = trusted_content(path, trusted=trust_engine, kind="engine")
    trt = trt or tensorrt_module()
    target = CudaDevice(device) if isinstance(device, str) else device
    if record is None:
        if described is None:
            raise ExportError(
                "has no record of its classes beside it",
                where=printable(path),
                fix="say which model it is of",
            )
        record = BuildRecord("", sha256, built_for(target, trt))
    refuse_other_machine(path, record.built_for, built_for(target, trt), kind="engine")
    session = EngineSession(trt, content, target, where=printable(path), cuda_graph=cuda_graph)
    if record.artefact:
        artefact = Artefact.from_json(record.artefact, path)
    else:
        assert described is not None
        artefact = _told_by_bindings(session.bindings, described, path)
        record = replace(record, artefact=artefact.to_json())
    return TensorRTModel(path, artefact, session, content, record, resize=resize)


def _told_by_bindings(bindings: tuple[Binding, ...], described: Artefact, path: Path) -> Artefact:
    """Completes a description with size, layout and output as the bindings show them."""
    inputs = [binding for binding in bindings if binding.mode == "input"]
    outputs = [binding for binding in bindings if binding.mode == "output"]
    if len(inputs) == 1 and len(outputs) == 1 and len(inputs[0].shape) == 4:
        shape, dtype = inputs[0].shape, inputs[0].dtype
        layout = {
            ("uint8", True): "nhwc",
            ("uint8", False): "nchw",
            ("float32", False): "float",
        }.get((dtype, shape[3] == 3 and shape[1] != 3))
        height, width = shape[1:3] if layout == "nhwc" else shape[2:]
        size = None if height is None or width is None else (height, width)
        kinds = {"float32": "logits", "uint8": "labels", "int32": "labels", "int64": "labels"}
        output = kinds.get(outputs[0].dtype)
        rank = len(outputs[0].shape)
        if layout and output and rank in ((4,) if output == "logits" else (2, 3)):
            return replace(described, size=size, layout=layout, output=output, precision="unknown")
    raise ExportError(
        "does not take one picture and give labels or logits",
        where=printable(path),
        why="; ".join(binding.describe() for binding in bindings),
        fix="build the engine from our ONNX file",
    )
