"""OpenVINO's own format: an ``.xml`` file with the graph and a ``.bin`` file with the weights.

OpenVINO also runs our ONNX files as they are; its own format starts faster.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

from torchseg_zoo.errors import ExportError, MissingExtraError
from torchseg_zoo.export.graph import InputLayout, Output, Precision
from torchseg_zoo.export.onnx import onnx_model
from torchseg_zoo.export.quantize import CalibrationSet, Int8For, Spread
from torchseg_zoo.files import atomic_write_all, printable
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.runtime.artefact import METADATA_KEY
from torchseg_zoo.types import Size

__all__ = ["export_openvino"]


def export_openvino(
    model: SegmentationModel,
    path: str | os.PathLike[str],
    *,
    size: Size | Literal["dynamic"] = "dynamic",
    batch: int | Literal["dynamic"] = 1,
    layout: InputLayout = "nhwc",
    output: Output = "labels",
    precision: Precision = "fp32",
    name: str = "",
    calibration: CalibrationSet | Spread | None = None,
    int8_for: Int8For = "cpu",
) -> Path:
    """Writes ``path`` and, beside it, the weights under the same name ending in ``.bin``.

    Arguments are those of ``export_onnx``, but that ``path`` ends in ``.xml``, and int8 is chosen
    for a CPU.

    Returns:
        The path.

    Raises:
        ExportError, ArgumentError, DataError: as ``export_onnx``.
        MissingExtraError: if openvino or the extra ``onnx`` is not installed.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise ExportError("the file name must end in .xml", where=printable(path))
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError(
            "exporting to OpenVINO needs it", fix="pip install 'torchseg-zoo[onnx,openvino]'"
        ) from error
    proto = onnx_model(
        model,
        size=size,
        batch=batch,
        layout=layout,
        output=output,
        precision=precision,
        name=name,
        calibration=calibration,
        int8_for=int8_for,
    )
    (record,) = [entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY]
    converted = openvino.Core().read_model(proto.SerializeToString(deterministic=True))
    converted.set_rt_info(record, [METADATA_KEY])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "model.xml"
        # The graph carries its precision already; compressing weights again would change labels.
        openvino.save_model(converted, whole, compress_to_fp16=False)
        parts = (".xml", ".bin")
        contents = {path.with_suffix(part): whole.with_suffix(part).read_bytes() for part in parts}
    atomic_write_all(contents)
    return path
