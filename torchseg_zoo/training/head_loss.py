"""Cross entropy straight from head-stride logits, without full-size logits.

A head puts out logits at a stride of 4 to 32, and they are compared with labels at full size. Made
the plain way, the resized logits, their log-probabilities and their gradient each fill as much
memory as full-size logits do. Here all three exist for a band of rows at a time, small enough for a
processor's cache, and the band's gradient is summed onto the head's logits at once, in the forward
pass: nothing full-sized is kept, and nothing is computed twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.training.bands import bands

__all__ = ["banded_cross_entropy", "true_class_probability"]

_SAFE_EXPONENT = 80.0  # exp(-80) is a normal number in float32


def banded_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    mass: Tensor,
    *,
    align_corners: bool,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = 255,
) -> Tensor:
    """Sum of the pixels' cross entropies, divided by ``mass``, after a bilinear resize.

    Equal to ``F.cross_entropy(F.interpolate(logits, (H, W)), labels, reduction="sum") / mass``, but
    for rounding. Half-precision logits are computed with in float32.

    Args:
        logits: (N, K, h, w) float, at a head's own stride.
        labels: (N, H, W) integers: 0..K-1 or ``ignore_index``.
        mass: scalar that the sum is divided by; gets no gradient.
        align_corners: how logits are resized.
        weight: (K,) factor per class.
        label_smoothing: share of the target that is spread evenly over all classes, 0..1.
        ignore_index: label value that does not count.

    Raises:
        ArgumentError: if the gradient is itself to be differentiated: it was taken already.
    """
    if not torch.is_grad_enabled():
        logits = logits.detach()
    options = _Options(align_corners, label_smoothing, ignore_index)
    with _full_precision(logits):
        result: Tensor = _BandedCrossEntropy.apply(logits, labels, mass, weight, options)
    return result


@torch.no_grad()
def true_class_probability(
    logits: Tensor, labels: Tensor, *, align_corners: bool, ignore_index: int = 255
) -> Tensor:
    """What probability each pixel's true class has, after a bilinear resize of the logits.

    Args:
        logits: (N, K, h, w) float, at a head's own stride.
        labels: (N, H, W) integers: 0..K-1 or ``ignore_index``.
        align_corners: how logits are resized.
        ignore_index: pixels with this label get 1.

    Returns:
        (N, H, W) probabilities, in the logits' type but at least float32.
    """
    logits = _precise(logits)
    out = torch.empty(labels.shape, dtype=logits.dtype, device=logits.device)
    run = _fast(_probabilities, logits.device)
    with _full_precision(logits):
        peaks, wide_range = _peaks(logits)
        for band in bands(logits, labels, align_corners):
            out[band.pictures, band.rows] = run(
                band.across(logits, peaks), band.down, labels[band.pictures, band.rows],
                ignore_index, wide_range,
            )  # fmt: skip
    return out


class _Options(NamedTuple):
    align_corners: bool
    label_smoothing: float
    ignore_index: int


class _BandedCrossEntropy(torch.autograd.Function):
    """The loss; its gradient with respect to the logits is ready when ``forward`` returns."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        mass: Tensor,
        weight: Tensor | None,
        options: _Options,
    ) -> Tensor:
        precise = _precise(logits)
        peaks, wide_range = _peaks(precise)
        if weight is not None:
            weight = weight.to(precise)
        scale = 1 / mass.to(precise)
        gradient = torch.zeros_like(precise) if ctx.needs_input_grad[0] else None
        loss = scale.new_zeros(())
        terms = _fast(_loss_and_gradient, logits.device)
        for band in bands(precise, labels, options.align_corners):
            cost, slope = terms(
                band.across(precise, peaks), band.down, labels[band.pictures, band.rows],
                scale, weight, options, wide_range, gradient is not None,
            )  # fmt: skip
            loss += cost
            if gradient is not None:
                gradient[band.pictures, :, band.source] += band.across_back(slope)
        if gradient is not None:
            ctx.save_for_backward(gradient.to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ArgumentError(
                "this loss was differentiated as it was computed, and cannot be a second time",
                where="create_graph",
                fix="resize the logits to the labels' size before you hand them to the loss",
            )
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype), None, None, None, None


def _loss_and_gradient(
    wide: Tensor,
    down: Tensor,
    labels: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    options: _Options,
    wide_range: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """One band's share of the loss, and that of the gradient on the source rows it came from.

    Args:
        wide: (n, K, s, W) source rows, already stretched to full width.
        down: (b, s) what each of the band's rows takes of each source row.
        labels: (n, b, W).
        scale: scalar factor on the sum.
        weight: (K,) or ``None``.
        options: how to compare.
        wide_range: whether exponentials could leave the range of numbers; see ``_peaks``.
        with_gradient: whether the gradient is wanted.

    Returns:
        A scalar, and (n, K, s, W) or ``None``.
    """
    smoothing = options.label_smoothing
    kept = labels != options.ignore_index
    index = labels.where(kept, 0).long()
    counted = kept * scale
    own = counted if weight is None else counted * weight[index]
    own = own * (1 - smoothing)

    z = down @ wide  # (n, K, b, W)
    if wide_range:
        z = z.sub_(z.amax(1, keepdim=True))
    true = z.gather(1, index[:, None])[:, 0]
    factors = z.new_ones(z.shape[1]) if weight is None else weight
    even, mean = counted * (smoothing / z.shape[1]), None
    if smoothing:
        mean = torch.einsum("nkbw,k->nbw", z, factors)
    z = z.exp_()
    total = z.sum(1)
    log_total = total.log()
    loss = (own * (log_total - true)).sum()
    whole = own
    if mean is not None:
        loss = loss + (even * (factors.sum() * log_total - mean)).sum()
        whole = own + even * factors.sum()
    if not with_gradient:
        return loss, None
    z = z.mul_((whole / total)[:, None])
    z = z.scatter_add_(1, index[:, None], -own[:, None])
    if mean is not None:
        z = z.sub_(even[:, None] * factors[:, None, None])
    return loss, down.t() @ z


def _probabilities(
    wide: Tensor, down: Tensor, labels: Tensor, ignore_index: int, wide_range: bool
) -> Tensor:
    """(n, b, W) probabilities of the true classes; arguments as in ``_loss_and_gradient``."""
    kept = labels != ignore_index
    index = labels.where(kept, 0).long()
    z = down @ wide
    if wide_range:
        z = z.sub_(z.amax(1, keepdim=True))
    true = z.gather(1, index[:, None])[:, 0]
    return (true - z.exp_().sum(1).log()).exp().where(kept, 1)


def _precise(logits: Tensor) -> Tensor:
    """Half precision is too coarse for sums over classes and pixels."""
    return logits.float() if logits.itemsize < 4 else logits


def _peaks(logits: Tensor) -> tuple[Tensor | None, bool]:
    """(N, 1, h, w) largest logits, and whether other classes are far below them somewhere.

    Probabilities do not change when all classes of a position are lowered alike, and lowering
    positions before a resize lowers what lies between them alike. So where no class is far below
    its position's peak, full-size logits less the peaks are in a safe range for exponentials,
    without a look for their largest. A GPU looks, rather than tell the host.
    """
    if not logits.is_cpu or not logits.numel():
        return None, True
    peaks = logits.amax(1, keepdim=True)
    depth = (peaks - logits.amin(1, keepdim=True)).amax()
    return peaks, not bool(depth < _SAFE_EXPONENT)


def _full_precision(logits: Tensor) -> torch.autocast:
    """Resizing is a product here, and autocast would take it for one that bears half precision."""
    return torch.autocast(logits.device.type, enabled=False)


class _Compiled:
    """A function as one compiled kernel, or as it is where no compiler works."""

    def __init__(self, function: Any) -> None:
        self._plain = function
        self._run: Callable[..., Any] = torch.compile(function, dynamic=False)

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._run(*arguments)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError):
            result = self._plain(*arguments)  # what is wrong with the arguments is raised here
            self._run = self._plain
            return result


@functools.cache
def _compiled(function: Any) -> _Compiled:
    return _Compiled(function)


def _fast(function: Any, device: torch.device) -> Any:
    return _compiled(function) if device.type == "cuda" else function
