"""The one place where pixels become network input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.types import Size

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Preprocess"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """Turns an RGB picture into network input: ``(pixel / 255 − mean) / std``, optionally resized.

    Args:
        mean: per channel, on the 0..1 scale, in RGB order.
        std: per channel, on the 0..1 scale, in RGB order.
        resize: (height, width) that pictures are resized to before the network, or ``None``.
        short_side: pixels that the shorter side is brought to, the shape kept; not with ``resize``.
        long_side: the same for the longer side. With both, the smaller picture counts: it fits.

    With none of the three, pictures go in as they are: so do networks want them that were trained
    on pictures of one known size. Others have seen all pictures brought to about one size, and
    meet a larger photo at the wrong scale without it.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: Size | None = None
    short_side: int | None = None
    long_side: int | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise ArgumentError(
                f"mean {self.mean} and std {self.std} do not go together",
                where="preprocess",
                fix="give one mean and one positive std per channel",
            )
        sides = [side for side in (self.short_side, self.long_side) if side is not None]
        if self.resize is not None and sides:
            raise ArgumentError(
                "resize and a side exclude each other", where="preprocess", fix="give one of them"
            )
        if any(side < 1 for side in (*sides, *(self.resize or ()))):
            raise ArgumentError(
                "pictures cannot be resized to nothing", where="preprocess", fix="give pixels"
            )

    def input_size(self, height: int, width: int) -> Size:
        """The size that a picture of (height, width) is resized to before the network."""
        if self.resize is not None:
            return self.resize
        factors = []
        if self.short_side is not None:
            factors.append(self.short_side / min(height, width))
        if self.long_side is not None:
            factors.append(self.long_side / max(height, width))
        if not factors:
            return height, width
        # Half a pixel is rounded up, as mmsegmentation does it.
        return (
            max(1, int(height * min(factors) + 0.5)),
            max(1, int(width * min(factors) + 0.5)),
        )

    def array(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) uint8 → (H, W, C) float32, normalised; the size is unchanged."""
        scale, shift = self.scale_and_shift()
        normalised: np.ndarray = image.astype(scale.dtype) * scale + shift
        return normalised

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """The float32 (C,) pair with ``pixel * scale + shift`` equal to the normalisation."""
        import numpy as np  # here, because listing checkpoints needs records but no arrays

        std = np.asarray(self.std, np.float64)
        scale = 1.0 / (255.0 * std)
        shift = -np.asarray(self.mean, np.float64) / std
        return scale.astype(np.float32), shift.astype(np.float32)

    def tensor(self, image: np.ndarray) -> Tensor:
        """(H, W, C) or (N, H, W, C) uint8 → (N, C, H, W) float32, normalised, on the CPU.

        The tensor is in ``channels_last`` memory format: that is how pictures lie in memory, and
        what convolutions on current CPUs and GPUs prefer.
        """
        import torch

        batch = image if image.ndim == 4 else image[None]
        return torch.from_numpy(self.array(batch)).permute(0, 3, 1, 2)

    def describe(self) -> str:
        """One sentence in plain words."""
        return (
            f"RGB {self._size_in_words()}, pixel / 255, minus mean {_numbers(self.mean)}, "
            f"divided by std {_numbers(self.std)}"
        )

    def _size_in_words(self) -> str:
        if self.resize is not None:
            return "resized to {}×{}".format(*self.resize)
        sides = [
            f"{name} side {side}"
            for name, side in (("short", self.short_side), ("long", self.long_side))
            if side is not None
        ]
        return f"resized to {' or '.join(sides)}" if sides else "at its own size"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; ``from_dict`` reads it back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocess:
        """Reads the form written by ``to_dict``."""
        resize, short, long = (record.get(key) for key in ("resize", "short_side", "long_side"))
        return cls(
            mean=tuple(float(v) for v in record["mean"]),
            std=tuple(float(v) for v in record["std"]),
            resize=None if resize is None else (int(resize[0]), int(resize[1])),
            short_side=None if short is None else int(short),
            long_side=None if long is None else int(long),
        )


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
