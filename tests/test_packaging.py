"""Wheel and source archive: what they hold, that they agree, and that they work where installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from checkout import CHECKOUT, checkout_files, copy_files
from clean_environment import build_wheel

import torchseg_zoo as tsz

# Of the repository itself, and of no use without it.
NOT_IN_THE_SOURCE_ARCHIVE = {".gitignore", ".ci/run"}


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={
            **os.environ,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files() -> list[str]:
    return checkout_files()


@pytest.fixture(scope="module")
def source(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's files: building leaves nothing in the checkout."""
    return copy_files(files, tmp_path_factory.mktemp("source") / "checkout")


@pytest.fixture(scope="module")
def released(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from what it holds."""
    folder = tmp_path_factory.mktemp("released")
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, source, cwd=folder)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return archive, wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_what_the_package_needs(released: tuple[Path, Path], source: Path) -> None:
    files = contents(released[1])
    assert files["torchseg_zoo/weights_manifest.json"] == (
        (source / "weights_manifest.json").read_bytes()
    )
    ours = {path.relative_to(source) for path in (source / "torchseg_zoo").rglob("*.*")}
    package = {path.as_posix(): (source / path).read_bytes() for path in ours}
    assert {path.suffix for path in ours} == {".py", ".typed", ".safetensors"}
    assert package.items() <= files.items()
    others = {name.partition("/")[0] for name in files} - {"torchseg_zoo"}
    assert others == {f"torchseg_zoo-{tsz.__version__}.dist-info"}
    licences = {Path(name).name for name in files if "/licenses/" in name}
    assert licences == {"LICENSE", "LICENSE-WEIGHTS"}


def test_the_source_archive_holds_the_checkout(
    released: tuple[Path, Path], files: list[str]
) -> None:
    with tarfile.open(released[0]) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    written = {name for name in names if name.startswith("torchseg_zoo.egg-info/")}
    assert names - written - {"PKG-INFO"} == set(files) - NOT_IN_THE_SOURCE_ARCHIVE


def test_the_checkout_builds_the_same_wheel(
    released: tuple[Path, Path], source: Path, tmp_path: Path
) -> None:
    wheel = build_wheel(source, tmp_path)
    assert wheel.name == released[1].name
    assert contents(wheel) == contents(released[1])


def test_an_installed_wheel_works(released: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "site"
    options = ("--no-deps", "--no-index", "-q", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, released[1], cwd=tmp_path)
    here = {"PYTHONPATH": str(target), "XDG_CACHE_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    script = run(target / "bin" / "torchseg-zoo", "--version", cwd=tmp_path, **here)
    assert script.split() == ["torchseg-zoo", tsz.__version__]
    smoke, picture = CHECKOUT / "tests" / "smoke.py", CHECKOUT / "examples" / "street.png"
    done = run(sys.executable, "-P", smoke, picture, cwd=tmp_path, **here)
    assert f"torchseg_zoo {tsz.__version__} in {target / 'torchseg_zoo' / '__init__.py'}" in done


def test_every_place_names_the_same_version() -> None:
    def found(name: str, pattern: str) -> tuple[str, ...]:
        match = re.search(pattern, (CHECKOUT / name).read_text(encoding="utf-8"), re.MULTILINE)
        assert match, f"{name} names no version"
        return match.groups()

    version, date = found("CHANGELOG.md", r"^## (\S+) \((\d{4}-\d\d-\d\d)\)$")
    assert version == tsz.__version__
    assert found("CITATION.cff", r"^version: (\S+)\ndate-released: (\S+)$") == (version, date)
    assert found("docs/stability.md", r"^Version (\d+\.\d+):") == (version.rpartition(".")[0],)
