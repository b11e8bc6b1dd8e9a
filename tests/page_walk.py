"""Follows pages as their readers do: commands in a shell, Python in a notebook, in one folder."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clean_environment import Done, Environment, Forks
from page_folders import shorter
from page_shell import Shell
from pages import Block, Command, blocks_of

KERNEL = Path(__file__).with_name("page_notebook.py")
PROGRAMS = ("torchseg-zoo", "python", "mv", "rm")


class Notebook:
    """A Python process of the environment that runs block after block.

    Args:
        environment: where its Python comes from.
        folder: where it is started.
        forks: of that environment, to be started quickly.
        more: variables of the process.
    """

    def __init__(
        self, environment: Environment, folder: Path, forks: Forks | None = None, **more: str
    ) -> None:
        self._told = tempfile.NamedTemporaryFile("r")  # noqa: SIM115 - until close()
        words = ["python", "-c", KERNEL.read_text(encoding="utf-8")]
        variables = environment.variables(**more)
        self._process: subprocess.Popen[str] | None = None
        if forks:
            self._in, self._out = forks.talk(words, folder, variables, self._told.name)
            return
        with Path(self._told.name).open("w") as err:
            self._process = subprocess.Popen(
                words, cwd=folder, env=variables, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err,
            )  # fmt: skip
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout

    def run(self, text: str, *, page: str = "notebook", line: int = 1) -> str:
        """Runs a block; what it printed."""
        print(json.dumps({"page": page, "line": line, "text": text}), file=self._in, flush=True)
        answer = json.loads(self._out.readline())
        assert not answer["error"], f"{page}: {answer['error']}"
        printed: str = answer["printed"]
        return printed

    def close(self) -> None:
        """Ends the process; a reader would have seen no warning of it."""
        self._in.close()
        self._out.read()
        self._out.close()
        if self._process:
            self._process.wait()
        with self._told:
            require_calm(self._told.read())


class Walk:
    """A reader's folder, shell and notebook.

    Args:
        environment: where commands and Python come from.
        folder: where the reader is.
        forks: of that environment, to run programs quickly.
        more: variables of the processes.
    """

    def __init__(
        self, environment: Environment, folder: Path, forks: Forks | None = None, **more: str
    ) -> None:
        self.environment, self.folder, self._more = environment, folder, more
        self._forks = forks
        self._shell = Shell(self._result_of)
        self._notebook: Notebook | None = None
        self._printed = ""

    @property
    def notebook(self) -> Notebook:
        """Started at its first use."""
        if self._notebook is None:
            self._notebook = Notebook(self.environment, self.folder, self._forks, **self._more)
        return self._notebook

    def follow(self, page: str, *sections: str) -> str:
        """Runs the blocks of a page's sections, in its order.

        Args:
            page: path from the root.
            sections: names of headings as links have them; the whole page without any.

        Returns:
            What all of them printed.
        """
        self._printed = ""
        for block in blocks_to_run(page, *sections):
            if block.language == "python":
                self._printed += self.notebook.run(block.text, page=page, line=block.line)
            else:
                for command in block.commands():
                    self._shell.run(block, command)
        self._shell.require_success()
        return self._printed

    def run(self, *words: str) -> Done:
        """Runs one command; on success it has warned of nothing."""
        is_script = words[0] == "python" and words[1].endswith(".py")
        if self._forks and (is_script or words[0] == "torchseg-zoo"):
            variables = self.environment.variables(**self._more)
            done = self._forks.run(words, self.folder, variables)
        else:
            done = self.environment.run(words, self.folder, **self._more)
        if done.code == 0:
            require_calm(done.err)
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Starts one command."""
        return self.environment.start(words, self.folder, **self._more)

    def close(self) -> None:
        """Ends the notebook."""
        if self._notebook is not None:
            self._notebook.close()

    def _result_of(self, words: tuple[str, ...]) -> tuple[int, str]:
        assert words[0] in PROGRAMS, f"{words[0]} cannot be run here: say so in the page"
        done = self.run(*words)
        self._printed += done.out
        return done.code, done.out + done.err


@contextmanager
def walking(
    environment: Environment, folder: Path, forks: Forks | None = None, **more: str
) -> Iterator[Walk]:
    """A walk whose notebook ends with it."""
    walk = Walk(environment, folder, forks, **more)
    try:
        yield walk
    finally:
        walk.close()


def blocks_to_run(page: str, *sections: str) -> list[Block]:
    """The blocks of a page's sections that are to be run, with small numbers."""
    found = [
        shorter(block)
        for block in blocks_of(page)
        if (not sections or block.section in sections)
        and block.not_run is None
        and block.language in ("python", "sh", "console")
    ]
    assert found, f"{page}: nothing is run in {sections}"
    return found


def commands_of(page: str, *sections: str) -> list[Command]:
    """The commands among those blocks."""
    blocks = blocks_to_run(page, *sections)
    return [one for block in blocks if block.language != "python" for one in block.commands()]


def require_calm(told: str) -> None:
    """Nothing that a process told its user is a warning or a traceback."""
    assert not re.search(r"Warning\b|warning:|Traceback", told), told
