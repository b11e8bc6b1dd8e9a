"""``data.prepare`` and ``torchseg-zoo prepare``: list files of data sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import (
    SBD_ONLY,
    VOC_TRAIN,
    VOC_VAL,
    ade20k_tree,
    camvid_tree,
    cityscapes_tree,
    listing,
    sbd_mask,
    sbd_tree,
    voc_tree,
    write_map,
    write_picture,
)

from torchseg_zoo.cli import main
from torchseg_zoo.cli import prepare as cli_prepare
from torchseg_zoo.data.datasets import list_file, open_dataset
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.prepare import PREPARED, prepare
from torchseg_zoo.errors import ArgumentError, DataError

PALETTE = LABEL_SETS["voc"].palette_array()


def own_tree(root: Path) -> Path:
    for split in ("train", "val"):
        for index in range(2):
            write_picture(root / split / "images" / f"{index}.jpg", index)
            write_map(root / split / "labels" / f"{index}.png", sbd_mask(index))
    write_picture(root / "test" / "images" / "9.jpg")
    return root


def camvid_without_lists(root: Path) -> Path:
    camvid_tree(root)
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").unlink()
    return root


TREES: dict[str, Callable[[Path], Path]] = {
    "cityscapes": cityscapes_tree,
    "voc": lambda root: voc_tree(root, PALETTE),
    "ade20k": ade20k_tree,
    "camvid": camvid_without_lists,
    "folder": own_tree,
}
# Samples per split, and one line of the training list.
WANT = {
    "cityscapes": (
        {"train": 2, "val": 1, "test": 1},
        "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png\t"
        "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png",
    ),
    "voc": (
        {"train": 2, "val": 1, "test": 1},
        "JPEGImages/2007_000032.jpg\tSegmentationClass/2007_000032.png",
    ),
    "ade20k": (
        {"train": 2, "val": 2, "test": 1},
        "images/training/ADE_train_00000001.jpg\tannotations/training/ADE_train_00000001.png",
    ),
    "camvid": (
        {"train": 2, "val": 2, "test": 2},
        "train/0016E5_00001.png\ttrainannot/0016E5_00001.png",
    ),
    "folder": ({"train": 2, "val": 2, "test": 1}, "train/images/0.jpg\ttrain/labels/0.png"),
}  # fmt: skip


def test_every_data_set_is_tried_and_offered() -> None:
    assert set(PREPARED) == set(TREES) == set(WANT) == set(cli_prepare._NAMES)


@pytest.mark.parametrize("name", TREES)
def test_lists_are_written_once_and_read_back(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "data")
    before = listing(tmp_path)
    lists = prepare(name, root)
    counts, line = WANT[name]
    assert {one.path.stem: one.samples for one in lists} == counts
    assert all(one.changed and one.labelled == (one.path.stem != "test") for one in lists)
    assert line in (root / "train.txt").read_text().splitlines()
    assert "\t" not in (root / "test.txt").read_text()
    after = listing(tmp_path)
    assert set(after) - set(before) == {f"data/{split}.txt" for split in counts}
    assert {path: after[path] for path in before} == before

    again = prepare(name, root)
    assert not any(one.changed for one in again) and listing(tmp_path) == after
    spec = str(root) if name == "folder" else f"{name}:{root}"
    for split, count in counts.items():
        dataset = list_file(root / f"{split}.txt", LABEL_SETS.get(name, generic_labels(16)))
        assert len(dataset) == count
        direct = open_dataset(spec, split, generic_labels(16))
        for index in range(count):
            sample, want = dataset[index], direct[index]
            np.testing.assert_array_equal(sample.image, want.image)
            if split != "test":
                np.testing.assert_array_equal(sample.label, want.label)


def test_lists_elsewhere_leave_the_data_alone(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path / "data")
    before = listing(root)
    prepare("cityscapes", root, out=tmp_path / "a" / "lists")
    assert listing(root) == before
    lists = tmp_path / "a" / "lists"
    assert sorted(path.name for path in lists.iterdir()) == ["test.txt", "train.txt", "val.txt"]
    assert len(list_file(lists / "train.txt", LABEL_SETS["cityscapes"], root=root)) == 2


def test_a_list_that_holds_something_else_is_kept(tmp_path: Path) -> None:
    root = camvid_tree(tmp_path)
    before = listing(root)
    with pytest.raises(DataError, match=r"train\.txt: is there already and holds something else"):
        prepare("camvid", root)
    assert listing(root) == before
    assert [one.changed for one in prepare("camvid", root, overwrite=True)] == [True] * 3
    (root / "val.txt").unlink()
    assert [one.changed for one in prepare("camvid", root)] == [False, True, False]


# VOC with SBD


@pytest.mark.parametrize("inside", [True, False])
def test_train_aug_converts_matlab_masks(tmp_path: Path, inside: bool) -> None:
    root = voc_tree(tmp_path / "VOC2012", PALETTE)
    sbd = sbd_tree(root / "SBD" if inside else tmp_path / "benchmark")
    lists = prepare("voc", root, sbd=None if inside else sbd)
    assert [one.path.stem for one in lists] == ["train", "val", "train_aug", "test"]
    aug = list_file(root / "train_aug.txt", LABEL_SETS["voc"])
    assert [image.stem for image, _ in aug.pairs] == VOC_TRAIN + SBD_ONLY
    assert (root / "train_aug.txt").read_text().splitlines()[-1] == (
        f"JPEGImages/{SBD_ONLY[1]}.jpg\tSegmentationClassAug/{SBD_ONLY[1]}.png"
    )
    np.testing.assert_array_equal(aug[3].label, sbd_mask(1))
    with Image.open(root / "SegmentationClassAug" / f"{SBD_ONLY[0]}.png") as mask:
        assert mask.mode == "P" and mask.getpalette()[:6] == [0, 0, 0, 128, 0, 0]  # type: ignore[index]
    assert sorted(path.stem for path in (root / "SegmentationClassAug").iterdir()) == SBD_ONLY
    before = listing(tmp_path)
    assert not any(one.changed for one in prepare("voc", root, sbd=None if inside else sbd))
    assert listing(tmp_path) == before
    assert len(open_dataset(f"voc_aug:{root}", "train", None)) == 4
    (root / "SegmentationClassAug" / f"{SBD_ONLY[0]}.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 masks are missing, .*; remove this folder"):
        prepare("voc", root, sbd=sbd)


def test_masks_go_where_the_lists_go(tmp_path: Path) -> None:
    root, sbd = voc_tree(tmp_path / "VOC2012", PALETTE), sbd_tree(tmp_path / "SBD")
    before = listing(root), listing(sbd)
    out = tmp_path / "lists"
    prepare("voc", root, out=out, sbd=sbd)
    assert (listing(root), listing(sbd)) == before
    aug = list_file(out / "train_aug.txt", LABEL_SETS["voc"], root=root)
    np.testing.assert_array_equal(aug[2].label, sbd_mask(0))


def test_a_damaged_mask_ends_it_before_any_list(tmp_path: Path) -> None:
    root, sbd = voc_tree(tmp_path / "VOC2012", PALETTE), sbd_tree(tmp_path / "SBD")
    mask = sbd / "dataset" / "cls" / f"{SBD_ONLY[1]}.mat"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:150])
    with pytest.raises(DataError, match=rf"{SBD_ONLY[1]}\.mat: not a MATLAB file"):
        prepare("voc", root, sbd=sbd)
    assert not list(root.glob("*.txt")) and not (root / "SegmentationClassAug").exists()
    with pytest.raises(DataError, match="found no masks of SBD"):
        open_dataset(f"voc_aug:{root}", "train", None)
    mask.write_bytes(whole)
    assert len(prepare("voc", root, sbd=sbd)) == 4


def test_a_killed_conversion_leaves_no_half_folder(tmp_path: Path) -> None:
    root, sbd = voc_tree(tmp_path / "VOC2012", PALETTE), sbd_tree(tmp_path / "SBD")
    code = (
        "import os, signal, sys\n"
        "from torchseg_zoo.data import prepare as module\n"
        "real, calls = module.write_png, []\n"
        "def dying(*a, **k):\n"
        "    if calls: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    calls.append(real(*a, **k))\n"
        "module.write_png = dying\n"
        "module.prepare('voc', sys.argv[1], sbd=sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(sbd)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (root / "SegmentationClassAug").exists() and not list(root.glob("*.txt"))
    prepare("voc", root, sbd=sbd)
    assert len(list_file(root / "train_aug.txt", LABEL_SETS["voc"])) == 4
    assert not list(root.glob(".*"))


def test_where_sbd_is_not(tmp_path: Path) -> None:
    root = voc_tree(tmp_path / "VOC2012", PALETTE)
    assert [one.path.stem for one in prepare("voc", root)] == ["train", "val", "test"]
    with pytest.raises(DataError, match=r"SBD's folder, which holds dataset/cls"):
        prepare("voc", root, sbd=tmp_path)
    with pytest.raises(ArgumentError, match="SBD has nothing to do with camvid"):
        prepare("camvid", root, sbd=tmp_path)
    held_out = write_map(tmp_path / "masks" / f"{VOC_VAL[0]}.png", sbd_mask(0)).parent
    with pytest.raises(DataError, match="these masks add no picture to VOC's own"):
        prepare("voc", root, sbd=held_out)


# Folders without splits


def test_a_folder_is_divided_by_names_and_the_same_anywhere(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        for index in range(10):
            write_picture(root / "images" / f"{index}.jpg", index)
            write_map(root / "labels" / f"{index}.png", sbd_mask(index))
        prepare("folder", root, val_percent=30)
    texts = [[(root / f"{split}.txt").read_text() for split in ("train", "val")] for root in roots]
    assert texts[0] == texts[1]
    train, val = (text.splitlines() for text in texts[0])
    assert (len(train), len(val)) == (7, 3) and not set(train) & set(val)
    assert len(set(train) | set(val)) == 10
    for percent, count in ((0.1, 1), (99.9, 9)):
        out = tmp_path / str(percent)
        assert prepare("folder", roots[0], out=out, val_percent=percent)[1].samples == count
    for percent in (0.0, 100.0, float("nan")):
        with pytest.raises(ArgumentError, match="% for validation"):
            prepare("folder", roots[0], val_percent=percent)
    for index in range(1, 10):
        (roots[0] / "images" / f"{index}.jpg").unlink()
        (roots[0] / "labels" / f"{index}.png").unlink()
    with pytest.raises(DataError, match="one picture cannot be divided"):
        prepare("folder", roots[0], overwrite=True)


# What is missing


@pytest.mark.parametrize("name", TREES)
def test_half_a_pair_writes_nothing(name: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "data")
    line = WANT[name][1].split("\t")[1]
    (root / line).unlink()
    with pytest.raises(DataError, match="have no label map, the first is "):
        prepare(name, root)
    assert not list(root.glob("*.txt"))


@pytest.mark.parametrize("name", ["cityscapes", "voc", "ade20k", "camvid"])
@pytest.mark.parametrize("given", ["too high", "too low"])
def test_a_root_that_is_off(name: str, given: str, tmp_path: Path) -> None:
    root = TREES[name](tmp_path / "data")
    place = root.parent if given == "too high" else next(p for p in root.iterdir() if p.is_dir())
    before = listing(tmp_path)
    with pytest.raises(DataError, match=f"this is one level {given} for ") as caught:
        prepare(name, place)
    assert caught.value.fix == f"give {root.resolve()}"
    assert listing(tmp_path) == before


def test_names_that_no_list_can_hold(tmp_path: Path) -> None:
    for name in ("a\tb", "a\nb", os.fsdecode(b"\xe4")):
        root = tmp_path / f"root{len(list(tmp_path.iterdir()))}"
        own_tree(root)
        write_picture(root / "train" / "images" / f"{name}.jpg")
        write_map(root / "train" / "labels" / f"{name}.png", sbd_mask(0))
        with pytest.raises(DataError, match="no list can hold this name") as caught:
            prepare("folder", root)
        str(caught.value).encode()
        assert not list(root.glob("*.txt"))


def test_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    root = own_tree(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot create the folder"):
        prepare("folder", root, out=tmp_path / "file" / "lists")
    (root / "val.txt").mkdir()
    with pytest.raises(DataError, match=r"val\.txt: is a folder"):
        prepare("folder", root)
    assert not (root / "train.txt").exists()
    with pytest.raises(ArgumentError, match="no data set 'coco'; known are cityscapes, voc"):
        prepare("coco", root)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_tree(tmp_path)
    for state in ("", ", unchanged"):
        assert main(["prepare", "folder", "--root", str(root)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{root}/train.txt: 2 pairs{state}",
            f"{root}/val.txt: 2 pairs{state}",
            f"{root}/test.txt: 1 pictures without labels{state}",
        ]
    assert main(["prepare", "voc", "--root", str(root)]) == DataError.exit_code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("torchseg-zoo: DataError: ")
    assert "give the folder that holds JPEGImages" in err
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "imagenet", "--root", str(root)])
    assert ended.value.code == 2
