"""3×3 convolutions with a quarter of the multiplications, for inference on a CPU.

Winograd's F(4×4, 3×3) (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016,
arXiv:1509.09308): a tile of 6×6 inputs and the kernel are taken to values at the points 0, ±5/8,
±3/2 and ∞ of both axes, multiplied there, and taken back to 4×4 outputs. These points keep the
rounding error at that of the plain sum. A dilated convolution is the same on each of its phases.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WinogradConv2d", "speed_up_convs"]

_P, _Q = 0.625, 1.5
_P2, _Q2 = _P * _P, _Q * _Q
_TILE = 4  # outputs of a tile along an axis; it reads two more inputs
# Below these, transforming costs what multiplying saves.
_MIN_CHANNELS = 128
_MIN_TILES = 32
_MAX_PADDED = 1.6  # what whole tiles cover, as a multiple of the map
_BAND_BYTES = 12 << 20  # of transformed values held at a time, a share of a usual last cache
_MIN_BAND_TILES = 128  # fewer would wait for the kernel's values from memory


class WinogradConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 that pads by its dilation, frozen, for float32 on a CPU.

    Anywhere else, for an exporter, and on maps too small to gain, it is the plain convolution. Its
    transformed kernel takes four times the memory of the plain one.

    Args:
        conv: taken over: see `WinogradConv2d.fits`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            3,
            padding=conv.dilation[0],
            dilation=conv.dilation[0],
            bias=conv.bias is not None,
            device="meta",
        )
        self.weight, self.bias = conv.weight, conv.bias
        points = _kernel_to_points().to(conv.weight.device)
        kernel = torch.einsum("ia,kcab,jb->jick", points, conv.weight.detach().double(), points)
        kernel = kernel.reshape(36, conv.in_channels, conv.out_channels).float()
        self.register_buffer("kernel", kernel.contiguous(), persistent=False)

    @staticmethod
    def fits(conv: nn.Module) -> bool:
        """Whether a module is a convolution that this can compute and is likely to hasten."""
        return (
            type(conv) is nn.Conv2d
            and conv.kernel_size == (3, 3)
            and conv.stride == (1, 1)
            and conv.groups == 1
            and conv.padding == conv.dilation
            and conv.dilation[0] == conv.dilation[1]
            and conv.padding_mode == "zeros"
            and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
            and conv.weight.dtype == torch.float32
            and conv.weight.device.type == "cpu"
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K, H, W)."""
        if (
            x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
            or torch.is_grad_enabled()
            or torch.compiler.is_exporting()
        ):
            return super().forward(x)
        tiles = _Tiles.of(x, self.dilation[0])
        if tiles.across * tiles.phases * tiles.down < _MIN_TILES or tiles.waste > _MAX_PADDED:
            return super().forward(x)
        kernel = cast(Tensor, self.kernel)
        if torch.compiler.is_compiling():  # as one step of the graph, or it would be taken apart
            step: Tensor = _step(x, kernel, self.bias, self.dilation[0])
            return step
        return _convolve(x, kernel, self.bias, self.dilation[0])


class _Tiles(NamedTuple):
    """How many tiles of 4×4 outputs there are along each axis, for each phase of a dilation."""

    down: int
    across: int
    phases: int  # all phases of all pictures, in a row of tiles
    waste: float  # pixels of all tiles, over those of the map

    @classmethod
    def of(cls, x: Tensor, dilation: int) -> Self:
        height, width = x.shape[2:]
        step = _TILE * dilation
        down, across = -(-height // step), -(-width // step)
        waste = down * across * step**2 / (height * width)
        return cls(down, across, len(x) * dilation * dilation, waste)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """(N, C, H, W) to (N, K, H, W), some rows of tiles at a time."""
    height, width = x.shape[-2:]
    channels, kernels = kernel.shape[1:]
    tiles = _Tiles.of(x, dilation)
    step, row = _TILE * dilation, tiles.across * tiles.phases
    x = x.permute(0, 2, 3, 1)
    below = tiles.down * step + dilation - height
    right = tiles.across * step + dilation - width
    x = F.pad(x, (0, 0, dilation, right, dilation, below))
    out = x.new_empty(len(x), tiles.down * step, tiles.across * step, kernels)
    tile_bytes = 36 * 4 * (channels + kernels)
    band = max(_BAND_BYTES // (tile_bytes * row), -(-_MIN_BAND_TILES // row))
    for top in range(0, tiles.down, band):
        rows = min(band, tiles.down - top)
        piece = x.narrow(1, top * step, rows * step + 2 * dilation)
        _band(piece, kernel, out.narrow(1, top * step, rows * step), rows, tiles.across, dilation)
    if bias is not None:
        out += bias
    return out[:, :height, :width].permute(0, 3, 1, 2)


def _band(x: Tensor, kernel: Tensor, out: Tensor, down: int, across: int, d: int) -> None:
    """Rows of tiles: x (N, rows + 2 d, columns + 2 d, C), out (N, rows, columns, K)."""
    batch, width, channels = len(x), x.shape[2], x.shape[3]
    # Row 4 d t + d k + phase of x is row k of tile t in its phase; columns likewise.
    rows = x.new_empty(6, batch, down, d, width, channels)
    image, line, *rest = x.stride()
    strides = (image, 4 * d * line, line, *rest)
    offsets = [x.storage_offset() + k * d * line for k in range(6)]
    _to_points([x.as_strided(rows.shape[1:], strides, at) for at in offsets], rows)

    values = x.new_empty(6, 6, batch, down, d, across, d, channels)
    *outer, column, one = rows.stride()
    strides = (*outer, 4 * d * column, column, one)
    offsets = [k * d * column for k in range(6)]
    _to_points([rows.as_strided(values.shape[1:], strides, at) for at in offsets], values)
    del rows
    products = torch.bmm(values.view(36, -1, channels), kernel)
    del values
    products = products.view(6, 6, batch, down, d, across, d, -1)
    columns = x.new_empty(4, *products.shape[1:])
    _from_points(products, columns)
    tiles = out.view(batch, down, 4, d, across, 4, d, -1)
    _from_points(columns.transpose(0, 1), tiles.permute(2, 5, 0, 1, 3, 4, 6, 7))


@torch.library.custom_op("torchseg_zoo::winograd_conv2d", mutates_args=())
def _step(x: Tensor, kernel: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    return _convolve(x, kernel, bias, dilation).contiguous(memory_format=torch.channels_last)


@_step.register_fake
def _(x: Tensor, kernel: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    shape = (len(x), kernel.shape[2], *x.shape[2:])
    return x.new_empty(shape).contiguous(memory_format=torch.channels_last)


def speed_up_convs(model: nn.Module) -> None:
    """Replaces every convolution of a frozen model that `WinogradConv2d` is likely to hasten."""
    found = [name for name, module in model.named_modules() if WinogradConv2d.fits(module)]
    for name in found:
        model.set_submodule(name, WinogradConv2d(cast(nn.Conv2d, model.get_submodule(name))))


def _kernel_to_points() -> Tensor:
    """(6, 3) float64: the kernel's polynomial at each point, over the product of differences."""
    points = [0.0, _P, -_P, _Q, -_Q]
    rows = []
    for here in points:
        others = torch.tensor([here - there for there in points if there != here])
        rows.append(torch.tensor([1.0, here, here * here]).double() / others.double().prod())
    return torch.stack([*rows, torch.tensor([0.0, 0.0, 1.0]).double()])


def _to_points(d: Sequence[Tensor], out: Tensor) -> None:
    """Six neighbours along an axis to their values at the six points: out (6, ...)."""
    torch.add(d[4], d[2], alpha=-(_P2 + _Q2), out=out[0]).add_(d[0], alpha=_P2 * _Q2)
    even, odd = torch.add(d[4], d[2], alpha=-_Q2), torch.add(d[3], d[1], alpha=-_Q2)
    torch.add(even, odd, alpha=_P, out=out[1])
    torch.add(even, odd, alpha=-_P, out=out[2])
    torch.add(d[4], d[2], alpha=-_P2, out=even)
    torch.add(d[3], d[1], alpha=-_P2, out=odd)
    torch.add(even, odd, alpha=_Q, out=out[3])
    torch.add(even, odd, alpha=-_Q, out=out[4])
    torch.add(d[5], d[3], alpha=-(_P2 + _Q2), out=out[5]).add_(d[1], alpha=_P2 * _Q2)


def _from_points(m: Tensor, out: Tensor) -> None:
    """Values at the six points (6, ...) to four neighbours: out (4, ...)."""
    even_p, odd_p = m[1] + m[2], m[1] - m[2]
    even_q, odd_q = m[3] + m[4], m[3] - m[4]
    torch.add(m[0], even_p, out=out[0]).add_(even_q)
    torch.mul(odd_p, _P, out=out[1]).add_(odd_q, alpha=_Q)
    torch.mul(even_p, _P2, out=out[2]).add_(even_q, alpha=_Q2)
    torch.add(m[5], odd_p, alpha=_P**3, out=out[3]).add_(odd_q, alpha=_Q**3)
