"""Pictures too big for memory, read a few rows at a time. Free of torch.

Tiled and striped TIFF files (extra ``large``), ``.npy`` files and arrays are read piece by piece.
Other formats decode whole; what is decoded is kept in the decoder's own form and converted by rows.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from torchseg_zoo.data.decode import MAX_PIXELS, decode, decoding, orientation
from torchseg_zoo.data.image import as_rgb
from torchseg_zoo.errors import ArgumentError, DataError, MissingExtraError, described
from torchseg_zoo.files import open_regular, printable
from torchseg_zoo.types import Size

__all__ = ["RowReader", "import_tifffile", "open_rows"]


class RowReader(Protocol):
    """A picture that is read by rows.

    Attributes:
        size: (height, width).
        reading_bytes: what reading takes beside the rows that are returned.
    """

    size: Size
    reading_bytes: int

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Rows ``top`` to ``bottom``: (bottom - top, W, 3) uint8 RGB.

        Raises:
            DataError: if the file is damaged there.
        """

    def close(self) -> None:
        """Lets go of the file."""


def open_rows(source: object, *, max_pixels: int = MAX_PIXELS) -> RowReader:
    """Opens a picture for reading by rows.

    Args:
        source: path of a TIFF, ``.npy`` or any other picture file; or an array or memory map
            (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16.
        max_pixels: largest width times height that is decoded where a format only decodes whole.

    Raises:
        ArgumentError: if it is neither a path nor such an array.
        DataError: if a file cannot be read as a picture.
        MissingExtraError: if reading TIFF takes tifffile, which is not installed.
    """
    if isinstance(source, np.ndarray):
        return _Array(source)
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(
            f"cannot read {described(source)} by rows",
            where="source",
            fix="pass a path or an array",
        )
    suffix = Path(source).suffix.lower()
    if suffix == ".npy":
        return _Npy(source)
    if suffix in (".tif", ".tiff"):
        return _Tiff(source)
    return _Decoded(source, max_pixels)


def _checked_shape(shape: tuple[int, ...], kind: np.dtype[Any], where: str) -> Size:
    good = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    if not good or 0 in shape or kind not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise DataError(
            f"holds {kind} of shape {tuple(shape)}",
            where=where,
            fix="store (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16",
        )
    return shape[0], shape[1]


class _Array:
    """An array, perhaps a memory map, whose pages are given back after each reading."""

    reading_bytes = 0

    def __init__(self, array: np.ndarray) -> None:
        self.size = _checked_shape(array.shape, array.dtype, "source")
        self._array = array

    def read(self, top: int, bottom: int) -> np.ndarray:
        rows = as_rgb(np.array(self._array[top:bottom]))
        # Pages of a private map may hold changes that exist nowhere else.
        pages = getattr(self._array, "_mmap", None)
        mode = getattr(self._array, "mode", "c")
        if pages is not None and mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)
        return rows

    def close(self) -> None:
        pass


class _Npy:
    """A ``.npy`` file, read by plain reads: mapped pages would count as the process's memory."""

    reading_bytes = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._where = printable(path)
        self._file = open_regular(path)
        try:
            self._read_header()
        except (ValueError, EOFError, OSError) as cause:
            self._file.close()
            if isinstance(cause, DataError):
                raise
            raise DataError(
                "not a .npy file", where=self._where, why=str(cause), fix="write it with numpy.save"
            ) from cause

    def _read_header(self) -> None:
        version = np.lib.format.read_magic(self._file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        self._shape, by_columns, self._kind = read(self._file)
        self.size = _checked_shape(self._shape, self._kind, self._where)
        if by_columns:
            raise DataError(
                "is stored column by column",
                where=self._where,
                fix="save numpy.ascontiguousarray(...) of it",
            )
        self._start = self._file.tell()
        self._row_bytes = int(np.prod(self._shape[1:])) * self._kind.itemsize
        if os.fstat(self._file.fileno()).st_size < self._start + self._row_bytes * self.size[0]:
            raise DataError("the file is cut off", where=self._where, fix="write it again")

    def read(self, top: int, bottom: int) -> np.ndarray:
        rows: Any = np.empty((bottom - top, *self._shape[1:]), self._kind)
        self._file.seek(self._start + top * self._row_bytes)
        if self._file.readinto(memoryview(rows).cast("B")) != rows.nbytes:
            raise DataError("the file is cut off", where=self._where, fix="write it again")
        return as_rgb(rows)

    def close(self) -> None:
        self._file.close()


class _Tiff:
    """First page of a TIFF file, one row of tiles or strips at a time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        tifffile = import_tifffile()
        self._where = printable(path)
        open_regular(path).close()  # says what is wrong with a path better than tifffile
        try:
            self._file = tifffile.TiffFile(path)
        except (tifffile.TiffFileError, ValueError, struct.error) as cause:
            raise DataError("not a TIFF file", where=self._where, why=str(cause)) from cause
        try:
            self._read_layout()
        except BaseException:
            self._file.close()
            raise

    def _read_layout(self) -> None:
        self._page = page = self._file.pages[0]
        channels = page.samplesperpixel
        self._separate = page.planarconfig == 2 and channels > 1
        photometric = int(page.photometric)
        turned = page.tags.valueof(274, 1)
        # Grey, RGB, and the YCbCr that JPEG decoders turn into RGB.
        if (
            photometric not in ((1, 2, 6) if page.compression in (6, 7) else (1, 2))
            or page.imagedepth != 1
            or turned != 1
        ):
            raise DataError(
                "this kind of TIFF is not read by rows",
                where=self._where,
                why=f"photometric {photometric}, depth {page.imagedepth}, orientation {turned}",
                fix="convert it to RGB or grey, upright",
            )
        shape: tuple[int, ...] = (page.imagelength, page.imagewidth)
        self._shape = shape if channels == 1 else (*shape, channels)
        self._kind = np.dtype(page.dtype or np.void)
        self.size = _checked_shape(self._shape, self._kind.newbyteorder("="), self._where)
        self._height = page.tilelength if page.is_tiled else min(page.rowsperstrip, shape[0])
        self._across = -(-shape[1] // page.tilewidth) if page.is_tiled else 1
        row_bytes = int(np.prod(self._shape[1:])) * self._kind.itemsize
        self.reading_bytes = 3 * self._height * row_bytes  # the row kept, the next, one conversion
        self._kept: tuple[int, np.ndarray] | None = None

    def read(self, top: int, bottom: int) -> np.ndarray:
        rows = np.empty((bottom - top, self.size[1], 3), np.uint8)
        for index in range(top // self._height, -(-bottom // self._height)):
            start = index * self._height
            low, high = max(top, start), min(bottom, start + self._height)
            part = self._row(index)[low - start : high - start]
            rows[low - top : high - top] = as_rgb(part)
        return rows

    def _row(self, index: int) -> np.ndarray:
        """All tiles of one row of tiles, put together; the latest is kept for the next reading."""
        if self._kept is not None and self._kept[0] == index:
            return self._kept[1]
        self._kept = None
        page = self._page
        height = min(self._height, self.size[0] - index * self._height)
        out = np.zeros((height, *self._shape[1:]), self._kind.newbyteorder("="))
        per_plane = -(-self.size[0] // self._height) * self._across
        for plane in range(self._shape[2] if self._separate else 1):
            for column in range(self._across):
                number = plane * per_plane + index * self._across + column
                part = self._segment(number)
                if part is None:
                    continue  # a sparse file: nothing was written here
                left = column * page.tilewidth if page.is_tiled else 0
                part = part[0, :height, : self.size[1] - left]
                target = out[: part.shape[0], left : left + part.shape[1]]
                if self._separate:
                    target[..., plane] = part[..., 0]
                else:
                    target[...] = part if target.ndim == 3 else part[..., 0]
        self._kept = index, out
        return out

    def _segment(self, number: int) -> np.ndarray | None:
        page = self._page
        try:
            count = page.databytecounts[number]
            if count == 0:
                return None
            handle = self._file.filehandle
            handle.seek(page.dataoffsets[number])
            data = handle.read(count)
            if len(data) != count:
                raise EOFError("the file is cut off")
            segment: np.ndarray | None = page.decode(data, number, jpegtables=page.jpegtables)[0]
        except Exception as cause:  # tifffile raises whatever its decompressors do
            raise DataError(
                f"tile {number} cannot be decoded",
                where=self._where,
                why=str(cause) or type(cause).__name__,
                fix="install imagecodecs if a codec is missing; otherwise write the file again",
            ) from cause
        return segment

    def close(self) -> None:
        self._file.close()


class _Decoded:
    """A format that only decodes whole: kept as the decoder made it, turned into RGB by rows."""

    reading_bytes = 0

    def __init__(self, path: str | os.PathLike[str], max_pixels: int) -> None:
        self._where = printable(path)
        self._picture, _ = decode(path, self._where, max_pixels)
        self._turn = orientation(self._picture)
        width, height = self._picture.size
        self.size = (width, height) if self._turn >= 5 else (height, width)
        self._numbers: np.ndarray | None = None
        if self._picture.mode.startswith("I") or self._picture.mode == "F":
            # Which number is white is a matter of the whole picture.
            self._numbers = as_rgb(self._picture)

    def read(self, top: int, bottom: int) -> np.ndarray:
        if self._numbers is not None:
            return self._numbers[top:bottom]
        with decoding(self._where):
            part = self._picture.crop(self._box(top, bottom))
            # The crop must not be turned by what the file says of the whole, but as is done here.
            transparency = self._picture.info.get("transparency")
            part.info = {} if transparency is None else {"transparency": transparency}
            if self._turn != 1:
                part = part.transpose(_TURNS[self._turn])
        return as_rgb(part)

    def _box(self, top: int, bottom: int) -> tuple[int, int, int, int]:
        """Where displayed rows lie in the stored picture: (left, upper, right, lower)."""
        width, height = self._picture.size
        if self._turn in (1, 2):
            return 0, top, width, bottom
        if self._turn in (3, 4):
            return 0, height - bottom, width, height - top
        if self._turn in (5, 6):  # displayed rows are stored columns, left to right
            return top, 0, bottom, height
        return width - bottom, 0, width - top, height

    def close(self) -> None:
        self._picture.close()


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def import_tifffile() -> Any:
    try:
        import tifffile
    except ImportError as cause:
        raise MissingExtraError(
            "TIFF files are read and written by rows with tifffile, which is not installed",
            fix='pip install "torchseg-zoo[large]", or use .npy',
        ) from cause
    return tifffile
