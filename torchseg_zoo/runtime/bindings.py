"""What goes into an exported file and comes out of it, and what each picture costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Binding", "Cost", "InputStatistics"]


@dataclass(frozen=True)
class Binding:
    """One input or output.

    Args:
        name: in the file.
        mode: ``"input"`` or ``"output"``.
        shape: ``None`` for each side that is not fixed.
        dtype: as numpy and torch name it: ``"uint8"``, ``"float32"``, ...
    """

    name: str
    mode: str
    shape: tuple[int | None, ...]
    dtype: str

    def describe(self) -> str:
        """One line for people."""
        shape = " × ".join("any" if side is None else str(side) for side in self.shape)
        return f"{self.mode:6}  {self.name}  ({shape})  {self.dtype}"


@dataclass(frozen=True)
class Cost:
    """What one picture cost, in milliseconds.

    Args:
        copy_in_ms: from the process's memory to where the file runs.
        execute_ms: running it.
        copy_out_ms: its outputs, back.
    """

    copy_in_ms: float
    execute_ms: float
    copy_out_ms: float

    def describe(self) -> str:
        """One clause for people."""
        return (
            f"copy in {self.copy_in_ms:.2f} ms, execute {self.execute_ms:.2f} ms, "
            f"copy out {self.copy_out_ms:.2f} ms"
        )


@dataclass(frozen=True)
class InputStatistics:
    """What went in: largest and smallest value, mean and standard deviation of all values."""

    largest: float
    smallest: float
    mean: float
    std: float

    @classmethod
    def of(cls, batch: np.ndarray) -> InputStatistics:
        """Those of an array."""
        return cls(
            float(batch.max()),
            float(batch.min()),
            float(batch.mean(dtype=np.float64)),
            float(batch.std(dtype=np.float64)),
        )

    def describe(self) -> str:
        """One clause for people."""
        return (
            f"input max {self.largest:.4g}, min {self.smallest:.4g}, "
            f"mean {self.mean:.4g}, std {self.std:.4g}"
        )
