"""Pictures too big for memory, labelled window by window from file to file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from torchseg_zoo.data.strips import RowReader, open_rows
from torchseg_zoo.data.write_strips import check_target, write_rows
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.files import printable
from torchseg_zoo.inference import tail
from torchseg_zoo.inference.modes import Sliding, Whole, check_mode
from torchseg_zoo.inference.resize import bands
from torchseg_zoo.inference.views import cut, device_and_type, head_logits, usual_batch
from torchseg_zoo.inference.windows import window_size, window_starts
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["LargeResult", "predict_large"]

_WINDOW = (1024, 1024)
_SLACK_BYTES = 96 * 2**20  # buffers of files and compressors, and what the allocator keeps


@dataclass(frozen=True)
class LargeResult:
    """What became of a big picture.

    Args:
        target: the file written.
        size: (height, width) of the picture.
        windows: how many went through the network.
        bound_bytes: the bound on the process's memory that was announced.
    """

    target: Path
    size: Size
    windows: int
    bound_bytes: int


@torch.inference_mode()
def predict_large(
    model: SegmentationModel,
    source: object,
    target: str | os.PathLike[str],
    *,
    window: Size | None = None,
    margin: int | None = None,
    blend: bool = False,
    batch: int | None = None,
    memory_limit_bytes: int | None = None,
    watch: Callable[[str], object] = print,
    progress: bool = True,
) -> LargeResult:
    """Labels a picture of any size, a row of windows at a time.

    TIFF and ``.npy`` files are never in memory as a whole, nor are the labels. JPEG, PNG and other
    formats that only decode whole are held as the decoder made them (for RGB four bytes a pixel).
    A bound on the memory of the process is worked out, with one trial forward, and reported before
    the start.

    Where a pixel's receptive field ends within ``margin``, its label is that of the undivided
    picture. Windows at the end of a row are moved back; networks of stride s agree there only if
    that move is a multiple of s.

    Args:
        model: the model; it is put into evaluation mode.
        source: path (``.tif``, ``.npy``, or any picture file), or array or memory map (H, W),
            (H, W, 3) or (H, W, 4) of uint8 or uint16.
        target: ``.npy``, ``.tif`` or ``.png`` file for the (H, W) uint8 labels.
        window: (height, width) of the windows; 1024 × 1024, or the model's one input size.
        margin: pixels at inner edges of a window that are not used; neighbours overlap by twice
            that. By default an eighth of the window's shorter side.
        blend: use the margins, too: probabilities of neighbours fade into each other across the
            overlap, where otherwise labels change from one window to the next in its middle.
        batch: windows that go through the network at once; by default by their size and the device.
        memory_limit_bytes: refuse to start if the bound is above.
        watch: called with the bound, in words.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if a value cannot work, or the bound is above ``memory_limit_bytes``.
        DataError: if the picture cannot be read or the labels cannot be written.
        MissingExtraError: if TIFF takes tifffile, which is not installed.
    """
    model.eval()
    _check_target(source, target)
    if model.preprocess.resize is not None:
        raise ArgumentError(
            "this model resizes every picture to {}×{}".format(*model.preprocess.resize),
            where="model",
            fix="use predict",
        )
    rule = model.input_rule
    window = window or rule.fixed or _WINDOW
    window = Sliding(window, window).window  # checked before anything is computed from it
    margin = min(window) // 8 if margin is None else margin
    if margin < 0 or 2 * margin >= min(window):
        raise ArgumentError(
            f"margin {margin} leaves nothing of a window of {window[0]}×{window[1]}",
            where="margin",
            fix="give less than half of the window's sides, and at least 0",
        )
    sliding = Sliding(window, (window[0] - 2 * margin, window[1] - 2 * margin))
    check_mode(sliding, rule)
    if batch is not None and batch < 1:
        raise ArgumentError(f"{batch} is below 1", where="batch", fix="give at least 1")
    most = {} if memory_limit_bytes is None else {"max_pixels": max(1, memory_limit_bytes // 4)}
    reader = open_rows(source, **most)
    try:
        job = _Job(model, reader, sliding, window_size(reader.size, sliding, rule), blend, batch)
        bound = job.bound()
        watch(
            f"{reader.size[0]}×{reader.size[1]} pixels in {job.count} "
            f"window{'s' if job.count > 1 else ''} of {job.window[0]}×{job.window[1]}: "
            f"at most {bound / 2**20:.0f} MiB of memory"
        )
        if memory_limit_bytes is not None and bound > memory_limit_bytes:
            raise ArgumentError(
                f"needs up to {bound / 2**20:.0f} MiB, more than the "
                f"{memory_limit_bytes / 2**20:.0f} allowed",
                where="memory_limit_bytes (--memory-limit)",
                fix="use a smaller window or batch, no blend, or a tiled TIFF or .npy file",
            )
        with tqdm(total=job.count, desc="windows", disable=not progress) as bar:
            rows = job.rows(bar.update)
            write_rows(target, reader.size, rows, palette=model.labels.palette_array())
    finally:
        reader.close()
    return LargeResult(Path(target), reader.size, job.count, bound)


def _check_target(source: object, target: str | os.PathLike[str]) -> None:
    check_target(target)
    if isinstance(source, np.ndarray):
        source = getattr(source, "filename", None)
    if isinstance(source, str | os.PathLike) and Path(source).resolve() == Path(target).resolve():
        raise ArgumentError(
            "the labels would replace the picture",
            where=printable(target),
            fix="choose another file for the labels",
        )


class _Job:
    """One picture's windows.

    Args:
        model: the network.
        reader: the picture.
        sliding: window and stride asked for.
        window: the windows' size, cut to the picture or padded as the model needs.
        blend: see ``predict_large``.
        batch: see ``predict_large``.
    """

    def __init__(
        self,
        model: SegmentationModel,
        reader: RowReader,
        sliding: Sliding,
        window: Size,
        blend: bool,
        batch: int | None,
    ) -> None:
        self._model = model
        self._reader = reader
        self._blend = blend
        self.window = window
        self._device, _ = device_and_type(model)
        self._batch = batch or usual_batch(window, self._device)
        self._overlap = sliding.window[0] - sliding.stride[0], sliding.window[1] - sliding.stride[1]
        self._sides = max(reader.size[0], window[0]), max(reader.size[1], window[1])
        self._tops, self._lefts = (
            window_starts(self._sides[axis], window[axis], min(sliding.stride[axis], window[axis]))
            for axis in (0, 1)
        )
        self.count = len(self._tops) * len(self._lefts)

    def bound(self) -> int:
        """Bytes that the process will not exceed; runs the network once to see what it takes."""
        photo = torch.zeros((*self.window, 3), dtype=torch.uint8, device=self._device)
        x = cut(photo, self._model, Whole(self.window)).x
        together = min(self._batch, len(self._lefts))
        logits = next(head_logits(self._model, [x] * together, self._batch))
        tail.label_map(logits, self.window, align_corners=self._align_corners)
        kept = logits[0].numel() * 4 * len(self._lefts)
        strip = self.window[0] * self._sides[1]
        total = _peak_bytes() + _SLACK_BYTES + self._reader.reading_bytes
        # Pixels of a row of windows as stored (at most 8 bytes) and as RGB; labels made and packed.
        total += strip * (8 + 3) + 3 * strip
        total += kept
        if self._blend:
            tops, height = self._tops, self.window[0]
            alive = max(sum(top - height < other <= top for other in tops) for top in tops)
            total += alive * kept
            total += logits.shape[1] * 4 * self.window[0] * self.window[1]
        return total

    @property
    def _align_corners(self) -> bool:
        return self._model.config.align_corners

    def rows(self, done: Callable[[int], object]) -> Iterator[np.ndarray]:
        """(n, W) uint8 labels from the top down; ``done`` is called with counts of windows."""
        yield from self._blended(done) if self._blend else self._cut_apart(done)

    def _logits(self, top: int, done: Callable[[int], object]) -> Iterator[Tensor]:
        """(K, h/s, w/s) of each window of a row of windows."""
        height, width = self._reader.size
        strip = self._reader.read(top, min(top + self.window[0], height))
        for first in range(0, len(self._lefts), self._batch):
            lefts = self._lefts[first : first + self._batch]
            inputs = []
            for left in lefts:
                part = np.ascontiguousarray(strip[:, left : min(left + self.window[1], width)])
                photo = torch.from_numpy(part).to(self._device)
                inputs.append(cut(photo, self._model, Whole(self.window)).x)
            yield from next(head_logits(self._model, inputs, self._batch))
            done(len(lefts))

    def _strip(self, top: int, done: Callable[[int], object]) -> Tensor:
        """(windows, K, h/s, w/s) of a row of windows.

        In one piece: many small ones, kept among the network's passing values, would leave holes in
        the heap that nothing larger fits into.
        """
        strip: Tensor | None = None
        for number, logits in enumerate(self._logits(top, done)):
            if strip is None:
                strip = logits.new_empty((len(self._lefts), *logits.shape))
            strip[number] = logits
        assert strip is not None
        return strip

    def _cut_apart(self, done: Callable[[int], object]) -> Iterator[np.ndarray]:
        """Every pixel's label from one window: overlaps are cut in the middle."""
        height, width = self._reader.size
        row_cuts = _cuts(self._tops, self.window[0], height)
        column_cuts = _cuts(self._lefts, self.window[1], width)
        for index, top in enumerate(self._tops):
            low, high = row_cuts[index], row_cuts[index + 1]
            labels = np.empty((high - low, width), np.uint8)
            for number, logits in enumerate(self._logits(top, done)):
                left, right = column_cuts[number], column_cuts[number + 1]
                whole = tail.label_map(
                    logits[None], self.window, align_corners=self._align_corners
                )[0]
                start = self._lefts[number]
                part = whole[low - top : high - top, left - start : right - start]
                labels[:, left:right] = part.cpu().numpy()
            yield labels

    def _blended(self, done: Callable[[int], object]) -> Iterator[np.ndarray]:
        """Probabilities weighted by the distance from inner edges, summed."""
        height, width = self._reader.size
        strips: list[tuple[int, int, Tensor]] = []
        row_weights = _ramps(self._tops, self.window[0], self._overlap[0])
        column_weights = _ramps(self._lefts, self.window[1], self._overlap[1])
        for index, top in enumerate(self._tops):
            # What lies above the next row of windows is complete once this row is there.
            bottom = self._tops[index + 1] if index + 1 < len(self._tops) else height
            strips = [strip for strip in strips if strip[0] + self.window[0] > top]
            strips.append((top, index, self._strip(top, done)))
            labels = np.empty((bottom - top, width), np.uint8)
            for number, left in enumerate(self._lefts):
                right = self._lefts[number + 1] if number + 1 < len(self._lefts) else width
                total: Tensor | None = None
                for start, row, logits in strips:
                    rows = slice(top - start, min(bottom - start, self.window[0]))
                    for column, maps in enumerate(logits[: number + 1]):
                        begin = self._lefts[column]
                        columns = slice(left - begin, min(right - begin, self.window[1]))
                        if columns.start >= self.window[1]:
                            continue
                        if total is None:
                            total = maps.new_zeros((len(maps), bottom - top, right - left))
                        weight = row_weights[row][rows, None] * column_weights[column][columns]
                        weight = weight.to(maps.device)
                        target = total[:, : weight.shape[0], : weight.shape[1]]
                        for part, (band,) in bands(
                            maps[None], self.window, align_corners=self._align_corners,
                            rows=rows, columns=columns,
                        ):  # fmt: skip
                            target[:, part].addcmul_(band.softmax(0), weight[part])
                assert total is not None
                labels[:, left:right] = total.argmax(0).to(torch.uint8).cpu().numpy()
            yield labels


def _cuts(starts: list[int], window: int, side: int) -> list[int]:
    """Borders between windows, in the middle of their overlaps: one more than there are windows."""
    inner = [(start + window + following) // 2 for start, following in pairwise(starts)]
    return [0, *inner, side]


def _ramps(starts: list[int], window: int, overlap: int) -> list[Tensor]:
    """(window,) weights of each window: 1, falling to 0 across overlaps, but not at borders."""
    inside = (torch.arange(window) + 0.5) / max(1, overlap)
    ramps = []
    for index in range(len(starts)):
        weight = torch.ones(window)
        if index > 0:
            weight = torch.minimum(weight, inside)
        if index + 1 < len(starts):
            weight = torch.minimum(weight, inside.flip(0))
        ramps.append(weight)
    return ramps


def _peak_bytes() -> int:
    """Largest memory that this process has had so far; 0 where the system does not say."""
    with suppress(OSError):
        # Not getrusage where there is this: there a process starts with the peak of its parent.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
