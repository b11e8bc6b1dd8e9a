"""The attention blocks of OCNet: over the whole map, over windows, over interlaced cells.

Each position of a map gathers the values of other positions, weighed by how alike its query and
their keys are. The blocks differ in which positions see each other; ``ocnet.py`` builds networks
from them.
"""

from __future__ import annotations

import abc
import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchseg_zoo.layers import resize

__all__ = [
    "ASPContext",
    "BesideContext",
    "CellAttention",
    "ConvNormLeaky",
    "GroupedAttention",
    "InterlacedAttention",
    "PyramidContext",
    "SelfAttention",
    "WindowAttention",
]

CELL = 8  # rows and columns of an interlaced cell
BINS = (1, 2, 3, 6)  # windows per side in the pyramid
RATES = (12, 24, 36)  # of the dilated convolutions beside the pooled attention


class ConvNormLeaky(nn.Sequential):
    """Convolution, batch norm and (leaky) ReLU.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel_size: side of the square kernel; padding keeps the size.
        slope: of the activation below zero; 0 for a plain ReLU, ``None`` for no activation.
        bias: whether the convolution has one.
        dilation: spacing of the kernel's taps.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        slope: float | None,
        bias: bool,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels)
        if slope is not None:
            self.act = _activation(slope)


def _activation(slope: float) -> nn.Module:
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def _tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, 1, H·W, C), as attention kernels like it."""
    return x.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ/√C)V over groups of L tokens, (N, groups, L, channels) each.

    Args:
        query: with C channels.
        key: with C channels.
        value: with any number of channels.
        mask: bool, broadcast to (N, groups, L, L); False where a query may not see a key.
    """
    channels = query.shape[-1]
    # The kernels that never hold all L² weights want one width; zeros change no product.
    if (missing := value.shape[-1] - channels) > 0:
        query, key = F.pad(query, (0, missing)), F.pad(key, (0, missing))
    return F.scaled_dot_product_attention(query, key, value, mask, scale=channels**-0.5)


class SelfAttention(nn.Module):
    """Every position sees all positions: (N, C, H, W) → (N, out, H, W).

    Args:
        in_channels: C.
        key_channels: width of queries and keys.
        value_channels: width of the values.
        out_channels: width after the projection.
        slope: of the activations; see ``ConvNormLeaky``.
        separate_query: queries and keys come from two transforms of two convolutions each, instead
            of one shared convolution.
        project_norm: the projection has a norm and an activation, and neither it nor the transforms
            have biases (interlaced attention).
    """

    def __init__(
        self,
        in_channels: int,
        key_channels: int,
        value_channels: int,
        out_channels: int,
        *,
        slope: float,
        separate_query: bool,
        project_norm: bool = False,
    ) -> None:
        super().__init__()

        def transform() -> nn.Sequential:
            widths = [in_channels, key_channels, key_channels][: 3 if separate_query else 2]
            return nn.Sequential(
                *(
                    ConvNormLeaky(a, b, slope=slope, bias=not project_norm)
                    for a, b in itertools.pairwise(widths)
                )
            )

        self.key = transform()
        self.query = transform() if separate_query else None
        self.value = nn.Conv2d(in_channels, value_channels, 1)
        self.project: nn.Module = (
            ConvNormLeaky(value_channels, out_channels, slope=slope, bias=False)
            if project_norm
            else nn.Conv2d(value_channels, out_channels, 1)
        )

    def start_silent(self) -> None:
        """Makes the projection zero, so that training starts from the network without attention."""
        if isinstance(self.project, nn.Conv2d):
            nn.init.zeros_(self.project.weight)
            if self.project.bias is not None:
                nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        key = self.key(x)
        query = key if self.query is None else self.query(x)
        out: Tensor = self.project(self.gather(query, key, self.value(x)))
        return out

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The weighed values, as a map: (N, value channels, H, W)."""
        out = _attend(_tokens(query), _tokens(key), _tokens(value))
        return out.squeeze(1).transpose(1, 2).reshape(value.shape)


class GroupedAttention(SelfAttention):
    """Every position sees the other positions of its group only.

    A subclass says what the groups are, by tables of positions that are computed from the map's
    size, so that sizes may be unknown in export. There, no side of a table may be 1, which export
    would take for fixed; a masked position or an unread group more does no harm.
    """

    @abc.abstractmethod
    def groups(
        self, height: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """How a map is cut.

        Returns:
            (groups, L) the position of each member, counted along rows; which members are seen, or
            ``None`` for all; and (height · width,) where each position is in the first table.
        """

    def gather(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        table, seen, back = self.groups(value.shape[-2], value.shape[-1], value.device)
        count, length = table.shape

        def split(x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2).contiguous().index_select(1, table.flatten())
            return tokens.reshape(x.shape[0], count, length, x.shape[1])

        mask = None if seen is None else seen[None, :, None, :].expand(-1, -1, length, -1)
        out = _attend(split(query), split(key), split(value), mask)
        out = out.reshape(value.shape[0], count * length, value.shape[1]).index_select(1, back)
        return out.transpose(1, 2).reshape(value.shape)


class WindowAttention(GroupedAttention):
    """Every position sees its own window out of bins × bins.

    A window's side is the map's over ``bins``, rounded down; the last one takes the remainder. All
    windows are cut at the size of the largest.

    Args:
        bins: windows per side.
        channels: in, key, value and out channels of ``SelfAttention``.
        slope: see ``SelfAttention``.
        separate_query: see ``SelfAttention``.
    """

    def __init__(
        self,
        bins: int,
        channels: tuple[int, int, int, int],
        *,
        slope: float,
        separate_query: bool,
    ) -> None:
        super().__init__(*channels, slope=slope, separate_query=separate_query)
        self.bins = bins

    def groups(
        self, height: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        rows, row_seen, row_window, row_offset = _windows(height, self.bins, device)
        cols, col_seen, col_window, col_offset = _windows(width, self.bins, device)
        shape = (self.bins * self.bins, rows.shape[1] * cols.shape[1])
        table = rows[:, None, :, None] * width + cols[None, :, None, :]
        seen = row_seen[:, None, :, None] & col_seen[None, :, None, :]
        window = row_window[:, None] * self.bins + col_window
        offset = row_offset[:, None] * cols.shape[1] + col_offset
        back = window * shape[1] + offset
        return table.reshape(shape), seen.reshape(shape), back.flatten()


def _windows(size: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cuts ``size`` positions into ``bins`` windows of one length, which holds the longest.

    Returns:
        (bins, length) positions, and which of these belong to the window; (size,) the window of
        each position, and its offset in there.
    """
    step = size // bins
    length = size - (bins - 1) * step + 1  # one too many, see GroupedAttention
    number = torch.arange(bins, device=device)
    start = number * step
    end = torch.where(number == bins - 1, size, start + step)[:, None]
    index = start[:, None] + torch.arange(length, device=device)
    # A map smaller than ``bins`` has empty windows. Nobody reads them, but they must stay finite.
    inside = (index < end) | (index == start[:, None])
    position = torch.arange(size, device=device)
    window = (position[:, None] >= start[1:]).sum(1)
    return index.clamp(max=size - 1), inside, window, position - start[window]


class CellAttention(GroupedAttention):
    """One half of interlaced attention, on a map whose sides are multiples of 8.

    Args:
        channels: C of input and output.
        key_channels: width of queries and keys.
        long_range: positions at the same place in all 8×8 cells see each other; without it, the 64
            positions of one cell do.
    """

    def __init__(self, channels: int, key_channels: int, *, long_range: bool) -> None:
        super().__init__(
            channels,
            key_channels,
            channels,
            channels,
            slope=0.0,
            separate_query=True,
            project_norm=True,
        )
        self.long_range = long_range

    def groups(
        self, height: int, width: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        across = width // CELL
        cells = height // CELL * across
        number = torch.arange(cells + 1, device=device)  # one too many, see GroupedAttention
        cell = number.clamp(max=cells - 1)[:, None]
        place = torch.arange(CELL * CELL, device=device)
        cell_row = cell // across
        row = cell_row * CELL + place // CELL
        # Not `cell % across`: the ONNX exporter has no remainder by a size.
        col = (cell - cell_row * across) * CELL + place % CELL
        table = row * width + col  # (cells, 64)
        y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
        cell_of = y // CELL * across + x // CELL
        place_of = y % CELL * CELL + x % CELL
        if not self.long_range:
            return table, None, (cell_of * CELL * CELL + place_of).flatten()
        seen = (number < cells).expand(CELL * CELL, -1)
        return table.t(), seen, (place_of * (cells + 1) + cell_of).flatten()


class InterlacedAttention(nn.Module):
    """Long-range, then short-range attention (Huang et al., arXiv:1907.12273).

    The map is filled up with zeros to multiples of 8, half of them before it; they take part.

    Args:
        channels: C of input and output.
        key_channels: width of queries and keys.
    """

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        self.long = CellAttention(channels, key_channels, long_range=True)
        self.short = CellAttention(channels, key_channels, long_range=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        down = (height + CELL - 1) // CELL * CELL - height
        across = (width + CELL - 1) // CELL * CELL - width
        top, left = down // 2, across // 2
        x = F.pad(x, (left, across - left, top, down - top))
        x = self.short(self.long(x))
        # Not a slice: whether that is contiguous depends on the size, and export would fix which.
        rows = torch.arange(height, device=x.device) + top
        cols = torch.arange(width, device=x.device) + left
        return x.index_select(2, rows).index_select(3, cols)


class BesideContext(nn.Module):
    """Attention and its input side by side, joined by a 1×1: (N, C, H, W) → (N, C, H, W).

    Args:
        attention: (N, C, H, W) → (N, C, H, W).
        channels: C.
        slope: of the activation.
        bias: whether the 1×1 has one.
    """

    def __init__(self, attention: nn.Module, channels: int, *, slope: float, bias: bool) -> None:
        super().__init__()
        self.attention = attention
        self.fuse = ConvNormLeaky(2 * channels, channels, slope=slope, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fuse(torch.cat([self.attention(x), x], dim=1))
        return out


class PyramidContext(nn.Module):
    """Attention in 1, 4, 9 and 36 windows beside a widened copy of the input.

    Args:
        channels: C of input and output.
        key_channels: width of queries and keys.
        slope: of the activations.
        separate_query: see ``SelfAttention``.
    """

    def __init__(
        self, channels: int, key_channels: int, *, slope: float, separate_query: bool
    ) -> None:
        super().__init__()
        widths = (channels, key_channels, channels, channels)
        self.attentions = nn.ModuleList(
            WindowAttention(bins, widths, slope=slope, separate_query=separate_query)
            if bins > 1
            else SelfAttention(*widths, slope=slope, separate_query=separate_query)
            for bins in BINS
        )
        wide = channels * len(BINS)
        self.expand = ConvNormLeaky(channels, wide, slope=slope, bias=True)
        self.fuse = ConvNormLeaky(2 * wide, channels, slope=slope, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        contexts = [attention(x) for attention in self.attentions]
        out: Tensor = self.fuse(torch.cat([self.expand(x), *contexts], dim=1))
        return out


class ASPContext(nn.Module):
    """Attention at half the size beside a 1×1 and three dilated 3×3 convolutions.

    Args:
        channels: C of input and output; each of the five branches has half of it.
        slope: of the activations.
        separate_query: see ``SelfAttention``.
        narrow: values of a quarter of the channels, no 1×1 after the attention (openseg.pytorch).
        align_corners: how the attention's output is enlarged.
    """

    def __init__(
        self,
        channels: int,
        *,
        slope: float,
        separate_query: bool,
        narrow: bool,
        align_corners: bool,
    ) -> None:
        super().__init__()
        branch, key = channels // 2, channels // 4
        self.local = ConvNormLeaky(channels, branch, 3, slope=slope, bias=True)
        self.pool = nn.MaxPool2d(2)
        self.attention = SelfAttention(
            branch,
            key,
            key if narrow else branch,
            branch,
            slope=slope,
            separate_query=separate_query,
        )
        self.align_corners = align_corners
        self.tail: nn.Module = (
            nn.Sequential(
                OrderedDict(norm=nn.BatchNorm2d(branch), act=_activation(slope)),
            )
            if narrow
            else ConvNormLeaky(branch, branch, slope=slope, bias=True)
        )
        self.branches = nn.ModuleList(
            ConvNormLeaky(channels, branch, kernel, slope=slope, bias=False, dilation=rate)
            for kernel, rate in ((1, 1), *((3, rate) for rate in RATES))
        )
        self.fuse = ConvNormLeaky(5 * branch, channels, slope=slope, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        context = self.attention(self.pool(self.local(x)))
        context = self.tail(resize(context, size, align_corners=self.align_corners))
        branches = [branch(x) for branch in self.branches]
        out: Tensor = self.fuse(torch.cat([context, *branches], dim=1))
        return out
