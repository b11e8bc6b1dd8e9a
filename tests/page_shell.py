"""Runs the commands of a page: ours in this process, others as processes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from pages import Block, Command

from torchseg_zoo import cli


class Shell:
    """Runs commands one after the other; a failure must be what the page shows."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.code = 0
        self.last = ""

    def run(self, block: Block, command: Command) -> None:
        if command.words == ("echo", "$?"):
            assert command.output is not None and command.output.strip() == str(self.code), block
            self.code = 0
            return
        self.require_success()
        self.capsys.readouterr()
        self.code, printed = self._result(command.words)
        self.last = f"{block}: {command.words} ended with {self.code}: {printed}"
        if command.output is not None:
            assert re.fullmatch(_pattern(command.output), printed.strip(), re.DOTALL), self.last

    def require_success(self) -> None:
        """A code other than 0 must have been asked for by the page itself, with ``echo $?``."""
        assert self.code == 0, self.last

    def _result(self, words: tuple[str, ...]) -> tuple[int, str]:
        if words[0] == "torchseg-zoo":
            return self._command_line(words[1:])
        if words[0] == "python":
            words = (sys.executable, "-W", "ignore", *words[1:])
        else:
            assert words[0] in ("mv", "rm"), f"{words[0]} cannot be run here: say so in the page"
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout + done.stderr

    def _command_line(self, words: tuple[str, ...]) -> tuple[int, str]:
        try:
            code = cli.main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        printed = self.capsys.readouterr()
        return code, printed.out + printed.err


def _pattern(shown: str) -> str:
    """What a page shows, where ``...`` stands for anything."""
    return ".*".join(re.escape(part) for part in shown.strip().split("..."))
