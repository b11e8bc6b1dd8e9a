"""Output stride 8 or 16 for networks of convolutions that timm builds at stride 32 only.

A convolution or max pooling that strides is made to step by one, and those behind it take their
inputs from as far apart as before: the "à trous" rewriting (Chen et al., arXiv:1412.7062, section
3.1). The finer map then holds the coarser one, value for value, at every second or fourth position;
averages over the whole map, as of squeeze-and-excitation, are taken over the finer map instead.

This is right only if nothing else in the deep stages moves values between positions, so the network
is run once on the meta device, and each operation behind the first change must be a known one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["CannotDilateError", "dilate_convolutions"]

_SIDE = 256  # of the picture that strides are read off
# Operations of ATen that keep positions apart, or average over all of them. The two that mix
# neighbours, convolution and max pooling, are rewritten.
_POSITIONWISE = """
    _native_batch_norm_legit_no_training add alias cat clamp clone constant_pad_nd convolution copy
    detach div empty gelu hardsigmoid hardswish hardtanh leaky_relu max_pool2d_with_indices mean mul
    native_batch_norm relu sigmoid silu slice split split_with_sizes squeeze sub unsqueeze view
"""


class CannotDilateError(Exception):
    """Why a network cannot be dilated, in words."""


@dataclass(frozen=True)
class _Change:
    """Sets one layer's dilation, and its stride to 1."""

    path: str
    dilation: int


def dilate_convolutions(body: nn.Module, output_stride: int, in_channels: int) -> None:
    """Un-strides and dilates the deep stages of a convolutional network, in place.

    Args:
        body: timm's feature extractor at its natural strides; returns a list of maps.
        output_stride: input pixels per cell that the deepest maps shall have.
        in_channels: C of the input.

    Raises:
        CannotDilateError: if the rewriting would not be exact; ``body`` is unchanged then.
    """
    shadow = copy.deepcopy(body).to("meta").eval()
    x = torch.empty(1, in_channels, _SIDE, _SIDE, device="meta")
    changes, foreign = _watched(shadow, x, output_stride)
    if foreign:
        raise CannotDilateError(f"its deep stages use {', '.join(sorted(foreign)[:3])}")
    wanted = [max(features.shape[-1], _SIDE // output_stride) for features in _run(shadow, x)]
    for change in changes:
        _apply(shadow, change)
    if [features.shape[-1] for features in _run(shadow, x)] != wanted:
        raise CannotDilateError("its strides are not all in convolutions and max poolings")
    for change in changes:
        _apply(body, change)


def _run(body: nn.Module, x: Tensor) -> list[Tensor]:
    try:
        with torch.no_grad():
            maps: list[Tensor] = body(x)
    except (RuntimeError, ValueError, AssertionError, AttributeError) as error:
        raise CannotDilateError(f"it does not take {_SIDE}×{_SIDE}") from error
    return maps


def _watched(shadow: nn.Module, x: Tensor, output_stride: int) -> tuple[list[_Change], set[str]]:
    """What to change, in the order of computation, and what else the deep stages do."""
    changes: list[_Change] = []
    seen: set[str] = set()
    watch = _Watch()

    def before(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            dilation = _new_dilation(module, args[0], output_stride)
            if dilation is not None:
                if path in seen:
                    raise CannotDilateError(f"{path} is used more than once")
                seen.add(path)
                changes.append(_Change(path, dilation))
                watch.on = True

        return hook

    handles = [
        module.register_forward_pre_hook(before(path))
        for path, module in shadow.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d)
    ]
    with watch:
        _run(shadow, x)
    for handle in handles:
        handle.remove()
    return changes, watch.foreign


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the names of operations that may move values between positions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on = False
        self.foreign: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if self.on and name not in _POSITIONWISE.split():
            self.foreign.add(name)
        return func(*args, **(kwargs or {}))


def _new_dilation(layer: nn.Module, x: Tensor, output_stride: int) -> int | None:
    """The dilation that the layer needs once it steps by one; ``None`` if it stays as it is."""
    assert isinstance(layer, nn.Conv2d | nn.MaxPool2d)
    kernel, step = _square(layer.kernel_size), _square(layer.stride)
    side = x.shape[-1]
    if (kernel, step) == (1, 1):
        return None
    if side > 2 * _SIDE // output_stride and _SIDE * step <= side * output_stride:
        return None  # shallow; padding may have given it any size
    if _SIDE % side or x.shape[-2] != side:
        raise CannotDilateError("a convolution works on something that is no map of the picture")
    stride = _SIDE // side
    if stride * step <= output_stride:
        return None
    if stride < output_stride:
        raise CannotDilateError(f"it has no map at stride {output_stride}")
    if isinstance(layer, nn.Conv2d) and not _is_centred(layer, kernel):
        raise CannotDilateError(f"it pads a {kernel}×{kernel} convolution on one side only")
    return _square(layer.dilation) * (stride // output_stride)


def _is_centred(conv: nn.Conv2d, kernel: int) -> bool:
    padding = conv.padding
    return (
        type(conv).forward is nn.Conv2d.forward
        and conv.padding_mode == "zeros"
        and not isinstance(padding, str)
        and 2 * _square(padding) == _square(conv.dilation) * (kernel - 1)
    )


def _square(sides: Any) -> int:
    if isinstance(sides, int):
        return sides
    if len(set(sides)) != 1:
        raise CannotDilateError("a kernel is not square")
    return int(sides[0])


def _apply(body: nn.Module, change: _Change) -> None:
    layer = body.get_submodule(change.path)
    if isinstance(layer, nn.Conv2d):
        reach = change.dilation * (_square(layer.kernel_size) - 1) // 2
        layer.stride, layer.dilation = (1, 1), (change.dilation, change.dilation)
        layer.padding = (reach, reach)
        return
    assert isinstance(layer, nn.MaxPool2d)
    kernel, before = _square(layer.kernel_size), _square(layer.padding)
    low, high = before * change.dilation, (kernel - 1 - before) * change.dilation
    pool = nn.Sequential(
        nn.ConstantPad2d((low, high, low, high), float("-inf")),
        nn.MaxPool2d(kernel, stride=1, dilation=change.dilation),
    )
    body.set_submodule(change.path, pool)
