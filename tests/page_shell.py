"""Runs the commands of a page, and compares what they print with what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from pages import Block, Command

from torchseg_zoo import cli

# Words of a command → its exit code, and what it printed.
ResultOf = Callable[[tuple[str, ...]], tuple[int, str]]


class Shell:
    """Runs commands one after the other; a failure must be what the page shows."""

    def __init__(self, result_of: ResultOf) -> None:
        self._result_of = result_of
        self.code = 0
        self.last = ""

    def run(self, block: Block, command: Command) -> None:
        if command.words == ("echo", "$?"):
            assert command.output is not None and command.output.strip() == str(self.code), block
            self.code = 0
            return
        self.require_success()
        self.code, printed = self._result_of(command.words)
        self.last = f"{block}: {command.words} ended with {self.code}: {printed}"
        if command.output is not None:
            assert re.fullmatch(_pattern(command.output), printed.strip(), re.DOTALL), self.last

    def require_success(self) -> None:
        """A code other than 0 must have been asked for by the page itself, with ``echo $?``."""
        assert self.code == 0, self.last


def in_this_process(capsys: pytest.CaptureFixture[str]) -> ResultOf:
    """Runs our own command in this process, others as processes."""

    def result_of(words: tuple[str, ...]) -> tuple[int, str]:
        if words[0] == "torchseg-zoo":
            return _command_line(words[1:], capsys)
        if words[0] == "python":
            words = (sys.executable, "-W", "ignore", *words[1:])
        else:
            assert words[0] in ("mv", "rm"), f"{words[0]} cannot be run here: say so in the page"
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout + done.stderr

    return result_of


def _command_line(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    try:
        code = cli.main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def _pattern(shown: str) -> str:
    """What a page shows, where ``...`` stands for anything."""
    return ".*".join(re.escape(part) for part in shown.strip().split("..."))
