"""One training step of BiSeNet-R18 against mmsegmentation's BiSeNetV1, on the same pictures.

    PYTHONPATH=. python benchmarks/train_step.py [--rounds 9] [--threads 1] [--crop 256 256]

mmseg's step has three cross entropies on full-size logits, as its own heads compute them. Ours is
the step that ``train`` takes: channels last, fused optimizer, the loss on head-stride logits. Both
networks are trained by SGD on the same two pictures; sizes of networks and first losses are
printed, since the two are not the same network (mmseg's main head is wider). "original" is our own
network with the plain loss and optimizer. Contenders are interleaved; medians of per-round ratios
of CPU time are printed. Memory is the largest amount held at once beyond weights and optimizer.

pip install mmsegmentation==1.2.2 mmengine 'mmcv-lite<2.2' ftfy regex
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchseg_zoo as tsz
from benchmarks import mmseg_peer
from benchmarks.losses import peak_bytes
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.objective import Objective
from torchseg_zoo.training.optim import make_optimizer

Step = Callable[[], float]


CONFIG = TrainConfig(optimizer="sgd", lr=1e-3, weight_decay=5e-4)


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)


def do(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def ours(images: Tensor, labels: Tensor) -> tuple[nn.Module, Step]:
    torch.manual_seed(0)
    model = tsz.bisenet_r18().train().to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    objective = Objective(CONFIG, align_corners=model.config.align_corners)
    optimizer = make_optimizer(model, CONFIG)
    small = labels.to(torch.uint8)  # as the loader hands them over

    def step() -> float:
        return do(optimizer, objective(model(images, with_aux=True, upsample=False), small))

    return model, step


def original(images: Tensor, labels: Tensor) -> tuple[nn.Module, Step]:
    torch.manual_seed(0)
    model = tsz.bisenet_r18().train()
    optimizer = plain_sgd(model)

    def step() -> float:
        output = model(images, with_aux=True)
        heads = (output.logits, *output.aux.values())
        losses = [F.cross_entropy(logits, labels, ignore_index=255) for logits in heads]
        return do(optimizer, torch.stack(losses).sum())

    return model, step


def mmseg(images: Tensor, labels: Tensor) -> tuple[nn.Module, Step]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    torch.manual_seed(0)
    model = mmseg_peer.bisenet_r18().train()
    optimizer = plain_sgd(model)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]

    def step() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            losses = model.loss(images, samples)  # type: ignore[operator]
        total = sum(value for name, value in losses.items() if "loss" in name)
        assert isinstance(total, Tensor)
        return do(optimizer, total)

    return model, step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--crop", type=int, nargs=2, default=(256, 256))
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, *options.crop, generator=random)
    labels = torch.randint(0, 19, (options.batch, *options.crop), generator=random)
    labels[:, :8] = 255
    print(
        f"{platform.processor() or platform.machine()}, {options.threads} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, "
        f"{options.batch} × {options.crop[0]}×{options.crop[1]}"
    )
    contenders = {"torchseg_zoo": ours, "original": original, "mmseg": mmseg}
    built = {name: build(images, labels) for name, build in contenders.items()}
    steps = {name: step for name, (_, step) in built.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    first = {name: step() for name, step in steps.items()}
    assert abs(first["torchseg_zoo"] / first["original"] - 1) < 1e-4, first
    for _ in range(options.rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    cpu = torch.device("cpu")
    held = {name: peak_bytes(step, cpu) for name, step in steps.items()}
    for name, (model, _) in built.items():
        ratios = [
            mine / theirs for mine, theirs in zip(times[name][1:], times["mmseg"][1:], strict=True)
        ]
        millions = sum(value.numel() for value in model.parameters()) / 1e6
        print(
            f"  {name:<13} {1e3 * statistics.median(times[name][1:]):8.1f} ms  "
            f"{statistics.median(ratios):6.3f}   {held[name] / 2**20:7.1f} MiB  "
            f"{held[name] / held['mmseg']:6.3f}   {millions:.2f} M parameters, "
            f"first loss {first[name]:.3f}"
        )
    print("goals for torchseg_zoo: time <= 0.6, memory <= 0.55 of mmseg's")


if __name__ == "__main__":
    main()
