"""Folding batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["fold_norms", "foldable_norms"]


class _Watch(TorchFunctionMode):
    """Counts how often each tensor is read by a torch function."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[int] = Counter()
        self._alive: list[Tensor] = []  # an id names a tensor only while the tensor lives

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if made:  # asking for a shape is not reading
            self._alive += made
            read = tree_leaves((args, dict(kwargs)))
            self.reads.update(id(leaf) for leaf in read if isinstance(leaf, Tensor))
        return out


def foldable_norms(model: nn.Module, run: Callable[[nn.Module], object]) -> list[tuple[str, str]]:
    """Pairs (convolution, batch norm) where the norm alone reads the convolution's output.

    The model is run once on the meta device and watched, so no list of layer names is needed and
    any backbone will do.

    Args:
        model: in evaluation mode.
        run: calls a model with some input on the meta device.
    """
    shadow = copy.deepcopy(model).to("meta")
    made_by: dict[int, str] = {}
    pairs: list[tuple[str, str, int]] = []
    calls: Counter[str] = Counter()
    handles = []

    def after_conv(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:
            calls[name] += 1
            made_by[id(out)] = name

        return hook

    def before_norm(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if (source := made_by.get(id(args[0]))) is not None:
                pairs.append((source, name, id(args[0])))

        return hook

    for name, module in shadow.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv(name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before_norm(name)))
    with torch.no_grad(), _Watch() as watch:
        run(shadow)
    for handle in handles:
        handle.remove()
    return [
        (conv, norm)
        for conv, norm, tensor in pairs
        if calls[conv] == calls[norm] == 1 and watch.reads[tensor] == 1
    ]


def fold_norms(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> None:
    """Folds each norm into its convolution, in place; an activation inside a norm stays."""
    for conv_name, norm_name in pairs:
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean,
            norm.running_var,
            norm.eps,
            norm.weight,
            norm.bias,
        )
        # timm's BatchNormAct2d is a norm with the activation inside.
        activation = getattr(norm, "act", None)
        dropped = getattr(norm, "drop", None)
        rest = [part for part in (dropped, activation) if part is not None]
        model.set_submodule(norm_name, nn.Sequential(*rest) if rest else nn.Identity())
