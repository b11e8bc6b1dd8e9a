"""Picture in, labels out, against the eager original and mmsegmentation, BiSeNet-R18 on the CPU.

    python benchmarks/pictures.py [--rounds 15] [--size 512x1024] [--threads 2 1] [--compile]

Every contender lives in a process of its own, as its user would have it, and gets the picture's
bytes in turn: uint8 RGB in, uint8 labels at the picture's size out. "Original" is the same graph as
TorchSeg runs it: normalised in numpy, evaluated eagerly with its batch norms, logits resized to the
picture, argmax. Ours has the weights of the one it is compared with, and label maps are compared
before any time is taken. Memory is the peak of a call above what the process held before it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

Label = Callable[[np.ndarray], np.ndarray]

GOALS = {"original": (0.60, 0.75), "mmseg": (0.55, 0.75)}
COMPILED_GOAL = 0.42
MEMORY_GOAL_MIB = 60


def original() -> Label:
    """The seed's way, with our weights."""
    import torch
    import torch.nn.functional as F

    model = _ours("original")

    @torch.inference_mode()
    def label(picture: np.ndarray) -> np.ndarray:
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        values = ((picture.astype(np.float32) / 255.0 - mean) / std).transpose(2, 0, 1)
        x = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
        logits = model(x, upsample=False)
        aligned = model.config.align_corners
        full = F.interpolate(logits, picture.shape[:2], mode="bilinear", align_corners=aligned)
        return full.argmax(1)[0].numpy().astype(np.uint8)

    return label


def mmseg() -> Label:
    """mmsegmentation's BiSeNetV1, its own normalisation, padding and argmax."""
    import mmseg_peer
    import torch

    model = mmseg_peer.bisenet_r18()
    model.load_state_dict(_mmseg_state())
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

    @torch.inference_mode()
    def label(picture: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float()
        logits = mmseg_peer.logits(model, ((x - mean) / std)[None])
        return logits.argmax(1)[0].numpy().astype(np.uint8)

    return label


def ours(like: str, compile: bool) -> Label:
    """A ``Predictor`` with the weights of a contender."""
    import torchseg_zoo as tsz

    return tsz.Predictor(_ours(like), compile=compile).labels


def _ours(like: str) -> Any:
    import torch

    import torchseg_zoo as tsz

    if like == "mmseg":
        return tsz.model_from_state_dict(_mmseg_state())
    torch.manual_seed(0)
    model = tsz.bisenet_r18().eval()
    _lively(model)
    return model


def _mmseg_state() -> Any:
    import mmseg_peer
    import torch

    torch.manual_seed(0)
    model = mmseg_peer.bisenet_r18()
    _lively(model)
    return model.state_dict()


def _lively(model: Any) -> None:
    """Statistics that keep activations at the scale of a trained network's."""
    import torch

    model.train()
    torch.manual_seed(1)
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(2, 3, 128, 256)
            model(x) if not hasattr(model, "encode_decode") else model.extract_feat(x)
    model.eval()


def serve(contender: tuple[str, str, bool], threads: int, pipe: Connection) -> None:
    """A contender's process: picture in, (labels, seconds, MiB above rest) out."""
    import torch

    torch.set_num_threads(threads)
    kind, like, compile = contender
    label = (
        ours(like, compile) if kind == "ours" else {"original": original, "mmseg": mmseg}[kind]()
    )
    while (picture := pipe.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from now
        rest = _status("VmRSS")
        start = time.perf_counter()
        labels = label(picture)
        seconds = time.perf_counter() - start
        pipe.send((labels, seconds, (_status("VmHWM") - rest) / 1024))


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise KeyError(name)


def compare(peer: str, picture: np.ndarray, threads: int, options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    contenders = [("ours", peer, options.compile), (peer, peer, False)]
    pipes, processes = [], []
    for contender in contenders:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(contender, threads, there), daemon=True)
        process.start()
        pipes.append(here)
        processes.append(process)

    def call(pipe: Connection) -> tuple[np.ndarray, float, float]:
        pipe.send(picture)
        return pipe.recv()

    firsts = [call(pipe) for pipe in pipes]
    cold = [first[2] for first in firsts]
    agreement = float((firsts[0][0] == firsts[1][0]).mean())
    classes = len(np.unique(firsts[0][0]))
    assert agreement > 0.999, f"labels agree on {agreement:.4f} of the pixels only"
    times = [[call(pipe)[1] for pipe in pipes] for _ in range(options.rounds)]
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    ratio = statistics.median(own / other for own, other in times)
    own, other = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    goal = COMPILED_GOAL if options.compile else GOALS[peer][threads == 1]
    print(
        f"{peer:<10} {threads:>7} {ratio:8.3f}  <= {goal:.2f}  {own:7.0f} {other:7.0f} ms  "
        f"first call {cold[0]:.0f} and {cold[1]:.0f} MiB above rest; "
        f"labels agree on {agreement:.5f} ({classes} classes)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", default="512x1024")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--peers", nargs="+", default=["original", "mmseg"])
    parser.add_argument("--compile", action="store_true", help="compile ours")
    options = parser.parse_args()
    from torchseg_zoo.data.datasets.drawn import draw_street

    height, width = map(int, options.size.split("x"))
    picture, _ = draw_street(5, (height, width))
    print(f"{'peer':<10} threads    ratio  goal        ours    peer")
    for threads in options.threads:
        for peer in options.peers:
            compare(peer, picture, threads, options)


if __name__ == "__main__":
    main()
