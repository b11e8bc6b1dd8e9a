"""The scripts in examples/ are short, and run from a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, blocks_of

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_every_example_is_run() -> None:
    """By a page, all of which are run, or by a test that names it."""
    texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    texts += [one.text for page in PAGES for one in blocks_of(page) if one.not_run is None]
    scripts = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert {name for name in scripts if not any(name in text for text in texts)} == set()


def test_custom_head_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLES / "custom_head.py"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    first, second, shares, exported = done.stdout.splitlines()
    assert "backbone='resnet18'" in first and "backbone='mobilenetv3_small_050'" in second
    assert 0.999 < sum(eval(shares).values()) < 1.001
    assert exported.startswith("exported with ")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
