"""``evaluation.submit`` and ``evaluate --submit``: files as test servers take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trees import ade20k_tree, cityscapes_tree, listing, voc_tree, write_map, write_picture

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets import list_file, open_dataset
from torchseg_zoo.data.label_sets import CAMVID, LABEL_SETS
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.evaluation.submit import BENCHMARKS, submit
from torchseg_zoo.models.base import SegmentationModel

PALETTE = LABEL_SETS["voc"].palette_array()
TREES: dict[str, Callable[[Path], Path]] = {
    "cityscapes": cityscapes_tree,
    "voc": lambda root: voc_tree(root, PALETTE),
    "ade20k": ade20k_tree,
}
FILES = {
    "cityscapes": "berlin_000000_000019_leftImg8bit.png",
    "voc": "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png",
    "ade20k": "ADE_test_00000001.png",
}
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
STORED = {
    "cityscapes": np.array(CITYSCAPES_IDS),
    "voc": np.arange(21),
    "ade20k": np.arange(150) + 1,
}


def colourful(path: Path) -> Path:
    """Replaces a picture by one on which a network with random weights finds several classes."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(blocks.repeat(32, 0).repeat(32, 1)).save(path, quality=95)
    return path


def model_for(name: str) -> SegmentationModel:
    torch.manual_seed(0)
    model = tsz.bisenet_x39(num_classes=LABEL_SETS[name].num_classes)
    model.labels = LABEL_SETS[name]
    return model


@pytest.mark.parametrize("name", BENCHMARKS)
def test_files_are_named_placed_and_valued_as_the_server_wants(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "data")
    dataset = open_dataset(f"{name}:{root}", "test", None)
    colourful(Path(dataset[0].name))
    before = listing(root)
    model = model_for(name)
    files = submit(model, dataset, tmp_path / "out", progress=False)
    assert files == [tmp_path / "out" / FILES[name]]
    assert set(listing(tmp_path / "out")) == {FILES[name]} and listing(root) == before
    with Image.open(files[0]) as picture:
        assert picture.mode == ("P" if name == "voc" else "L")
        stored = np.asarray(picture)
        if name == "voc":
            assert picture.getpalette()[: 21 * 3] == PALETTE[:21].ravel().tolist()  # type: ignore[index]
    labels = tsz.predict(model, dataset[0].image).labels
    assert len(np.unique(labels)) > 1  # else any table would do
    np.testing.assert_array_equal(stored, STORED[name][labels])


def test_every_class_has_its_own_value() -> None:
    from torchseg_zoo.evaluation.submit import _SERVERS

    for name in BENCHMARKS:
        assert _SERVERS[name].values.tolist() == STORED[name].tolist()


def test_a_scored_submission_is_that_of_the_labels(tmp_path: Path) -> None:
    """What is submitted for pictures with labels, scored by hand, is what evaluate says."""
    root = cityscapes_tree(tmp_path / "data")
    dataset = open_dataset(f"cityscapes:{root}", "val", None)
    colourful(Path(dataset[0].name))
    raw = np.random.default_rng(1).integers(0, 34, (192, 256)).astype(np.uint8)
    write_map(next(root.glob("gtFine/val/*/*_labelIds.png")), raw)
    model = model_for("cityscapes")
    (file,) = submit(model, dataset, tmp_path / "out", split="val", progress=False)
    predicted = np.asarray(Image.open(file))
    counted = np.isin(raw, CITYSCAPES_IDS)
    share = 100 * float((predicted == raw)[counted].mean())
    scores = tsz.evaluate(model, dataset, progress=False)
    assert share > 0 and scores.pixel_accuracy_percent == pytest.approx(share)


def test_the_split_names_voc_s_folder(tmp_path: Path) -> None:
    root = TREES["voc"](tmp_path / "data")
    dataset = open_dataset(f"voc:{root}", "val", None)
    (file,) = submit(model_for("voc"), dataset, tmp_path, split="val", progress=False)
    assert file == tmp_path / "results/VOC2012/Segmentation/comp6_val_cls/2007_000033.png"


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    model = model_for("cityscapes")
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"classes \(ade20k\), the model 19"):
        submit(model, open_dataset(f"ade20k:{ade20k_tree(tmp_path / 'a')}", "test", None), out)
    write_picture(tmp_path / "street.png")
    write_picture(tmp_path / "berlin_000000_000019_leftImg8bit.png")
    write_picture(tmp_path / "b" / "berlin_000000_000019_leftImg8bit.png")
    for text, match in {
        "street.png\n": r"street\.png: the test server does not know the name street; keep the",
        "berlin_000000_000019_leftImg8bit.png\nb/berlin_000000_000019_leftImg8bit.png\n": (
            r"b/berlin.*this picture has the name of .*list each picture once"
        ),
    }.items():
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(DataError, match=match):
            submit(model, list_file(tmp_path / "list.txt", LABEL_SETS["cityscapes"]), out)
    before = listing(tmp_path / "b")
    (tmp_path / "list.txt").write_text("b/berlin_000000_000019_leftImg8bit.png\n")
    with pytest.raises(ArgumentError, match="the result would replace this picture"):
        submit(model, list_file(tmp_path / "list.txt", LABEL_SETS["cityscapes"]), tmp_path / "b")
    assert listing(tmp_path / "b") == before
    for labels in (CAMVID, generic_labels(11, "cityscapes")):
        small = tsz.bisenet_x39(num_classes=11)
        with pytest.raises(ArgumentError, match=f"no test server is known for '{labels.name}'"):
            submit(small, list_file(tmp_path / "list.txt", labels), out)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = cityscapes_tree(tmp_path / "data")
    checkpoint = tmp_path / "model.safetensors"
    tsz.save_model(model_for("cityscapes"), checkpoint)
    arguments = ["evaluate", "-c", checkpoint, "--data", f"cityscapes:{root}", "--split", "test"]
    assert main([*map(str, arguments), "--submit", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"1 files in {tmp_path}/out\n"
    assert (tmp_path / "out" / FILES["cityscapes"]).is_file()
    assert main(list(map(str, arguments))) == DataError.exit_code  # nothing to score there
    assert "this sample has no labels" in capsys.readouterr().err
