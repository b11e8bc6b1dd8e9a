"""New virtual environments that hold the wheel, and nothing else of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

_FORKING = Path(__file__).with_name("forking.py")
# What `pip install numpy pillow onnxruntime` brings, where there are such folders.
WITHOUT_TORCH = (
    "numpy", "numpy.libs", "PIL", "pillow.libs",
    "onnxruntime", "flatbuffers", "google", "packaging",
)  # fmt: skip
_LIMIT_S = 300


def build_wheel(checkout: Path, folder: Path) -> Path:
    """Builds the wheel of a copied checkout, without network."""
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder)
    _run_here("pip", "wheel", *options, checkout)
    (wheel,) = folder.glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Done:
    """A process that has ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Environment:
    """A virtual environment and a user's home. Processes know nothing of this one's variables.

    Args:
        root: folder of the environment.
        home: the home folder, caches included.
    """

    root: Path
    home: Path

    @property
    def site(self) -> Path:
        """Where packages are installed."""
        variables = {"base": str(self.root), "platbase": str(self.root)}
        return Path(sysconfig.get_path("purelib", vars=variables))

    def variables(self, **more: str) -> dict[str, str]:
        """Of its processes; ``more`` comes on top."""
        return {
            "PATH": os.pathsep.join((str(self.root / "bin"), "/usr/bin", "/bin")),
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "LANG": "C.UTF-8",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
            **more,
        }

    def start(self, words: Sequence[str], cwd: Path, **more: str) -> subprocess.Popen[str]:
        """Starts a command of the environment, by its bare name, to be waited for or killed."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words, cwd=cwd, env=self.variables(**more), stdout=pipe, stderr=pipe, text=True
        )

    def run(self, words: Sequence[str], cwd: Path, **more: str) -> Done:
        """Runs a command of the environment to its end."""
        process = self.start(words, cwd, **more)
        out, err = process.communicate(timeout=_LIMIT_S)
        return Done(process.returncode, out, err)


class Forks:
    """Runs programs of an environment as ``Environment.run`` does, without starting Python anew.

    Importing torch takes longer than most commands. Only ``torchseg-zoo`` and scripts are run.
    """

    def __init__(self, environment: Environment) -> None:
        pipe = subprocess.PIPE
        words = ["python", "-c", _FORKING.read_text(encoding="utf-8")]
        self._server = subprocess.Popen(
            words, env=environment.variables(), stdin=pipe, stdout=pipe, text=True
        )

    def run(self, words: Sequence[str], cwd: Path, variables: dict[str, str]) -> Done:
        """Runs a program to its end."""
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            files = {"in": os.devnull, "out": out.name, "err": err.name}
            code = self._ask(words, cwd, variables, files, waits=True)
            return Done(code, out.read(), err.read())

    def talk(
        self, words: Sequence[str], cwd: Path, variables: dict[str, str], err: str
    ) -> tuple[TextIO, TextIO]:
        """Starts a program; its input and output. It ends when its input does."""
        with tempfile.TemporaryDirectory() as folder:
            files = {"in": f"{folder}/in", "out": f"{folder}/out", "err": err}
            for name in ("in", "out"):
                os.mkfifo(files[name])
            self._ask(words, cwd, variables, files, waits=False)
            return Path(files["in"]).open("w"), Path(files["out"]).open()

    def _ask(
        self, words: Sequence[str], cwd: Path, variables: dict[str, str], files: dict[str, str],
        *, waits: bool,
    ) -> int:  # fmt: skip
        assert self._server.stdin and self._server.stdout
        request = {"words": words, "cwd": str(cwd), "variables": variables, "waits": waits}
        print(json.dumps(request | files), file=self._server.stdin, flush=True)
        code: int = json.loads(self._server.stdout.readline())
        return code

    def close(self) -> None:
        """Ends the server."""
        self._server.communicate()


def new_environment(folder: Path, libraries: Iterable[str] | None = None) -> Environment:
    """Makes a virtual environment in which some of the tests' own libraries can be imported.

    Args:
        folder: where environment and home are put.
        libraries: their folders, by name; all of them by default. What is installed there comes
            first, and this package, which is installed editable where the tests run, is not seen:
            the finders of a folder that is only added to the path are not loaded.
    """
    environment = Environment(folder / "venv", folder / "home")
    environment.home.mkdir(parents=True)
    _run_here("venv", "--without-pip", environment.root)
    if libraries is None:
        lines = "".join(f"{folder}\n" for folder in _library_folders())
        (environment.site / "libraries.pth").write_text(lines)
    else:
        link_libraries(libraries, environment.site)
    return environment


def install(wheel: Path, environment: Environment) -> None:
    """Installs a wheel, without network."""
    python = environment.root / "bin" / "python"
    options = ("--no-deps", "--no-index", "--no-compile", "-q")
    _run_here("pip", "--python", python, "install", *options, wheel)


def link_libraries(names: Iterable[str], site: Path) -> None:
    """Puts some libraries of the environment that runs the tests into a folder of packages."""
    for folder in _library_folders():
        for name in names:
            if (folder / name).exists():
                (site / name).symlink_to(folder / name)


def _library_folders() -> list[Path]:
    return sorted({Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")})


def _run_here(module: str, *words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
