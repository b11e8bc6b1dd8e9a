"""Measures how exports of every family compare with PyTorch, and writes the table of it.

    python tools/parity_table.py --measure [FAMILY ...]     # into docs/records/parity.json
    python tools/parity_table.py                            # docs/runtimes/parity.md from it

Measuring takes minutes for each family; what is measured is in the record at once, and families
or ``--kinds`` that are named replace what the record has of them. Models are small: random weights
on a backbone of ten layers, seven classes, because what could differ is the graph.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torchseg_zoo.errors import ZooError
from torchseg_zoo.files import atomic_write

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "records" / "parity.json"
PAGE = ROOT / "docs" / "runtimes" / "parity.md"

# One factory of every family, and of each variant whose graph is another.
FAMILIES = (
    "bisenet_r18",
    "deeplabv3_r50",
    "deeplabv3plus_r50",
    "denseaspp_d121",
    "dfn_r101",
    "encnet_r50",
    "fcn32s_r101",
    "fcn_r50",
    "ocnet_asp_r101",
    "ocnet_base_r101",
    "ocnet_isa_r50",
    "ocnet_pyramid_r101",
    "psanet_r50",
    "pspnet_r50",
)
SIZES = ((65, 97), (96, 160), (127, 200))
# Format, precision, and the runtimes that read the file.
KINDS = (
    ("onnx", "fp32", ("onnx", "openvino")),
    ("onnx", "fp16", ("onnx", "openvino")),
    ("onnx", "int8", ("onnx", "openvino")),
    ("torch-export", "fp32", ("pt2",)),
    ("aoti", "fp32", ("pt2",)),
)
# Inductor was still simplifying the sizes of the pyramid's cells after 25 minutes.
ONE_SIZE = {("ocnet_pyramid_r101", "aoti"): (96, 160)}
RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "pt2": "PyTorch"}

HEAD = """\
# Measured parity

Written by `tools/parity_table.py` from `docs/records/parity.json`. Each cell: pixels with the label
that the PyTorch model gives, in percent, at the worst of {sizes}; and, where logits were compared,
their largest difference, in standard deviations of the model's logits.

Models of random weights on a backbone of ten layers with seven classes (DenseASPP: its own), on
drawn streets; PSANet at its one size, `ocnet_pyramid_r101` compiled for 96×160 (for any size, the
compiler was not done after 25 minutes). Labels of random weights lie closer to ties than those of
trained ones; what int8 costs a trained model is its mIoU, which `export --data` measures. int8 is
chosen for CPUs (`--int8-for cpu`); OpenVINO computes that of `denseaspp_d121` in float32, see
[OpenVINO](openvino.md). Measured on
{machine}, while other work was running; {software}.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", nargs="*", metavar="FAMILY", help="all without a name")
    parser.add_argument("--kinds", nargs="+", metavar="FORMAT-PRECISION", help="only these")
    options = parser.parse_args()
    if options.measure is not None:
        for name in options.measure or FAMILIES:
            _record(name, measured(name, options.kinds))
            print(name, flush=True)
    text = page(json.loads(RECORD.read_text(encoding="utf-8")))
    PAGE.parent.mkdir(exist_ok=True)
    atomic_write(PAGE, lambda file: file.write(text.encode()))


def measured(name: str, kinds: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """An entry for each format, precision and runtime."""
    import torch

    import torchseg_zoo as tsz

    torch.manual_seed(0)
    backbone = {} if name.startswith("denseaspp") else {"backbone": "resnet10t"}
    model = tsz.create_model(name, num_classes=7, **backbone).eval()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for form, precision, readers in KINDS:
            if kinds and f"{form}-{precision}" not in kinds:
                continue
            try:
                size = ONE_SIZE.get((name, form)) or model.input_rule.fixed or "dynamic"
                entries = _compared(model, form, precision, readers, size, Path(folder))
            except ZooError as error:
                entries = [{"runtime": reader, "refused": str(error)} for reader in readers]
            found += [{"format": form, "precision": precision, **entry} for entry in entries]
    return found


def _compared(
    model: Any, form: str, precision: Any, readers: tuple[str, ...], size: Any, folder: Path
) -> list[dict[str, Any]]:
    from torchseg_zoo import runtime
    from torchseg_zoo.data.datasets import DrawnStreets
    from torchseg_zoo.export.onnx import export_onnx, logits_model
    from torchseg_zoo.export.parity import compare
    from torchseg_zoo.export.pt2 import export_aoti, export_program

    logits = None
    if form == "onnx":
        file = folder / f"{precision}.onnx"
        calibration = DrawnStreets(8, size=(96, 160)) if precision == "int8" else None
        export_onnx(
            model,
            file,
            size=size,
            precision=precision,
            calibration=calibration,
            int8_for="cpu",
        )
        logits = folder / f"{precision}-logits.onnx"
        logits.write_bytes(logits_model(file.read_bytes()))
    else:
        export = export_aoti if form == "aoti" else export_program
        file = export(model, folder / f"{form}-{precision}.pt2", size=size)
    entries = []
    for reader in readers:
        parity = compare(
            model,
            runtime.load(file, runtime=reader, device="cpu", threads=1),
            logits_runner=None
            if logits is None
            else runtime.load(logits, runtime=reader, device="cpu", threads=1),
            sizes=SIZES,
        )
        differences = [
            entry.logit_difference for entry in parity.sizes if entry.logit_difference is not None
        ]
        entries.append(
            {
                "runtime": reader,
                "equal_percent": 100 * min(entry.equal for entry in parity.sizes),
                "logit_difference": max(differences) if differences else None,
                "sizes": [list(entry.size) for entry in parity.sizes],
            }
        )
    return entries


def _record(name: str, entries: list[dict[str, Any]]) -> None:
    """Puts entries into the record, in place of earlier ones of the same kind."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    families = record.get("families", {})
    kept = {_key(entry): entry for entry in (*families.get(name, []), *entries)}
    record["families"] = dict(sorted({**families, name: list(kept.values())}.items()))
    record["machine"] = f"{platform.system()} {platform.machine()}, one thread"
    record["software"] = {
        library: version(library)
        for library in ("torchseg-zoo", "torch", "onnx", "onnxruntime", "openvino")
    }
    text = json.dumps(record, indent=1) + "\n"
    atomic_write(RECORD, lambda file: file.write(text.encode()))


def page(record: dict[str, Any]) -> str:
    """The page with its table."""
    columns = [(form, precision, reader) for form, precision, all_ in KINDS for reader in all_]
    titles = [
        f"{form} {precision}, {RUNTIMES[reader]}" if form == "onnx" else form
        for form, precision, reader in columns
    ]
    lines = [("model", *titles), ("---",) * (1 + len(titles))]
    notes = []
    for name, entries in record["families"].items():
        cells = [f"`{name}`"]
        for column in columns:
            entry = _entry(entries, column)
            cells.append(_cell(entry))
            if entry and "refused" in entry:
                notes.append(f"- `{name}`, {' '.join(column)}: {entry['refused']}.\n")
        lines.append(tuple(cells))
    software = ", ".join(f"{name} {text}" for name, text in record["software"].items())
    sizes = ", ".join(f"{height}×{width}" for height, width in SIZES)
    head = HEAD.format(sizes=sizes, machine=record["machine"], software=software)
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return head + table + ("\n" + "".join(dict.fromkeys(notes)) if notes else "")


def _key(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["format"], entry["precision"], entry["runtime"]


def _entry(entries: list[dict[str, Any]], column: tuple[str, str, str]) -> dict[str, Any] | None:
    for entry in entries:
        if _key(entry) == column:
            return entry
    return None


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    if "refused" in entry:
        return "refused"
    difference = entry["logit_difference"]
    text = f"{entry['equal_percent']:.2f}"
    return text if difference is None else f"{text}; {difference:.0e}"


if __name__ == "__main__":
    main()
