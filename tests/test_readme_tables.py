"""``tools/readme_tables.py``: the tables in README.md and docs/ are up to date."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import torchseg_zoo as tsz
from torchseg_zoo.evaluation.reproduce import rows

ROOT = Path(__file__).parents[1]
AGAIN = "run python tools/readme_tables.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("readme_tables")


def section(page: str, name: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    match = re.search(rf"<!-- {name}:[^>]*-->\n\n(.*)\n<!-- /{name} -->", text, re.DOTALL)
    assert match is not None
    return match[1]


def test_the_checkpoints_are_those_of_the_manifest(tool: ModuleType) -> None:
    entries = tsz.list_checkpoints()
    assert section("README.md", "checkpoints") == tool.checkpoints_summary(entries), AGAIN
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert page == tool.checkpoints_page(entries), AGAIN
    assert all(f"`{entry.name}`" in page for entry in entries)


def test_every_model_has_a_row_and_one_is_counted_again(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert section("README.md", "models") == tool.families_table(), AGAIN
    names = re.findall(r"`(\w+)`", section("README.md", "models"))
    assert sorted(names) == tsz.list_models(), AGAIN
    models = section("docs/models.md", "models")
    assert re.findall(r"^\| `(\w+)` \|", models, re.MULTILINE) == tsz.list_models(), AGAIN
    monkeypatch.setattr(tool, "list_models", lambda: ["bisenet_x39", "psanet_r50"])
    for row in tool.models_table().splitlines():
        assert row in models.splitlines(), AGAIN


def test_torchsegs_tables_have_every_row_and_column(tool: ModuleType) -> None:
    page = (ROOT / "docs" / "torchseg_tables.md").read_text(encoding="utf-8")
    assert page == tool.torchseg_tables.page(), AGAIN
    for row in rows():
        found = [line for line in page.splitlines() if f"`{row.model}.{row.tag}`" in line]
        assert len(found) == 1 and f"{row.metric.miou_percent:.2f}" in found[0], row.name
    # As TorchSeg's README prints them: backbone, OHEM, both scores, and the paper's beside them.
    dfn = next(line for line in page.splitlines() if "`dfn_r101.cityscapes.ohem`" in line)
    cells = [cell.strip() for cell in dfn.split("|")[1:-1]]
    assert cells[1:4] == ["resnet101s", "yes", "cityscapes train, fine: 2975 pictures"]
    assert cells[5:9] == ["79.16", "80.53", "78.50", "79.30"]
    assert cells[9:] == ["79.49 / 80.32", "–", "listed"]
    assert "| 41.65 (79.74) | – | 41.68 (80.04) |" in page


def test_a_page_without_markers_is_refused(tool: ModuleType) -> None:
    tables = importlib.import_module("tables")
    with pytest.raises(SystemExit, match="no markers for models"):
        tables.replaced("# Title\n<!-- models: here -->\n", "models", "")
    text = "a\n<!-- models: here -->\nold\n<!-- /models -->\nb\n"
    once = tables.replaced(text, "models", "new\n")
    assert once == "a\n<!-- models: here -->\n\nnew\n\n<!-- /models -->\nb\n"
    assert tables.replaced(once, "models", "new\n") == once


def test_the_pictures_show_what_the_package_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    importlib.import_module("readme_pictures").main(tmp_path)
    for name in ("street.png", "street_overlay.png", "street_confidence.png"):
        ours, kept = (
            np.asarray(Image.open(folder / name)).astype(int)
            for folder in (tmp_path, ROOT / "docs" / "images")
        )
        # Other versions of fonts and kernels may move single pixels.
        assert np.abs(ours - kept).mean() < 1, "run python tools/readme_pictures.py"
