"""``tools/readme_tables.py``: the tables in README.md and docs/checkpoints.md are up to date."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import torchseg_zoo as tsz

ROOT = Path(__file__).parents[1]
AGAIN = "run python tools/readme_tables.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "tools/readme_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(name: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"<!-- {name}:[^>]*-->\n\n(.*)\n<!-- /{name} -->", text, re.DOTALL)
    assert match is not None
    return match[1]


def test_the_checkpoints_are_those_of_the_manifest(tool: ModuleType) -> None:
    entries = tsz.list_checkpoints()
    assert section("checkpoints") == tool.checkpoints_summary(entries), AGAIN
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert page == tool.checkpoints_page(entries), AGAIN
    assert all(f"`{entry.name}`" in page for entry in entries)


def test_every_model_has_a_row_and_one_is_counted_again(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = re.findall(r"^\| `(\w+)` \|", section("models"), re.MULTILINE)
    assert names == tsz.list_models(), AGAIN
    monkeypatch.setattr(tool, "list_models", lambda: ["bisenet_x39", "psanet_r50"])
    for row in tool.models_table().splitlines():
        assert row in section("models").splitlines(), AGAIN


def test_a_readme_without_markers_is_refused(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no markers for models"):
        tool.replaced("# Title\n<!-- models: here -->\n", "models", "")
    text = "a\n<!-- models: here -->\nold\n<!-- /models -->\nb\n"
    once = tool.replaced(text, "models", "new\n")
    assert once == "a\n<!-- models: here -->\n\nnew\n\n<!-- /models -->\nb\n"
    assert tool.replaced(once, "models", "new\n") == once
