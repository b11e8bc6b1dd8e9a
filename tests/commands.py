"""The command line, run in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.errors import ZooError


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


def model_file(folder: Path, num_classes: int = 3) -> Path:
    """A small model of random weights, always the same ones, as a file for ``-c``."""
    torch.manual_seed(0)
    path = folder / "model.safetensors"
    tsz.save_model(tsz.bisenet_x39(num_classes=num_classes), path)
    return path


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> Done:
    """Runs ``torchseg-zoo`` with these arguments; however it ends, it shows no traceback."""
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse
        code = int(end.code or 0)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return Done(code, captured.out, captured.err)


def assert_failed(done: Done, error: type[ZooError], *words: str) -> None:
    """The command ended with this error's code, and its last line says so and these words."""
    assert done.code == error.exit_code, done
    line = done.err.splitlines()[-1]
    assert line.startswith(f"torchseg-zoo: {error.__name__}: "), done
    for word in words:
        assert word in line
