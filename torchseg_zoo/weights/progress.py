"""What a user sees of a download, on the first of many ranks only."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["Bar", "first_rank", "say"]


def first_rank() -> bool:
    """Whether this process is the first, or the only one, of a distributed run."""
    return all(os.environ.get(name, "0").strip() in ("", "0") for name in ("RANK", "LOCAL_RANK"))


def say(message: str) -> None:
    """Prints one line on stderr, on the first rank."""
    if first_rank():
        print(f"torchseg_zoo: {message}", file=sys.stderr, flush=True)


class Bar:
    """A progress bar on a terminal, and one line elsewhere."""

    def __init__(self, label: str, *, shown: bool) -> None:
        self._label, self._shown = label, shown
        self._bar: Any = None
        self._began = False

    def show(self, got: int, total: int | None) -> None:
        """Moves it to ``got`` of ``total`` bytes."""
        if not self._shown:
            return
        if not self._began:
            self._began = True
            if sys.stderr.isatty():
                from tqdm import tqdm

                name = self._label.rpartition("/")[2] or self._label
                self._bar = tqdm(
                    total=total, initial=got, desc=name, unit="B", unit_scale=True, file=sys.stderr
                )
            else:
                of = f" ({total / 1e6:.1f} MB)" if total else ""
                say(f"fetching {self._label}{of}")
        elif self._bar is not None:
            self._bar.total = total
            self._bar.update(got - self._bar.n)  # back to 0 when the download starts over

    def close(self) -> None:
        """Leaves it as it stands."""
        if self._bar is not None:
            self._bar.close()
