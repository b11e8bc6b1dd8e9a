"""``torchseg-zoo export``: write a model for another runtime, with a proof."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torchseg_zoo.cli._options import add_model, open_model, parse_size
from torchseg_zoo.files import printable

if TYPE_CHECKING:
    from torchseg_zoo.export.parity import Parity
    from torchseg_zoo.models.base import SegmentationModel
    from torchseg_zoo.types import Size

__all__ = ["add_parser"]

_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


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
    parser.add_argument("--format", choices=sorted(_SUFFIXES), default="onnx")
    parser.add_argument(
        "--size", type=_size, default="dynamic", metavar="HxW|dynamic",
        help="the one size of the pictures, such as 768x1536, or any (default)",
    )  # fmt: skip
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument(
        "--output", choices=("labels", "labels+confidence", "logits"), default="labels"
    )
    parser.add_argument(
        "--layout", choices=("nhwc", "nchw", "float"), default="nhwc",
        help="pictures as bytes, colours last (default) or first, or as normalised floats",
    )  # fmt: skip
    parser.add_argument("--batch", type=_batch, default=1, metavar="N|dynamic")
    parser.add_argument(
        "-o", "--out", metavar="FILE", help="(default: MODEL with the format's ending, here)"
    )
    parser.add_argument(
        "--data", help="labelled pictures to score before and after, as evaluate takes them"
    )
    parser.add_argument("--split", default="val", help="of --data (default: val)")
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="score on the first N of them only"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE",
        help="share of pixels that must have equal labels (default: 0.999; 0.995 for fp16)",
    )  # fmt: skip
    parser.set_defaults(run=_run)


def _size(text: str) -> Size | Literal["dynamic"]:
    return "dynamic" if text == "dynamic" else parse_size(text)


def _batch(text: str) -> int | Literal["dynamic"]:
    if text == "dynamic":
        return "dynamic"
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no batch; give a number, or dynamic")
    return int(text)


def _run(options: argparse.Namespace) -> int:
    from torchseg_zoo.export.onnx import export_onnx
    from torchseg_zoo.export.openvino import export_openvino
    from torchseg_zoo.export.parity import prove

    model = open_model(options).cpu()
    name = model.config.model if options.checkpoint else options.model
    path = Path(options.out or f"{name}{_SUFFIXES[options.format]}")
    export = {"onnx": export_onnx, "openvino": export_openvino}[options.format]
    export(
        model,
        path,
        size=options.size,
        batch=options.batch,
        layout=options.layout,
        output=options.output,
        precision=options.precision,
        name="" if options.checkpoint else options.model,
    )
    print(printable(path))
    parities = _compared(options, model, path)
    for parity in parities.values():
        print(parity.describe())
    print(printable(prove(path, parities)))
    return 0


def _compared(
    options: argparse.Namespace, model: SegmentationModel, path: Path
) -> dict[str, Parity]:
    """The proof on every runtime that is installed and reads the format."""
    import importlib.util

    from torchseg_zoo import runtime
    from torchseg_zoo.data.datasets import open_dataset
    from torchseg_zoo.errors import MissingExtraError
    from torchseg_zoo.export.parity import compare

    dataset = open_dataset(options.data, options.split, model.labels) if options.data else None
    readers = {"onnx": ("onnx", "openvino"), "openvino": ("openvino",)}[options.format]
    modules = {"onnx": "onnxruntime", "openvino": "openvino"}
    there = [name for name in readers if importlib.util.find_spec(modules[name])]
    if not there:
        raise MissingExtraError(
            f"{printable(path)} was written, but nothing here can run it to prove it",
            fix=f"pip install {modules[readers[0]]}, and export again",
        )
    return {
        name: compare(
            model,
            runtime.load(path, runtime=name, device="cpu"),
            dataset=dataset,
            pictures=options.pictures,
            tolerance=options.tolerance,
        )
        for name in there
    }
