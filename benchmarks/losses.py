"""Losses from head-stride logits against the plain way, and OHEM's selection against a sort.

    python benchmarks/losses.py [--rounds 15] [--threads 1] [--device cpu]

Plain: ``F.interpolate`` to full size, ``F.cross_entropy``, backward. The selection: softmax, the
true class's probability, a full sort, and the threshold read off it, as TorchSeg does. Before any
time is taken, losses, gradients and kept pixels must agree. Contenders are interleaved; medians of
per-round ratios are printed, on a CPU of CPU time. Memory is the largest amount held at once beyond
what was there, in copies of one head's full-size logits.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.training.head_loss import true_class_probability
from torchseg_zoo.training.losses import cross_entropy, ohem_cross_entropy
from torchseg_zoo.training.selection import hard_pixels

CASES = {
    "BiSeNet-R18 head, 2 × 19 × 512×512 from 1/8": (2, 19, (64, 64), (512, 512)),
    "BiSeNet-R18 auxiliary, 2 × 19 × 512×512 from 1/16": (2, 19, (32, 32), (512, 512)),
    "BiSeNet-R18 head, 1 × 19 × 1024×1024 from 1/8": (1, 19, (128, 128), (1024, 1024)),
    "DFN head, 1 × 19 × 800×800 from 1/4": (1, 19, (200, 200), (800, 800)),
    "PSPNet head, 1 × 150 × 480×480 from 1/8": (1, 150, (60, 60), (480, 480)),
}
THRESHOLD = 0.7
Loss = Callable[[Tensor], Tensor]


def plain_ce(logits: Tensor, labels: Tensor) -> Tensor:
    size = (labels.shape[-2], labels.shape[-1])
    full = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    return F.cross_entropy(full, labels, ignore_index=255)


def sorted_selection(full: Tensor, labels: Tensor, min_kept: int) -> Tensor:
    """TorchSeg's selection, with its loops over NumPy left out."""
    valid = labels != 255
    probability = full.softmax(1)
    true = probability.gather(1, labels.where(valid, 0)[:, None])[:, 0].masked_fill(~valid, 1)
    ordered = true.flatten().sort().values
    limit = max(THRESHOLD, ordered[min(len(ordered), min_kept) - 1].item())
    return (true <= limit) & valid


def plain_ohem(logits: Tensor, labels: Tensor, min_kept: int) -> Tensor:
    size = (labels.shape[-2], labels.shape[-1])
    full = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    kept = sorted_selection(full.detach(), labels, min_kept)
    return F.cross_entropy(full, labels.masked_fill(~kept, 255), ignore_index=255)


def run(loss: Loss, logits: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """The largest amount of memory that an action holds at once, beyond what was there."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(profile_memory=True) as profile:
        action()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def race(
    contenders: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Name → median milliseconds, and the median of ratios to the last contender."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 2):
        for name, action in contenders.items():
            start = clock()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(clock() - start)
    times = {name: taken[2:] for name, taken in times.items()}  # the first two warm up
    last = list(times.values())[-1]
    return {
        name: (
            1e3 * statistics.median(taken),
            statistics.median(mine / theirs for mine, theirs in zip(taken, last, strict=True)),
        )
        for name, taken in times.items()
    }


def report(title: str, results: dict[str, tuple[float, float]], goal: str) -> None:
    print(f"  {title}")
    for name, (ms, ratio) in results.items():
        print(f"    {name:<24} {ms:9.1f} ms   {ratio:6.3f}   {goal if ratio != 1 else ''}")


def compare_losses(name: str, rounds: int, device: torch.device) -> None:
    pictures, classes, source, size = CASES[name]
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(pictures, classes, *source, generator=random).to(device)
    labels = torch.randint(0, classes, (pictures, *size), generator=random)
    labels[torch.rand(labels.shape, generator=random) < 0.05] = 255
    labels = labels.to(device)
    min_kept = labels.numel() // 16
    pairs: dict[str, tuple[Loss, Loss]] = {
        "cross entropy": (
            lambda z: cross_entropy(z, labels, align_corners=True),
            lambda z: plain_ce(z, labels),
        ),
        "OHEM": (
            lambda z: ohem_cross_entropy(
                z, labels, threshold=THRESHOLD, min_kept=min_kept, align_corners=True
            ),
            lambda z: plain_ohem(z, labels, min_kept),
        ),
    }
    print(f"\n{name}")
    copy = pictures * classes * size[0] * size[1] * 4
    for kind, (ours, plain) in pairs.items():
        exact = [run(loss, logits.double()) for loss in (ours, plain)]
        torch.testing.assert_close(exact[0], exact[1], rtol=1e-6, atol=1e-12)
        results = race(
            {
                "torchseg_zoo": lambda o=ours: run(o, logits),
                "plain": lambda p=plain: run(p, logits),
            },
            rounds, device,
        )  # fmt: skip
        report(f"{kind}; equal to 1e-6 in float64", results, "goal <= 0.7")
        held = [peak_bytes(lambda o=loss: run(o, logits), device) / copy for loss in (ours, plain)]
        print(f"    memory: {held[0]:.3f} copies (goal <= 0.3); plain {held[1]:.3f}")


def compare_selections(rounds: int, device: torch.device) -> None:
    pictures, classes, source, size = CASES["BiSeNet-R18 head, 1 × 19 × 1024×1024 from 1/8"]
    random = torch.Generator().manual_seed(0)
    print("\nOHEM's selection, 1 × 19 × 1024×1024; the same pixels are kept")
    for kind, sureness, min_kept in (
        ("a net at its start", 0.0, 65_536),
        ("a net that is sure, the threshold decides", 6.0, 65_536),
        ("a net that is sure, the count decides", 6.0, 800_000),
    ):
        classes_here = torch.randint(0, classes, (pictures, *source), generator=random)
        logits = torch.randn(pictures, classes, *source, generator=random)
        logits.scatter_add_(1, classes_here[:, None], torch.full_like(logits[:, :1], sureness))
        labels = F.interpolate(classes_here[:, None].float(), size)[:, 0].long().to(device)
        logits = logits.to(device)
        valid = labels != 255

        def enlarged(z: Tensor) -> Tensor:
            return F.interpolate(z, size, mode="bilinear", align_corners=True)

        def select(p: Tensor, y: Tensor = labels, k: int = min_kept) -> Tensor:
            return hard_pixels(p, y != 255, threshold=THRESHOLD, min_kept=k)

        def ours(z: Tensor, y: Tensor = labels, one: Loss = select) -> Tensor:
            return one(true_class_probability(z, y, align_corners=True))

        def theirs(z: Tensor, y: Tensor = labels, k: int = min_kept) -> Tensor:
            return sorted_selection(z, y, k)

        full, exact = enlarged(logits), enlarged(logits.double())
        want = theirs(exact)
        # At the limit itself the last digit decides.
        differing = (ours(logits.double()) != want).sum().item()
        assert differing <= 2, (kind, differing)
        probability = true_class_probability(logits, labels, align_corners=True)
        print(f"  {kind}: {want.float().mean():.2f} of the pixels kept")
        report(
            "from head-stride logits",
            race(
                {
                    "torchseg_zoo": lambda z=logits, one=ours: one(z),
                    "resize + softmax + sort": lambda z=logits, one=theirs: one(enlarged(z)),
                },
                rounds, device,
            ),
            "",
        )  # fmt: skip
        report(
            "given each pixel's cost, as the loss computes it",
            race(
                {
                    "torchseg_zoo": lambda p=probability, one=select: one(p),
                    "softmax + sort": lambda z=full, one=theirs: one(z),
                },
                rounds, device,
            ),
            "goal <= 0.18",
        )  # fmt: skip
        del full, exact, valid


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    where = platform.processor() or platform.machine()
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    print(
        f"{where}, {options.threads} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )
    for name in CASES:
        compare_losses(name, options.rounds, device)
    compare_selections(options.rounds, device)


if __name__ == "__main__":
    main()
