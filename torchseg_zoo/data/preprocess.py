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
        resize: (height, width) that pictures are resized to before the network, or ``None`` to
            take them as they are.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: Size | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise ArgumentError(
                f"mean {self.mean} and std {self.std} do not go together",
                where="preprocess",
                fix="give one mean and one positive std per channel",
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
        size = "at its own size" if self.resize is None else "resized to {}×{}".format(*self.resize)
        return (
            f"RGB {size}, pixel / 255, minus mean {_numbers(self.mean)}, "
            f"divided by std {_numbers(self.std)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; ``from_dict`` reads it back."""
        record = asdict(self)
        return {key: list(value) for key, value in record.items() if value is not None}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocess:
        """Reads the form written by ``to_dict``."""
        resize = record.get("resize")
        return cls(
            mean=tuple(float(v) for v in record["mean"]),
            std=tuple(float(v) for v in record["std"]),
            resize=None if resize is None else (int(resize[0]), int(resize[1])),
        )


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
