"""The wheel: holds the manifest, the weights and the types, and works where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tracked files: building leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "checkout"
    tracked = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=CHECKOUT
    )
    for name in filter(None, tracked.split("\0")):
        source, target = CHECKOUT / name, copy / name
        if source.is_file() and not name.startswith(("tests/", "benchmarks/")):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, copy, cwd=folder)
    (built,) = folder.glob("torchseg_zoo-*.whl")
    return built


def test_the_wheel_holds_what_the_package_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        manifest = archive.read("torchseg_zoo/weights_manifest.json")
    assert manifest == (CHECKOUT / "weights_manifest.json").read_bytes()
    assert "torchseg_zoo/py.typed" in names
    package = CHECKOUT / "torchseg_zoo"
    for path in (*package.rglob("*.py"), *package.rglob("*.safetensors")):
        assert path.relative_to(CHECKOUT).as_posix() in names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "benchmarks/"))]
    licences = [name for name in names if "/licenses/" in name]
    assert {Path(name).name for name in licences} == {"LICENSE", "LICENSE-WEIGHTS"}


def test_an_installed_wheel_finds_its_manifest_inside(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    options = ("--no-deps", "--no-index", "-q", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import torchseg_zoo as tsz\n"
        "from torchseg_zoo.weights import load, manifest\n"
        "print(tsz.__file__)\n"
        "print(manifest.manifest_path())\n"
        "for entry in tsz.list_checkpoints():\n"
        "    load.embedded_file(entry) if entry.sources[0].kind == 'embedded' else None\n"
        "print(tsz.bisenet_x39(num_classes=3).num_classes)\n"
    )
    out = run(sys.executable, "-P", "-c", code, cwd=tmp_path).splitlines()
    assert out == [
        str(target / "torchseg_zoo" / "__init__.py"),
        str(target / "torchseg_zoo" / "weights_manifest.json"),
        "3",
    ]
