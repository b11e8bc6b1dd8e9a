"""The files of the checkout that the tests run in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def checkout_files() -> list[str]:
    """Paths from the root, in order: what git tracks or would add; in an unpacked source archive,
    which has no git, what the archive lists."""
    if not (CHECKOUT / ".git").exists():
        listed = (CHECKOUT / "torchseg_zoo.egg-info" / "SOURCES.txt").read_text(encoding="utf-8")
        return sorted(name for name in listed.splitlines() if ".egg-info/" not in name)
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, check=True,
    )  # fmt: skip
    names = filter(None, done.stdout.decode().split("\0"))
    return sorted(name for name in names if os.path.lexists(CHECKOUT / name))  # not removed


def copy_files(names: Iterable[str], folder: Path) -> Path:
    """Copies some of them: what is done in the copy leaves nothing in the checkout."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, folder / name)
    return folder
