"""Batch norm over the samples of all processes, on any device.

PyTorch's own needs a GPU. This one also works on a CPU, where a run on several processes is proved
to be the run on one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncedBatchNorm", "convert_batch_norm"]


def convert_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every batch norm under ``module``; parameters and buffers stay the same objects.

    Args:
        module: a network; changed in place.
        device: where it runs: on a GPU PyTorch's kernels are used.

    Returns:
        ``module``, or what replaces it if it is a batch norm itself.
    """
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    if isinstance(module, _BatchNorm):
        return SyncedBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, convert_batch_norm(child, device))
    return module


class SyncedBatchNorm(_BatchNorm):
    """A batch norm that takes mean and variance over all processes while it trains.

    Args:
        norm: the batch norm to replace; timm's, which has the activation inside, too.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training
        self.drop = getattr(norm, "drop", None) or nn.Identity()
        self.act = getattr(norm, "act", None) or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) → the same shape."""
        if not self.training:
            return self._finished(super().forward(x))
        found = _Normalise.apply(x, self.weight, self.bias, self.eps)
        normalised, mean, variance, count = found
        if self.track_running_stats:
            self._follow(mean, variance, count)
        return self._finished(normalised)

    def _finished(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(x))
        return y

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)

    def _check_input_dim(self, input: Tensor) -> None:
        """Takes any (N, C, ...)."""


class _Normalise(torch.autograd.Function):
    """Two exchanges: the processes' means and variances forward, two sums per channel backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # Many times as fast as var_mean on a CPU; the variance is the biased one.
        own_mean, own_variance = torch.batch_norm_update_stats(_precise(x), None, None, 0.0)
        own_count = own_mean.new_full((1,), x.numel() / x.shape[1])
        found = _gathered(torch.cat([own_mean, own_variance, own_count]))
        channels = x.shape[1]
        means, variances, counts = found.tensor_split((channels, 2 * channels), dim=1)
        count = counts.sum()
        if count <= 1:
            raise ValueError("Expected more than 1 value per channel when training")
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean) ** 2) * counts).sum(0) / count

        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        # The statistics are known: that is evaluation, in one pass.
        y = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        slope = upstream[0]
        _, by_scale, by_shift = torch.ops.aten.native_batch_norm_backward(
            slope, x, weight, mean, variance, None, None, False, ctx.eps, [False, True, True]
        )
        shared = torch.stack([by_shift, by_scale])
        torch.distributed.all_reduce(shared)
        shift, spread = shared / count
        # x → slope · a - x · b - c in each channel.
        scale = (variance + ctx.eps).rsqrt()
        a = scale if weight is None else scale * weight
        b = a * scale * spread
        c = a * shift - b * mean
        a, b, c = (term.view([1, -1] + [1] * (x.ndim - 2)) for term in (a, b, c))
        by_x = torch.addcmul(slope * a, x, b, value=-1).sub_(c)
        affine = weight is not None
        return by_x.to(x.dtype), by_scale if affine else None, by_shift if affine else None, None


def _gathered(mine: Tensor) -> Tensor:
    """(L,) of each process → (processes, L), the same in all."""
    all_of_them = mine.new_empty(torch.distributed.get_world_size(), len(mine))
    torch.distributed.all_gather(list(all_of_them.unbind()), mine)
    return all_of_them


def _precise(values: Tensor) -> Tensor:
    """Half precision is too coarse for sums over all pixels."""
    return values.float() if values.itemsize < 4 else values
