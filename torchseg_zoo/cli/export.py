"""``torchseg-zoo export``: write a model for another runtime, with a proof."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torchseg_zoo.cli._data_options import (
    add_calibration,
    add_data,
    chosen_calibration,
    open_data,
)
from torchseg_zoo.cli._options import add_model, open_model, parse_size, show_building
from torchseg_zoo.files import printable, require_writable

if TYPE_CHECKING:
    from torchseg_zoo.data.sample import Dataset
    from torchseg_zoo.export.parity import Parity
    from torchseg_zoo.export.quantize import Int8For, Spread
    from torchseg_zoo.models.base import SegmentationModel
    from torchseg_zoo.runtime import Runner
    from torchseg_zoo.types import Size

__all__ = ["add_parser"]

_LEAST_SIDE = 32  # of the drawn streets that files are proven on
_SUFFIXES = {
    "aoti": ".pt2",
    "onnx": ".onnx",
    "openvino": ".xml",
    "tensorrt": ".engine",
    "torch-export": ".pt2",
}
# Runtimes that read a format, and the package that each needs.
_READERS = {
    "aoti": {"pt2": "torch"},
    "onnx": {"onnx": "onnxruntime", "openvino": "openvino"},
    "openvino": {"openvino": "openvino"},
    "torch-export": {"pt2": "torch"},
}


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "export",
        help="write a model for another runtime, with a proof",
        description="Writes one file that takes a picture's bytes and gives its labels, and beside "
        "it FILE.parity.json: how its labels compare with PyTorch's at several sizes, on every "
        "runtime that is installed. Fails if they differ by more than the tolerance.",
    )
    add_model(parser)
    parser.add_argument(
        "--format", choices=sorted(_SUFFIXES), default="onnx",
        help="onnx (default); openvino; tensorrt: the ONNX file, and an engine of it for this GPU; "
        "torch-export: PyTorch's own; aoti: compiled for this machine, needs a C++ compiler",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=_size, default="dynamic", metavar="HxW|dynamic",
        help="the one size of the pictures, such as 768x1536, or any (default)",
    )  # fmt: skip
    parser.add_argument(
        "--profile", type=_profile, metavar="MIN,USUAL,MAX",
        help="sizes that an engine takes, such as 256x256,768x1536,1080x1920",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32",
        help="of the network (default: fp32); int8 needs --calibration",
    )  # fmt: skip
    parser.add_argument(
        "--output", choices=("labels", "labels+confidence", "logits"), default="labels",
        help="what the file gives (default: labels)",
    )  # fmt: skip
    parser.add_argument(
        "--layout", choices=("nhwc", "nchw", "float"), default="nhwc",
        help="pictures as bytes, colours last (default) or first, or as normalised floats",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=_batch, default=1, metavar="N|dynamic",
        help="pictures at a time (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", metavar="FILE",
        help="file to write (default: MODEL.TAG with the format's ending, here)",
    )  # fmt: skip
    _add_int8(parser)
    _add_proof(parser)
    parser.set_defaults(run=partial(_run, parser))


def _add_int8(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("int8")
    add_calibration(group)
    group.add_argument(
        "--int8-for", choices=("tensorrt", "cpu"),
        help="whom the integers are chosen for: TensorRT, or a CPU, where they are then faster and "
        "TensorRT does not take them (default: cpu for openvino, else tensorrt)",
    )  # fmt: skip


def _add_proof(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("proof")
    add_data(group, purpose="labelled pictures to score before and after: ")
    group.add_argument(
        "--pictures", type=int, metavar="N", help="score on the first N of them only"
    )
    group.add_argument(
        "--tolerance", type=float, metavar="SHARE",
        help="share of pixels that must have equal labels (default: 0.999; 0.995 for fp16; for "
        "int8 0.7, and nothing where there is --data)",
    )  # fmt: skip
    group.add_argument(
        "--miou-tolerance", type=float, metavar="POINTS",
        help="of mIoU on --data that may be lost (default: 1 for int8)",
    )  # fmt: skip


def _size(text: str) -> Size | Literal["dynamic"]:
    return "dynamic" if text == "dynamic" else parse_size(text)


def _profile(text: str) -> tuple[Size, Size, Size]:
    sizes = [parse_size(part) for part in text.split(",")]
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three sizes")
    return sizes[0], sizes[1], sizes[2]


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no batch; give a number, or dynamic")
    return int(text)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    engine = options.format == "tensorrt"
    if options.profile and not engine:
        parser.error("--profile goes with --format tensorrt")
    if engine and (options.size == "dynamic") != bool(options.profile):
        parser.error("--format tensorrt needs either --size HxW or --profile MIN,USUAL,MAX")
    if engine and options.batch != 1:
        parser.error("engines take one picture at a time: leave --batch out")
    if (options.calibration or options.int8_for) and options.precision != "int8":
        parser.error("--calibration and --int8-for go with --precision int8")
    if options.miou_tolerance is not None and not options.data:
        parser.error("--miou-tolerance goes with --data")
    if engine and options.int8_for == "cpu":
        parser.error("TensorRT does not take --int8-for cpu")
    sizes = [*(options.profile or ()), *([options.size] if options.size != "dynamic" else [])]
    for height, width in sizes:
        if min(height, width) < _LEAST_SIDE:
            parser.error(
                f"{height}x{width} is too small to be proven; give sides of {_LEAST_SIDE} or more"
            )


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from torchseg_zoo.devices import find_device

    _check(parser, options)
    find_device(options.device)
    device, options.device = options.device, "cpu"  # files are traced there
    model = open_model(options)
    name = model.config.model if options.checkpoint else options.model
    path = Path(options.out or f"{name}{_SUFFIXES[options.format]}")
    require_writable(path)
    dataset = open_data(options, model.labels) if options.data else None
    calibration = _calibration(options, model)
    if options.format == "tensorrt":
        graph = path.with_suffix(".onnx")
        _write("onnx", options, model, graph, calibration, device)
        _prove(options, model, graph, _runners("onnx", graph, device), dataset)
        engine = _engine(options, path, graph, device)
        _prove(options, model, path, {"tensorrt": engine}, dataset, sizes=options.profile)
    else:
        _write(options.format, options, model, path, calibration, device)
        _prove(options, model, path, _runners(options.format, path, device), dataset)
    return 0


def _calibration(options: argparse.Namespace, model: SegmentationModel) -> Spread | None:
    from torchseg_zoo.export.quantize import require_pictures

    if options.precision != "int8" or options.format in ("aoti", "torch-export"):
        return None
    calibration = chosen_calibration(options, model.labels)
    require_pictures(calibration)  # before anything is written
    return calibration


def _write(
    kind: str,
    options: argparse.Namespace,
    model: SegmentationModel,
    path: Path,
    calibration: Spread | None,
    device: str,
) -> None:
    from torchseg_zoo.export.onnx import export_onnx
    from torchseg_zoo.export.openvino import export_openvino
    from torchseg_zoo.export.pt2 import export_aoti, export_program

    common: dict[str, Any] = {
        "size": "dynamic" if options.profile else options.size,
        "batch": options.batch,
        "layout": options.layout,
        "output": options.output,
        "precision": options.precision,
        "name": "" if options.checkpoint else options.model,
    }
    if kind == "aoti":
        export_aoti(model, path, device=device, **common)
    elif kind == "torch-export":
        export_program(model, path, **common)
    else:
        export = {"onnx": export_onnx, "openvino": export_openvino}[kind]
        chosen: Int8For = options.int8_for or ("cpu" if kind == "openvino" else "tensorrt")
        export(model, path, calibration=calibration, int8_for=chosen, **common)
    print(printable(path))


def _engine(options: argparse.Namespace, path: Path, graph: Path, device: str) -> Runner:
    """Builds and writes the engine of an ONNX file that is written and proven."""
    from torchseg_zoo.errors import MissingExtraError
    from torchseg_zoo.export.tensorrt import SizeRange, compile_onnx

    try:
        engine = compile_onnx(
            graph,
            size=SizeRange(*options.profile) if options.profile else None,
            device=device,
            progress=show_building if sys.stderr.isatty() else None,
        )
    except MissingExtraError as error:
        raise MissingExtraError(
            f"{printable(graph)} is written and proven, but its engine is not built: {error.what}",
            fix=f"{error.fix} on the machine with the GPU, and export there",
        ) from error
    print(f"{printable(engine.save(path))}  sha256 {engine.sha256}")
    return engine


def _runners(kind: str, path: Path, device: str) -> dict[str, Runner]:
    """The file on every runtime that is installed and reads it.

    Raises:
        MissingExtraError: if none is installed.
    """
    import importlib.util

    from torchseg_zoo import runtime
    from torchseg_zoo.errors import MissingExtraError

    readers = _READERS[kind]
    there = [name for name, module in readers.items() if importlib.util.find_spec(module)]
    if not there:
        raise MissingExtraError(
            f"{printable(path)} was written, but nothing here can run it to prove it",
            fix=f"pip install {next(iter(readers.values()))}, and export again",
        )
    device = device if kind == "aoti" else "cpu"
    return {name: runtime.load(path, runtime=name, device=device) for name in there}


def _prove(
    options: argparse.Namespace,
    model: SegmentationModel,
    path: Path,
    runners: dict[str, Runner],
    dataset: Dataset | None,
    *,
    sizes: tuple[Size, Size, Size] | None = None,
) -> None:
    from torchseg_zoo.export.parity import compare, prove

    parities: dict[str, Parity] = {}
    for name, runner in runners.items():
        parities[name] = compare(
            model,
            runner,
            sizes=sizes,
            dataset=dataset,
            pictures=options.pictures,
            tolerance=options.tolerance,
            miou_tolerance=options.miou_tolerance,
        )
        print(parities[name].describe())
    print(printable(prove(path, parities)))
