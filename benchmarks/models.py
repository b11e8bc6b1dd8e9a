"""Networks against their peers, as ratios within one run on the CPU.

    python benchmarks/models.py [--rounds 5] [--size 256x512] [--threads 2 1]

Ours is the fused model (``model.fuse()``), the peer is as its library builds it, both in evaluation
mode on the same input. Torchvision's and mmseg's networks have the same weights as ours, and
outputs are compared first. segmentation_models_pytorch has another width, so its time is taken per
multiply-accumulate. Peers that are not installed are left out, by name.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import torchseg_zoo as tsz


@dataclass(frozen=True)
class Pair:
    """One comparison.

    Args:
        name: ours / peer.
        ours: our fused network.
        peer: the peer's network, returning logits at input size.
        per_mac: given the input, our unfused graph's multiply-accumulates over the peer's.
        goal: largest ratio wanted.
        same: whether both must give the same output.
    """

    name: str
    ours: nn.Module
    peer: Callable[[Tensor], Tensor]
    goal: float
    per_mac: Callable[[Tensor], float] | None = None
    same: bool = False


def torchvision_pairs() -> Iterator[Pair]:
    from torchvision.models import segmentation

    for name, build in (
        ("fcn_r50", segmentation.fcn_resnet50),
        ("deeplabv3_r50", segmentation.deeplabv3_resnet50),
    ):
        peer = build(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
        _settle(peer)
        ours = tsz.model_from_state_dict(peer.state_dict()).fuse()
        yield Pair(
            f"{name} / torchvision", ours, lambda x, peer=peer: peer(x)["out"], 0.80, same=True
        )


def mmseg_pairs() -> Iterator[Pair]:
    import mmseg_peer

    peer = mmseg_peer.pspnet_r50()
    _settle(peer)
    ours = tsz.model_from_state_dict(peer.state_dict()).fuse()
    yield Pair("pspnet_r50 / mmseg", ours, lambda x: mmseg_peer.logits(peer, x), 0.80, same=True)


def smp_pairs() -> Iterator[Pair]:
    import segmentation_models_pytorch as smp

    peer = smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=19).eval()
    ours = tsz.deeplabv3plus_r50().eval()
    plain = copy.deepcopy(ours)

    def share(x: Tensor) -> float:
        return work(plain, x) / work(peer, x)

    yield Pair("deeplabv3plus_r50 / smp, per MAC", ours.fuse(), peer, 0.80, per_mac=share)


def plain_pairs() -> Iterator[Pair]:
    """BiSeNet-R18 fused, against the same graph eagerly with the log-softmax of TorchSeg's."""
    peer = tsz.bisenet_r18().eval()
    _settle(peer)
    ours = tsz.bisenet_r18().eval()
    ours.load_state_dict(peer.state_dict())
    ours.fuse()
    yield Pair("bisenet_r18 / the eager original", ours, lambda x: peer(x).log_softmax(1), 0.60)


def _settle(model: nn.Module) -> None:
    """Running statistics other than 0 and 1, so that folding has something to do."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)


def work(network: Callable[[Tensor], Tensor], x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()


def seconds(network: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.perf_counter()
    network(x)
    return time.perf_counter() - start


@torch.inference_mode()
def measure(pair: Pair, x: Tensor, rounds: int) -> None:
    first, second = pair.ours(x), pair.peer(x)
    note = ""
    if pair.same:
        error = float((first - second).abs().max() / second.std())
        note = f"largest difference {error:.1e} of the output's std"
        assert error < 1e-3, note
    scale = 1 / pair.per_mac(x) if pair.per_mac else 1.0
    ratios = [scale * seconds(pair.ours, x) / seconds(pair.peer, x) for _ in range(rounds)]
    print(f"{pair.name:<44} {statistics.median(ratios):6.3f}  <= {pair.goal:.2f}  {note}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="256x512")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    torch.manual_seed(0)
    x = torch.randn(1, 3, height, width)
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {height}x{width}"
    )
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} thread(s){'':<33} ratio  goal")
        for pairs in (plain_pairs, torchvision_pairs, mmseg_pairs, smp_pairs):
            try:
                for pair in pairs():
                    measure(pair, x, options.rounds)
            except ImportError as error:
                print(f"left out: {error.name} is not installed")


if __name__ == "__main__":
    main()
