"""``predict --list``: the pictures that a list file names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import model_file
from trees import camvid_tree, write_picture

from torchseg_zoo.cli import main
from torchseg_zoo.data.prepare import prepare
from torchseg_zoo.errors import DataError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(model_file(tmp_path_factory.mktemp("model"), num_classes=11))


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_prepared_list_is_labelled(
    tmp_path: Path, checkpoint: str, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists, out = camvid_tree(tmp_path / "data"), tmp_path / "lists", tmp_path / "out"
    prepare("camvid", root, out=lists)
    extra = write_picture(tmp_path / "extra.png")
    arguments = ["predict", "-c", checkpoint, "-o", str(out), "--json"]
    arguments += ["--list", str(lists / f"{split}.txt"), "--root", str(root)]
    assert main([*arguments, str(extra)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    pictures = [str(root / split / f"0016E5_{index:05d}.png") for index in (0, 1)]
    assert [row["image"] for row in rows] == [str(extra), *pictures]
    assert sorted(path.name for path in out.glob("*_overlay.png")) == [
        "0016E5_00000_overlay.png", "0016E5_00001_overlay.png", "extra_overlay.png",
    ]  # fmt: skip


def test_lists_that_cannot_be_labelled(
    tmp_path: Path, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "test.txt"
    out = tmp_path / "out"
    for text, match in {"": "the list is empty", "a.png\n": "line 1: no file"}.items():
        listing.write_text(text)
        code = main(["predict", "-c", checkpoint, "-o", str(out), "--list", str(listing)])
        assert code == DataError.exit_code and not out.exists()
        err = capsys.readouterr().err
        assert err.startswith("torchseg-zoo: DataError: ") and err.count("\n") == 1 and match in err
    with pytest.raises(SystemExit) as ended:
        main(["predict", "-c", checkpoint])
    assert ended.value.code == 2
    assert "nothing to label: give pictures, --list FILE, --video FILE" in capsys.readouterr().err
