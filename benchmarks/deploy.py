"""Exports against eager PyTorch and against plain exports, BiSeNet-R18 on the CPU; cold start.

    python benchmarks/deploy.py [--rounds 10] [--size 512x1024] [--threads 2 1] [--fixed]

Every contender lives in a process of its own and gets the picture's bytes in turn: uint8 RGB in,
uint8 labels out. "ours" is a file of ``export_onnx``, of any size unless ``--fixed``, as
``runtime.load`` runs it. "eager" is the plain model as TorchSeg runs it. "plain" is what
``torch.onnx.export(model)`` gives: normalised floats in, logits at input size out; numpy normalises
before and takes the largest after. All have the same weights, and label maps are compared before
any time is taken.

Cold start is from the start of a Python process to the first labels of the example picture, less
what creating the runtime's session took.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pictures

Label = Callable[[np.ndarray], np.ndarray]

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# ours, peer, largest ratio wanted
PAIRS = (
    ("ours onnx", "eager", 0.28),
    ("ours onnx", "plain onnx", 1.0),
    ("ours openvino", "eager", 0.28),
    ("ours openvino", "plain openvino", 1.0),
    ("int8 onnx", "eager", 0.28),
    ("int8 openvino", "eager", 0.28),
)
COLD_GOAL_S = 1.0


def export(folder: Path, size: tuple[int, int], fixed: bool) -> None:
    """Writes ours.onnx, int8.onnx and plain.onnx."""
    import torch

    from torchseg_zoo.data.datasets.drawn import draw_street
    from torchseg_zoo.export.onnx import export_onnx

    model = pictures._ours("original")
    wanted = size if fixed else "dynamic"
    export_onnx(model, folder / "ours.onnx", size=wanted)
    streets = [draw_street(seed, size)[0] for seed in range(100, 104)]
    export_onnx(
        model,
        folder / "int8.onnx",
        size=wanted,
        precision="int8",
        calibration=streets,
        int8_for="cpu",
    )
    example = torch.zeros(1, 3, *size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (example,), dynamo=True, input_names=["x"], output_names=["y"], verbose=False
        )
    program.save(str(folder / "plain.onnx"))


def ours(file: Path, runtime_name: str, threads: int) -> Label:
    from torchseg_zoo import runtime

    return runtime.load(file, runtime=runtime_name, threads=threads).labels


def plain_onnx(folder: Path, threads: int) -> Label:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        folder / "plain.onnx", options, providers=["CPUExecutionProvider"]
    )
    return _with_numpy(lambda x: session.run(None, {"x": x})[0])


def plain_openvino(folder: Path, threads: int) -> Label:
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = openvino.Core().compile_model(folder / "plain.onnx", "CPU", hints)
    return _with_numpy(lambda x: compiled([x])[0])


def _with_numpy(network: Callable[[np.ndarray], np.ndarray]) -> Label:
    def label(picture: np.ndarray) -> np.ndarray:
        values = (picture.astype(np.float32) / 255 - MEAN) / STD
        logits = network(np.ascontiguousarray(values.transpose(2, 0, 1)[None]))
        return logits.argmax(1)[0].astype(np.uint8)

    return label


CONTENDERS: dict[str, Callable[[Path, int], Label]] = {
    "eager": lambda folder, threads: pictures.original(),
    "plain onnx": plain_onnx,
    "plain openvino": plain_openvino,
    "ours onnx": lambda folder, threads: ours(folder / "ours.onnx", "onnx", threads),
    "ours openvino": lambda folder, threads: ours(folder / "ours.onnx", "openvino", threads),
    "int8 onnx": lambda folder, threads: ours(folder / "int8.onnx", "onnx", threads),
    "int8 openvino": lambda folder, threads: ours(folder / "int8.onnx", "openvino", threads),
}


def serve(name: str, folder: Path, threads: int, pipe: Connection) -> None:
    """A contender's process: picture in, (labels, milliseconds) out."""
    if name == "eager":
        import torch

        torch.set_num_threads(threads)
    label = CONTENDERS[name](folder, threads)
    while (picture := pipe.recv()) is not None:
        label(picture)  # so that the caches are this process's again
        start = time.perf_counter()
        labels = label(picture)
        pipe.send((labels, 1e3 * (time.perf_counter() - start)))


def compare(folder: Path, picture: np.ndarray, threads: int, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name in CONTENDERS:
        pipes[name], there = context.Pipe()
        process = context.Process(target=serve, args=(name, folder, threads, there), daemon=True)
        process.start()
        processes.append(process)

    def call(name: str) -> tuple[np.ndarray, float]:
        pipes[name].send(picture)
        return pipes[name].recv()

    wanted = call("eager")[0]
    agreement = {name: float((call(name)[0] == wanted).mean()) for name in CONTENDERS}
    for name, share in agreement.items():
        assert name.startswith("int8") or share > 0.999, f"{name}: {share:.5f} of the labels agree"
    times = [{name: call(name)[1] for name in CONTENDERS} for _ in range(rounds)]
    for name, process in zip(CONTENDERS, processes, strict=True):
        pipes[name].send(None)
        process.join()
    medians = {name: statistics.median(row[name] for row in times) for name in CONTENDERS}
    print(f"\n{threads} thread(s), {len(np.unique(wanted))} classes in the labels")
    print("  " + ", ".join(f"{name} {value:.0f} ms" for name, value in medians.items()))
    equal = ", ".join(f"{name} {100 * share:.2f} %" for name, share in agreement.items())
    print(f"  labels equal to eager's: {equal}")
    for mine, peer, goal in PAIRS:
        ratio = statistics.median(row[mine] / row[peer] for row in times)
        print(f"  {mine:<14} / {peer:<15} {ratio:6.3f}  <= {goal:.2f}")


COLD = """
import sys, time
from torchseg_zoo import runtime
file, name, picture = sys.argv[1:]
runtime.load(file, runtime=name, threads=2).predict(picture)
print(time.time())
assert "torch" not in sys.modules
start = time.perf_counter()
runtime.load(file, runtime=name, threads=2)
print(time.perf_counter() - start)
"""


def cold_start(rounds: int) -> None:
    """Python, imports, loading, first picture; a second loading is taken off for the session."""
    import torchseg_zoo as tsz
    from torchseg_zoo.export.onnx import export_onnx

    street = Path(__file__).parents[1] / "examples" / "street.png"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(tsz.bisenet_x39(pretrained="camvid"), file)
        for name in ("onnx", "openvino"):
            found = []
            for _ in range(rounds):
                start = time.time()
                done = subprocess.run(
                    [sys.executable, "-c", COLD, str(file), name, str(street)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                end, session = map(float, done.stdout.split())
                found.append((end - start, session))
            whole, session = (statistics.median(column) for column in zip(*found, strict=True))
            without = statistics.median(one - other for one, other in found)
            print(
                f"  {name:<9} {whole:.2f} s, of which the session {session:.2f} s; without it "
                f"{without:.2f} s  <= {COLD_GOAL_S:.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--size", default="512x1024")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--fixed", action="store_true", help="export ours for this size alone")
    options = parser.parse_args()
    from torchseg_zoo.data.datasets.drawn import draw_street

    height, width = map(int, options.size.split("x"))
    picture, _ = draw_street(5, (height, width))
    versions = (
        f"{name} {__import__(name).__version__}" for name in ("torch", "onnxruntime", "openvino")
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{', '.join(versions)}, {height}×{width}"
    )
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder), (height, width), options.fixed)
        for threads in options.threads:
            compare(Path(folder), picture, threads, options.rounds)
    print("\ncold start, bisenet_x39.camvid, the example picture")
    cold_start(options.rounds)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
