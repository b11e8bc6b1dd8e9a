"""``torch.hub`` on a checkout, and on the zip of one: the list, the help, and a model."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from checkout import CHECKOUT, checkout_files
from loopback import Server
from released import TAG, declare

import torchseg_zoo as tsz


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository that the hub has fetched already: its list and help know no local source."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: str(CHECKOUT))
    return "owner/torchseg-zoo"


def test_the_hub_lists_the_factories_and_nothing_else(fetched: str) -> None:
    assert sorted(torch.hub.list(fetched)) == tsz.list_models()


def test_the_hub_shows_a_factorys_help(fetched: str) -> None:
    text = torch.hub.help(fetched, "bisenet_x39")
    assert text == tsz.bisenet_x39.__doc__ and "Xception39" in text


def test_every_factory_has_help(fetched: str) -> None:
    for name in tsz.list_models():
        text = torch.hub.help(fetched, name)
        assert text and "on " in text.strip().splitlines()[0], name  # the backbone


def test_the_hub_builds_a_model() -> None:
    model = torch.hub.load(str(CHECKOUT), "bisenet_x39", source="local", num_classes=4)
    assert type(model) is tsz.models.bisenet.BiSeNet and model.num_classes == 4


def test_the_hub_passes_the_checkpoint_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tsz.bisenet_x39(num_classes=5)
    with declare(source, tmp_path, monkeypatch):
        model = torch.hub.load(str(CHECKOUT), "bisenet_x39", TAG, source="local")
    assert torch.equal(model.head.classifier.weight, source.head.classifier.weight)


# The zip


def test_no_file_is_a_link() -> None:
    assert [name for name in checkout_files() if (CHECKOUT / name).is_symlink()] == []


# What a user's process does; only the address of GitHub is another one.
USER = """
import json, os, sys
import torch, torch.hub

torch.hub._git_archive_link = lambda owner, name, ref: os.environ["ZIP_URL"]
REPO = {"github": "owner/torchseg-zoo:main", "trust_repo": True, "skip_validation": True}
names = torch.hub.list(**REPO, verbose=False)
text = torch.hub.help(**REPO, model="dfn_r101")
loaded = sorted({"timm", "torchvision", "huggingface_hub"} & set(sys.modules))
model = torch.hub.load(
    REPO.pop("github"), "bisenet_x39", "camvid", **REPO, verbose=False
)
import torchseg_zoo
with torch.inference_mode():
    shape = list(model(torch.zeros(1, 3, 64, 96)).shape)
print("RESULT " + json.dumps([names, text, loaded, torchseg_zoo.__file__, shape]))
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The zip of the working tree in the form that GitHub gives it."""
    path = tmp_path / "main.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.mkdir("torchseg-zoo-main")
        for name in checkout_files():
            file.write(CHECKOUT / name, f"torchseg-zoo-main/{name}")
    return path


def test_a_zip_that_the_hub_downloads(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with Server() as server:
        server.file("/main.zip", archive.read_bytes())
        environment = {
            **os.environ,
            "ZIP_URL": f"{server.url}/main.zip",
            "TORCH_HOME": str(tmp_path / "home"),
            "TORCHSEG_ZOO_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", USER],
            cwd=tmp_path / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert server.count("/main.zip") == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    names, text, loaded, where, shape = json.loads(line.removeprefix("RESULT "))
    unpacked = tmp_path / "home" / "hub" / "owner_torchseg-zoo_main"
    assert Path(where).is_relative_to(unpacked) and (unpacked / "weights_manifest.json").is_file()
    assert sorted(names) == tsz.list_models() and text == tsz.dfn_r101.__doc__
    assert loaded == [] and shape == [1, 11, 64, 96]


def test_its_dependencies_are_those_of_the_package() -> None:
    tree = ast.parse((CHECKOUT / "hubconf.py").read_text())
    (listed,) = (ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign))
    required = (CHECKOUT / "setup.cfg").read_text().partition("install_requires =")[2]
    lines = required.partition("\n\n")[0].split()
    names = {line.partition(">=")[0].replace("-", "_").replace("pillow", "PIL") for line in lines}
    assert set(listed) == names
