"""DFN's border branch: what it is compared with, and the losses it was and should be trained by."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torchseg_zoo.layers import resize
from torchseg_zoo.types import SegOutput

__all__ = [
    "BORDER",
    "binary_focal_loss",
    "border_loss",
    "border_targets",
    "cropped_border_targets",
    "legacy_border_loss",
]

BORDER = "border"  # auxiliary outputs whose names begin so are border logits, not class logits
_DERIVATIVE = (-1, -4, -5, 0, 5, 4, 1)  # Sobel's kernel of side 7 is their outer product
_SMOOTHING = (1, 6, 15, 20, 15, 6, 1)
_REACH = len(_SMOOTHING) // 2
# Slopes of 22.5° and 67.5° in 15-bit fixed point, as OpenCV rounds them.
_SLOPE_BITS = 15
_TAN_22 = round(0.41421356237309503 * 2**_SLOPE_BITS)


def border_targets(labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """Where classes meet: the targets of DFN's border heads, to the pixel as TorchSeg made them.

    That is Canny's detector with thresholds 5 and a Sobel kernel of side 7 (where both thresholds
    come to 0, so every ridge of the gradient counts), widened by a square of 7 × 7. Class numbers
    are grey values, and ignored pixels are class 0.

    Args:
        labels: (N, H, W) integers 0..255.
        ignore_index: label value that is taken for class 0.

    Returns:
        (N, H, W) uint8: 1 on a border, 0 elsewhere.
    """
    grey = labels.int().masked_fill(labels == ignore_index, 0)
    dx = _sobel(grey, _SMOOTHING, _DERIVATIVE)
    dy = _sobel(grey, _DERIVATIVE, _SMOOTHING)
    ridge = _ridges(dx, dy).float()[:, None]
    return F.max_pool2d(ridge, 7, stride=1, padding=3)[:, 0].to(torch.uint8)


def cropped_border_targets(labels: Tensor, *, ignore_index: int = 255) -> Tensor:
    """``border_targets`` of training samples, which may be padded.

    Rows and columns at the outside that are ignored from end to end are padding: they are 255, and
    cause no border. TorchSeg looks for borders before it crops, so that a border less than seven
    pixels outside the crop still shows in it; here it does not.

    Args:
        labels: (N, H, W) integers 0..255.
        ignore_index: label value that does not count.

    Returns:
        (N, H, W) uint8: 1 on a border, 0 elsewhere, 255 in padding.
    """
    kept = labels != ignore_index
    rows, columns = _between(kept.any(2)), _between(kept.any(1))
    # What lies inside is continued into the padding, as Sobel's filter continues a whole picture.
    labels = labels.gather(1, _nearest_inside(rows)[:, :, None].expand_as(labels))
    labels = labels.gather(2, _nearest_inside(columns)[:, None, :].expand_as(labels))
    inside = rows[:, :, None] & columns[:, None, :]
    return border_targets(labels, ignore_index=ignore_index).masked_fill(~inside, 255)


def _between(marked: Tensor) -> Tensor:
    """(N, L) bool: from the first to the last marked place of each row."""
    marked = marked.to(torch.uint8)
    return (marked.cummax(1).values & marked.flip(1).cummax(1).values.flip(1)).bool()


def _nearest_inside(inside: Tensor) -> Tensor:
    """(N, L) of one run of True each → index of the nearest place in it; any, if there is none."""
    length = inside.shape[1]
    index = torch.arange(length, device=inside.device)
    first = index.where(inside, length - 1).amin(1, keepdim=True)
    last = index.where(inside, 0).amax(1, keepdim=True)
    return torch.minimum(torch.maximum(index, first), last.maximum(first))


def _sobel(grey: Tensor, down: tuple[int, ...], across: tuple[int, ...]) -> Tensor:
    """(N, H, W) int32 filtered by the outer product, a sixteenth of it, rounded half to even."""
    height, width = grey.shape[-2:]
    padded = F.pad(grey.float(), (_REACH,) * 4, mode="replicate").int()
    rows = sum(weight * padded[:, i : i + height] for i, weight in enumerate(down) if weight)
    assert isinstance(rows, Tensor)
    total = sum(weight * rows[:, :, i : i + width] for i, weight in enumerate(across) if weight)
    assert isinstance(total, Tensor)
    return (total.double() / 16).round().int()


def _ridges(dx: Tensor, dy: Tensor) -> Tensor:
    """Pixels whose gradient is no smaller than that of both neighbours along it."""
    x, y = dx.abs().long(), dy.abs().long() << _SLOPE_BITS
    magnitude = dx.abs() + dy.abs()
    around = F.pad(magnitude, (1, 1, 1, 1))
    height, width = magnitude.shape[-2:]

    def neighbour(row: int, column: int) -> Tensor:
        return around[:, 1 + row : 1 + row + height, 1 + column : 1 + column + width]

    def over(before: Tensor, after: Tensor, *, strictly: bool = False) -> Tensor:
        return (magnitude > before) & ((magnitude > after) | (magnitude == after) & (not strictly))

    flat = y < x * _TAN_22
    steep = y > x * (_TAN_22 + (2 << _SLOPE_BITS))
    falling = (dx ^ dy) < 0
    diagonal = torch.where(
        falling,
        over(neighbour(-1, 1), neighbour(1, -1), strictly=True),
        over(neighbour(-1, -1), neighbour(1, 1), strictly=True),
    )
    upright = over(neighbour(-1, 0), neighbour(1, 0))
    level = over(neighbour(0, -1), neighbour(0, 1))
    return (magnitude > 0) & torch.where(flat, level, torch.where(steep, upright, diagonal))


def binary_focal_loss(
    logits: Tensor,
    edges: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore_index: int = 255,
) -> Tensor:
    """Mean focal loss over labelled pixels (Lin et al. 2017, equation 5); 0 when there are none.

    A pixel whose true answer has probability p costs ``-a · (1 - p) ** gamma · log(p)``, where a is
    ``alpha`` on edges and ``1 - alpha`` elsewhere.

    Args:
        logits: (N, 1, H, W) float; positive says edge.
        edges: (N, H, W) int64: 1 on an edge, 0 elsewhere.
        alpha: weight of edges, 0..1.
        gamma: how much less a pixel counts the surer it is right; 0 for plain cross entropy.
        ignore_index: label value that does not count.
    """
    logits, kept, is_edge = logits[:, 0], edges != ignore_index, edges == 1
    cost = F.softplus(torch.where(is_edge, -logits, logits))  # -log(p)
    weight = torch.where(is_edge, alpha, 1 - alpha) * (1 - (-cost).exp()) ** gamma
    return (weight * cost * kept).sum() / kept.sum().clamp_min(1)


def legacy_border_loss(
    logits: Tensor,
    edges: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    ignore_index: int = 255,
) -> Tensor:
    """What TorchSeg trained DFN's border heads with; wrong, and here only to replay its runs.

    It means to be ``binary_focal_loss``, but puts the probability s where the logit belongs. So it
    is never positive, and for ``gamma`` 2 its gradient raises s on edges and elsewhere alike. The
    mean is over all pixels, ignored ones included.

    Arguments as in ``binary_focal_loss``.
    """
    s = logits[:, 0].sigmoid()
    off_edge = alpha * (1 - s) ** gamma * s * (edges != 1)
    everywhere = (1 - alpha) * s**gamma * (-s).exp().log1p()
    return -((off_edge + everywhere) * (edges != ignore_index)).mean()


def border_loss(
    output: SegOutput, edges: Tensor, criterion: Callable[..., Tensor], *, align_corners: bool
) -> Tensor:
    """Sum of a criterion over DFN's border heads, each resized to the size of ``edges``.

    TorchSeg adds a tenth of it to ``total_loss``.

    Args:
        output: logits at the heads' own strides; heads whose names begin with "border" count.
        edges: (N, H, W) int64: 1 on an edge between classes, 0 elsewhere, 255 where unknown.
        criterion: (logits, edges) → scalar: ``binary_focal_loss`` or ``legacy_border_loss``.
        align_corners: how logits are resized.
    """
    size = (edges.shape[-2], edges.shape[-1])
    losses = [
        criterion(resize(logits, size, align_corners=align_corners), edges)
        for name, logits in output.aux.items()
        if name.startswith(BORDER)
    ]
    return torch.stack(losses).sum()
