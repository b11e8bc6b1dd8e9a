"""The order of the rooms, what stays free of torch, and that nothing is unpickled in process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchseg_zoo
from torchseg_zoo.registry import _own_names

PACKAGE = Path(torchseg_zoo.__file__).parent

# Left to right, as data flows; a module may import from its own group and those left of it.
ORDER = (
    ("errors", "types", "closing", "files", "journal", "devices", "distributed", "_version"),
    ("data",),
    ("layers", "backbones", "metrics"),
    ("weights",),
    ("registry",),
    ("models",),
    ("inference",),
    ("evaluation",),
    ("training",),
    ("export", "runtime"),
    ("benchmark",),
    ("demo",),
    ("cli",),
)
PLACE = {room: place for place, rooms in enumerate(ORDER) for room in rooms}
# From data, the rooms up to models take only the two records that a checkpoint carries, and
# the known label sets, which the manifest names.
RECORDS = (
    "torchseg_zoo.data.labels",
    "torchseg_zoo.data.label_sets",
    "torchseg_zoo.data.preprocess",
)
# The package's front and its ``python -m`` entry stand outside the order; so does the version.
OUTSIDE = ("__init__", "__main__")

FREE_OF_TORCH = (
    "torchseg_zoo",
    "torchseg_zoo.errors",
    "torchseg_zoo.types",
    "torchseg_zoo.files",
    "torchseg_zoo.journal",
    "torchseg_zoo.registry",
    "torchseg_zoo.data.labels",
    "torchseg_zoo.data.label_sets",
    "torchseg_zoo.data.preprocess",
    "torchseg_zoo.data.image",
    "torchseg_zoo.data.label_map",
    "torchseg_zoo.data.strips",
    "torchseg_zoo.data.transforms",
    "torchseg_zoo.data.write_strips",
    "torchseg_zoo.data.datasets",
    "torchseg_zoo.data.prepare",
    "torchseg_zoo.data.check",
    "torchseg_zoo.weights.manifest",
    "torchseg_zoo.weights.fetch",
    "torchseg_zoo.weights.mirror",
    "torchseg_zoo.weights.prune",
    "torchseg_zoo.weights.released",
    "torchseg_zoo.weights.terms",
    "torchseg_zoo.weights.verify",
    "torchseg_zoo.inference.render",
    "torchseg_zoo.inference.prediction",
    "torchseg_zoo.runtime.inspected",
    "torchseg_zoo.benchmark.runtimes",
    "torchseg_zoo.benchmark.worker",
    "torchseg_zoo.demo",
    "torchseg_zoo.demo.guard",
    "torchseg_zoo.demo.words",
    "torchseg_zoo.cli",
    "torchseg_zoo.cli.infer",
    "torchseg_zoo.cli.list",
    "torchseg_zoo.cli.predict",
    "torchseg_zoo.cli.prepare",
    "torchseg_zoo.cli.check_data",
    "torchseg_zoo.cli.evaluate",
    "torchseg_zoo.cli.calibrate",
    "torchseg_zoo.cli.train",
)

# Files that may read foreign checkpoints, once, in a guarded child process.
MAY_UNPICKLE: tuple[str, ...] = ("weights/_reader.py",)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    """Full names of our own modules that a file imports, inside functions and for typing, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            found.add(node.module)
            for alias in node.names:
                whole = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                if whole.is_dir() or whole.with_suffix(".py").is_file():
                    found.add(f"{node.module}.{alias.name}")
    return {name for name in found if name.partition(".")[0] == "torchseg_zoo"}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in OUTSIDE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_left(path: Path) -> None:
    room = room_of(path)
    assert room in PLACE, f"{room} has no place in the order"
    for name in imports_of(path):
        parts = name.split(".")
        if len(parts) == 1:
            continue
        where = f"{path.relative_to(PACKAGE)} imports {name}"
        if room == "registry" and name == "torchseg_zoo.models":
            continue  # importing it is what registers the package's own factories
        if room == "registry" and name == "torchseg_zoo.models.base":
            continue  # for typing only; the architecture without torch proves it
        assert PLACE[parts[1]] <= PLACE[room], where
        if parts[1] == "data" and PLACE["data"] < PLACE[room] <= PLACE["models"]:
            assert name == "torchseg_zoo.data" or name.startswith(RECORDS), where


def test_the_order_is_about_rooms_that_exist() -> None:
    rooms = {room_of(path) for path in FILES}
    planned = {"distributed", "export", "runtime"}
    assert set(PLACE) - planned <= rooms <= set(PLACE)


def blocked(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process where the heavy libraries cannot be imported."""
    header = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'safetensors'): sys.modules[name] = None\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", header + code],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_light_modules_load_without_torch() -> None:
    done = blocked("\n".join(f"import {name}" for name in FREE_OF_TORCH))
    assert done.returncode == 0, done.stderr


def test_names_help_and_drawing_need_no_torch() -> None:
    done = blocked(
        "import numpy as np, torchseg_zoo as tsz\n"
        "from torchseg_zoo.cli import main\n"
        "from torchseg_zoo.data.datasets import DrawnStreets\n"
        "from torchseg_zoo.inference.render import overlay\n"
        "scene = DrawnStreets(1, size=(48, 64))[0]\n"
        "overlay(scene.image, scene.label, DrawnStreets.labels)\n"
        "tsz.list_checkpoints()\n"
        "assert main(['list']) == 0\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) >= _own_names()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, torchseg_zoo; torchseg_zoo.list_models(); torchseg_zoo.list_checkpoints();"
        "print(sorted({'torch', 'torchvision', 'timm', 'numpy', 'PIL', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_bisenet_x39_prediction_loads_no_timm() -> None:
    code = (
        "import sys, numpy, torchseg_zoo as tsz;"
        "tsz.predict(tsz.bisenet_x39(num_classes=3), numpy.zeros((40, 50, 3), 'u1'));"
        "print(sorted({'torchvision', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"


def unpicklers(path: Path) -> list[str]:
    """Places where a file could run what a pickle says."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            modules = {name.split(".")[0] for name in names}
            found += sorted(modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib"})
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = f"{node.value.id}.{node.attr}"
            if dotted in ("torch.load", "pickle.loads", "pickle.load", "np.load", "numpy.load"):
                found.append(dotted)
    return found


def test_nothing_is_unpickled_in_process() -> None:
    places = {str(path.relative_to(PACKAGE)): unpicklers(path) for path in PACKAGE.rglob("*.py")}
    assert {name for name, found in places.items() if found} <= set(MAY_UNPICKLE), places


def test_the_reader_of_pickles_is_imported_by_nobody() -> None:
    names = {name.removesuffix(".py").replace("/", ".") for name in MAY_UNPICKLE}
    for path in FILES:
        assert not imports_of(path) & {f"torchseg_zoo.{name}" for name in names}, path


def test_the_check_for_unpickling_sees_it(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    for code in ("import torch\ntorch.load(x)", "import pickle", "from pickle import loads"):
        file.write_text(code)
        assert unpicklers(file), code


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_modules_say_what_is_public_and_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "_version.py":  # setuptools reads it, people do not
        return
    assert ast.get_docstring(tree), path
    if path.stem.startswith("_"):
        return
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert "__all__" in names, path
