"""Writes what the runtimes read, each file once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torchseg_zoo.benchmark.runtimes import Format, Runtime
from torchseg_zoo.devices import find_device
from torchseg_zoo.export.graph import InputLayout, Output
from torchseg_zoo.export.quantize import CalibrationSet, Spread
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["Artefacts", "Exported"]

_Sizing = Size | Literal["dynamic"]


@dataclass(frozen=True)
class Exported:
    """The files of one contender.

    Args:
        file: takes bytes, gives labels.
        network: takes normalised floats, gives logits at the head's stride; ``None`` where the
            file is the bare model.
    """

    file: Path
    network: Path | None


class Artefacts:
    """Files of one model, in one folder; what is there already from this object is not made anew.

    Args:
        model: in evaluation mode, on the CPU.
        name: begins the files' names.
        folder: exists.
        batch: pictures at a time; more than one makes files that take any number.
        device: that engines and packages are built for.
        calibration: pictures for ``"int8"``.
    """

    def __init__(
        self,
        model: SegmentationModel,
        name: str,
        folder: Path,
        *,
        batch: int = 1,
        device: str = "auto",
        calibration: CalibrationSet | Spread | None = None,
    ) -> None:
        self._model = model
        self._name = name
        self._folder = folder
        self._batch: int | Literal["dynamic"] = 1 if batch == 1 else "dynamic"
        self._device = device
        self._calibration = calibration
        self._made: dict[Path, Path] = {}

    def takes_any_size(self, runtime: Runtime) -> bool:
        """Whether one file is enough for all sizes."""
        if runtime.format == "safetensors":
            return True
        on_gpu = find_device(self._device).type == "cuda"
        able = runtime.any_size_on_gpu if on_gpu else runtime.any_size
        return able and runtime.any_size and self._model.input_rule.fixed is None

    def export(self, runtime: Runtime, size: _Sizing) -> Exported:
        """Writes the files of a runtime, for one size or any.

        Raises:
            ExportError, MissingExtraError: as ``export_onnx`` and the others do.
            DataError: if a file cannot be written.
        """
        if runtime.format == "safetensors":
            return Exported(self._once("safetensors", self._path(".safetensors"), {}), None)
        options: dict[str, Any] = {
            "size": size,
            "precision": runtime.precision,
            "name": self._name,
        }
        marks: list[str] = [] if runtime.precision == "fp32" else [runtime.precision]
        if size != "dynamic":
            marks.append("{}x{}".format(*size))
        stem = "".join(f"-{mark}" for mark in marks)
        kinds: tuple[tuple[str, InputLayout, Output], ...] = (
            ("", "nhwc", "labels"),
            (".network", "float", "head-logits"),
        )
        file, network = (
            self._once(
                runtime.format,
                self._path(f"{stem}{kind}{_ENDINGS[runtime.format]}"),
                {**options, "layout": layout, "output": output},
            )
            for kind, layout, output in kinds
        )
        return Exported(file, network)

    def _path(self, ending: str) -> Path:
        return self._folder / f"{self._name}{ending}"

    def _once(self, form: Format, path: Path, options: Mapping[str, Any]) -> Path:
        if path not in self._made:
            self._made[path] = _WRITERS[form](self, path, options)
        return self._made[path]

    def _save(self, path: Path, options: Mapping[str, Any]) -> Path:
        from torchseg_zoo.models.checkpoint import save_model

        save_model(self._model, path)
        return path

    def _export_onnx(self, path: Path, options: Mapping[str, Any]) -> Path:
        from torchseg_zoo.export.onnx import export_onnx

        calibration = self._calibration if options["precision"] == "int8" else None
        return export_onnx(
            self._model, path, batch=self._batch, calibration=calibration, int8_for="cpu", **options
        )

    def _export_program(self, path: Path, options: Mapping[str, Any]) -> Path:
        from torchseg_zoo.export.pt2 import export_program

        return export_program(self._model, path, batch=self._batch, **options)

    def _compile_package(self, path: Path, options: Mapping[str, Any]) -> Path:
        from torchseg_zoo.export.pt2 import export_aoti

        return export_aoti(self._model, path, batch=self._batch, device=self._device, **options)

    def _build_engine(self, path: Path, options: Mapping[str, Any]) -> Path:
        from torchseg_zoo.export.tensorrt import compile

        return compile(self._model, device=self._device, **options).save(path)


_ENDINGS: dict[Format, str] = {
    "onnx": ".onnx",
    "program": ".program.pt2",
    "aoti": ".aoti.pt2",
    "engine": ".engine",
}
_WRITERS: dict[Format, Callable[[Artefacts, Path, Mapping[str, Any]], Path]] = {
    "safetensors": Artefacts._save,
    "onnx": Artefacts._export_onnx,
    "program": Artefacts._export_program,
    "aoti": Artefacts._compile_package,
    "engine": Artefacts._build_engine,
}
