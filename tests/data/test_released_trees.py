"""``data.datasets.released``: benchmarks read from the trees that their archives unpack to."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from trees import (
    SBD_ONLY,
    VOC_TRAIN,
    VOC_VAL,
    ade20k_tree,
    camvid_tree,
    cityscapes_tree,
    coco_10k_tree,
    coco_164k_tree,
    sbd_mask,
    sbd_tree,
    train_ids_of,
    values_of,
    voc_tree,
    write_map,
    write_picture,
)

from torchseg_zoo.data.datasets import FileDataset, is_list, list_file, open_dataset
from torchseg_zoo.data.datasets.mat import read_mat_label
from torchseg_zoo.data.label_sets import CITYSCAPES, LABEL_SETS
from torchseg_zoo.errors import ArgumentError, DataError, MissingExtraError

PALETTE = LABEL_SETS["voc"].palette_array()


def opened(spec: object, split: str = "train") -> FileDataset:
    dataset = open_dataset(str(spec), split, None)
    assert isinstance(dataset, FileDataset)
    return dataset


def labels_of(dataset: FileDataset) -> list[np.ndarray]:
    found = [dataset[index].label for index in range(len(dataset))]
    assert all(label is not None for label in found)
    return found  # type: ignore[return-value]


def names_of(dataset: FileDataset) -> list[str]:
    return [image.name.split(".")[0] for image, _ in dataset.pairs]


# Cityscapes


@pytest.mark.parametrize("train_ids", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_cityscapes_as_released(tmp_path: Path, train_ids: bool, named: bool) -> None:
    cityscapes_tree(tmp_path, train_ids=train_ids)
    dataset = opened(f"cityscapes:{tmp_path}" if named else tmp_path)
    assert names_of(dataset) == [
        "aachen_000000_000019_leftImg8bit",
        "ulm_000001_000019_leftImg8bit",
    ]
    ending = "_labelTrainIds.png" if train_ids else "_labelIds.png"
    assert all(str(label).endswith(ending) for _, label in dataset.pairs)
    for seed, label in enumerate(labels_of(dataset)):
        raw = values_of(seed, [0, 4, 7, 8, 26, 33])
        np.testing.assert_array_equal(label, train_ids_of(raw))
    test = opened(f"cityscapes:{tmp_path}", "test")
    assert [one.label for one in (test[0],)] == [None]


def test_some_train_ids_only_are_not_taken(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path, train_ids=True)
    next(tmp_path.glob("gtFine/train/ulm/*_labelTrainIds.png")).unlink()
    dataset = opened(f"cityscapes:{tmp_path}")
    assert all(str(label).endswith("_labelIds.png") for _, label in dataset.pairs)
    assert labels_of(dataset)[1].min() == 0


def test_the_coarse_annotations(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path, truth="gtCoarse")
    dataset = opened(f"cityscapes_coarse:{tmp_path}")
    assert all("gtCoarse" in str(label) for _, label in dataset.pairs) and len(dataset) == 2
    with pytest.raises(DataError, match=r"train_extra: no such folder; put .*_trainextra\.zip"):
        opened(f"cityscapes_coarse:{tmp_path}", "train_extra")
    with pytest.raises(DataError, match="not the folder of Cityscapes: there is no gtFine"):
        opened(f"cityscapes:{tmp_path}")


@pytest.mark.parametrize("labels", [None, CITYSCAPES])
def test_the_list_of_train_ids(tmp_path: Path, labels: Any) -> None:
    cityscapes_tree(tmp_path, train_ids=True)
    stem = "lindau/lindau_000000_000019"
    line = f"leftImg8bit/val/{stem}_leftImg8bit.png\tgtFine/val/{stem}_gtFine_label{{}}.png\n"
    want = train_ids_of(values_of(0, [0, 4, 7, 8, 26, 33]))
    (tmp_path / "val.txt").write_text(line.format("TrainIds"))
    (tmp_path / "ids.txt").write_text(line.format("Ids"))
    (tmp_path / "both.txt").write_text(line.format("Ids") + line.format("TrainIds"))
    for name in ("val.txt", "ids.txt"):
        dataset = open_dataset(f"cityscapes:{tmp_path}/{name}", "val", labels)
        np.testing.assert_array_equal(dataset[0].label, want)
        np.testing.assert_array_equal(list_file(tmp_path / name, CITYSCAPES)[0].label, want)
    with pytest.raises(DataError, match=r"both\.txt: .*Ids\.png holds label ids, .*train ids"):
        list_file(tmp_path / "both.txt", CITYSCAPES)
    # A folder that holds lists and no released tree.
    (tmp_path / "leftImg8bit").rename(tmp_path / "pictures")
    text = (tmp_path / "val.txt").read_text().replace("leftImg8bit/", "pictures/")
    (tmp_path / "val.txt").write_text(text)
    np.testing.assert_array_equal(opened(f"cityscapes:{tmp_path}", "val")[0].label, want)


@pytest.mark.parametrize("half", ["picture", "label map"])
def test_half_a_pair_is_counted_and_named(tmp_path: Path, half: str) -> None:
    cityscapes_tree(tmp_path)
    folder = "gtFine" if half == "label map" else "leftImg8bit"
    for path in (tmp_path / folder / "train" / "ulm").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=f"1 of 2 .* have no {half}, the first is ulm_000001"):
        opened(f"cityscapes:{tmp_path}")


@pytest.mark.parametrize(
    ("given", "level"),
    [
        ("..", "one level too high"), ("../..", "two levels too high"),
        ("gtFine", "one level too low"), ("gtFine/train", "two levels too low"),
    ],
)  # fmt: skip
def test_a_root_that_is_off_names_the_right_one(tmp_path: Path, given: str, level: str) -> None:
    root = cityscapes_tree(tmp_path / "a" / "cityscapes")
    with pytest.raises(DataError, match=f"this is {level} for Cityscapes; give ") as caught:
        opened(f"cityscapes:{root / given}")
    assert caught.value.fix == f"give {root.resolve()}"


def test_roots_that_are_nothing_of_the_kind(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("\0")
    with pytest.raises(
        DataError, match=r"no such folder; give the folder of Cityscapes, with leftImg8"
    ):
        opened(f"cityscapes:{tmp_path}/nowhere")
    with pytest.raises(DataError, match=r"is no leftImg8bit, gtFine; give the folder that holds"):
        opened(f"cityscapes:{tmp_path}/other")
    with pytest.raises(ArgumentError, match="no path after voc:"):
        opened("voc:")
    with pytest.raises(ArgumentError, match=r"no split 'valid'; use train or val or test"):
        opened(f"cityscapes:{cityscapes_tree(tmp_path / 'c')}", "valid")
    with pytest.raises(DataError, match=r"NAME:PATH with one of cityscapes, .*voc_aug"):
        opened(f"citiscapes:{tmp_path}")


def test_an_empty_split_says_what_to_put_there(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path)
    for path in (tmp_path / "leftImg8bit" / "val" / "lindau").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"val: no file here ends in .*leftImg8bit_trainvaltest"):
        opened(f"cityscapes:{tmp_path}", "val")


def test_values_that_no_label_file_holds(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path)
    path = next(tmp_path.glob("gtFine/val/lindau/*_labelIds.png"))
    label = np.asarray(Image.open(path)).copy()
    label[2, 5] = 99
    write_map(path, label)
    with pytest.raises(
        DataError, match=r"_labelIds\.png: pixel \(5, 2\) = 99, allowed 0–33 or 255"
    ):
        opened(f"cityscapes:{tmp_path}", "val")[0]


# PASCAL VOC


def test_voc_splits(tmp_path: Path) -> None:
    voc_tree(tmp_path, PALETTE)
    for split, names in {
        "train": VOC_TRAIN,
        "val": VOC_VAL,
        "trainval": VOC_TRAIN + VOC_VAL,
    }.items():
        for spec in (tmp_path, f"voc:{tmp_path}"):
            assert names_of(opened(spec, split)) == names
    label = labels_of(opened(f"voc:{tmp_path}", "val"))[0]
    np.testing.assert_array_equal(label, values_of(2, [0, 1, 20, 255]))
    test = opened(f"voc:{tmp_path}", "test")
    assert names_of(test) == ["2008_000006"] and test[0].label is None


@pytest.mark.parametrize("form", ["mat", "png"])
@pytest.mark.parametrize("pictures", [True, False])
def test_voc_with_sbd(tmp_path: Path, form: str, pictures: bool) -> None:
    root = voc_tree(tmp_path / "VOC2012", PALETTE)
    if form == "mat":
        sbd_tree(root / "SBD", pictures=pictures)
    else:
        for seed, name in enumerate([*SBD_ONLY, VOC_TRAIN[0], VOC_VAL[0]]):
            write_map(root / "SegmentationClassAug" / f"{name}.png", sbd_mask(seed))
    if form == "mat" and pictures:
        (root / "JPEGImages" / f"{SBD_ONLY[0]}.jpg").unlink()  # SBD has it, too
    dataset = opened(f"voc_aug:{root}", "train")
    # Neither the validation picture, nor the training picture a second time.
    assert names_of(dataset) == VOC_TRAIN + SBD_ONLY
    assert names_of(opened(f"voc:{root}", "train_aug")) == names_of(dataset)
    assert names_of(opened(f"voc_aug:{root}", "val")) == VOC_VAL
    want = [values_of(seed, [0, 1, 20, 255]) for seed in (0, 1)] + [sbd_mask(0), sbd_mask(1)]
    for label, expected in zip(labels_of(dataset), want, strict=True):
        np.testing.assert_array_equal(label, expected)


def test_what_voc_lacks_is_said(tmp_path: Path) -> None:
    root = voc_tree(tmp_path / "VOCdevkit" / "VOC2012", PALETTE)
    with pytest.raises(DataError, match=r"found no masks of SBD; put SBD .* SBD/dataset/cls"):
        opened(f"voc_aug:{root}")
    with pytest.raises(DataError, match=r"one level too high for PASCAL VOC; give .*VOC2012"):
        opened(f"voc:{tmp_path}/VOCdevkit")
    with pytest.raises(DataError, match=r"two levels too low for PASCAL VOC; give .*VOC2012"):
        opened(f"voc:{root}/ImageSets/Segmentation")
    sbd_tree(root / "SBD", pictures=False)
    (root / "JPEGImages" / f"{SBD_ONLY[1]}.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 label maps have no picture, .*2008_000003\.mat"):
        opened(f"voc_aug:{root}")
    (root / "SegmentationClass" / f"{VOC_TRAIN[1]}.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 pictures have no label map, .*2007_000039\.jpg"):
        opened(f"voc:{root}")
    (root / "JPEGImages" / f"{VOC_TRAIN[0]}.jpg").unlink()
    with pytest.raises(DataError, match=r"JPEGImages: no picture 2007_000032\.jpg; put the pic"):
        opened(f"voc:{root}")
    sets = root / "ImageSets" / "Segmentation"
    for text, match in {
        "": "val.txt: the image set is empty; put the ImageSets",
        "a\na\n": "a is there twice",
        "../x\n": "../x is no picture's name",
    }.items():
        (sets / "val.txt").write_text(text)
        with pytest.raises(DataError, match=match):
            opened(f"voc:{root}", "val")
    (sets / "val.txt").write_bytes(b"\xff\xfe\xe4")
    with pytest.raises(DataError, match="image set is not text"):
        opened(f"voc:{root}", "val")
    (sets / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt: no such file; put the ImageSets of VOCtrain"):
        opened(f"voc:{root}", "val")


# MATLAB files


def test_matlab_files_that_hold_no_label_map(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    for content, match in (
        (b"", "not a MATLAB file"),
        (b"MATLAB 5.0 MAT-file" + b"\xff" * 200, "not a MATLAB file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "not a MATLAB file"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=match) as caught:
            read_mat_label(path)
        assert caught.value.where == str(path)
    for record, match in (
        ({"other": np.zeros((2, 2))}, "no label map in this MATLAB file"),
        ({"S": np.zeros((2, 2, 2), np.uint8)}, "no label map"),
        ({"S": np.full((2, 2), 0.5)}, "no label map"),
        ({"S": np.full((2, 2), np.nan)}, "no label map"),
        ({"GTcls": {"Boundaries": np.zeros((2, 2))}}, "no label map"),
        ({"S": np.full((2, 2), 300)}, "run from 300 to 300, allowed are 0–255"),
        ({"S": np.full((2, 2), -1)}, "run from -1 to -1"),
    ):
        savemat(path, record)
        with pytest.raises(DataError, match=match):
            read_mat_label(path)
    savemat(path, {"S": np.full((2, 3), 182.0)})
    assert read_mat_label(path).tolist() == [[182] * 3] * 2
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match="MATLAB file"):
            read_mat_label(path)


def test_matlab_files_without_scipy_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"x\.mat: .*torchseg-zoo\[mat\]"):
        read_mat_label(tmp_path / "x.mat")


# ADE20K and COCO-Stuff


def test_ade20k_is_lowered_by_one(tmp_path: Path) -> None:
    root = ade20k_tree(tmp_path / "ADEChallengeData2016")
    for spec in (root, f"ade20k:{root}"):
        dataset = opened(spec, "val")
        assert names_of(dataset) == ["ADE_val_00000001", "ADE_val_00000002"]
        raw = values_of(0, [0, 1, 21, 150]).astype(int)
        np.testing.assert_array_equal(labels_of(dataset)[0], np.where(raw == 0, 255, raw - 1))
    assert opened(f"ade20k:{root}", "test")[0].label is None
    with pytest.raises(DataError, match=r"one level too high for ADE20K; give .*Data2016"):
        opened(f"ade20k:{tmp_path}")
    with pytest.raises(DataError, match=r"one level too low for ADE20K; give .*Data2016"):
        opened(f"ade20k:{root}/images")
    label = values_of(0, [0, 1, 151])
    write_map(root / "annotations/validation/ADE_val_00000001.png", label)
    row, column = np.argwhere(label == 151)[0]
    match = rf"pixel \({column}, {row}\) = 151, allowed 0–150 or 255"
    with pytest.raises(DataError, match=match):
        opened(f"ade20k:{root}", "val")[0]
    (root / "annotations/training/ADE_train_00000002.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 pictures have no label map, .*00000002\.jpg"):
        opened(f"ade20k:{root}")
    (root / "images/training/ADE_train_00000002.jpg").unlink()
    assert len(opened(f"ade20k:{root}")) == 1
    (root / "images/training/ADE_train_00000001.jpg").unlink()
    with pytest.raises(
        DataError, match=r"1 of 1|no file here ends in \.jpg; put the pictures of A"
    ):
        opened(f"ade20k:{root}")


def folded(raw: np.ndarray, first: int) -> np.ndarray:
    """COCO's category numbers without the 11 that are not in use, from 0; the rest 255."""
    unused = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
    table = np.full(256, 255, np.uint8)
    position = 0
    for number in range(1, 183):
        if number not in unused:
            table[number - 1 + first] = position
            position += 1
    return table[raw]


@pytest.mark.parametrize("named", [False, True])
def test_coco_stuff_10k(tmp_path: Path, named: bool) -> None:
    coco_10k_tree(tmp_path)
    spec = f"coco_stuff10k:{tmp_path}" if named else tmp_path
    for split, number in (("train", 9), ("val", 25), ("test", 25)):
        (label,) = labels_of(opened(spec, split))
        raw = values_of(number, [0, 1, 11, 13, 92, 182])
        np.testing.assert_array_equal(label, folded(raw, 1))
        assert label[raw == 182].max() == 170 and label[raw == 0].min() == 255
    (tmp_path / "images" / "COCO_train2014_000000000025.jpg").unlink()
    with pytest.raises(
        DataError, match=r"1 of 1 pictures are missing, .*25\.jpg; put the pictures"
    ):
        opened(spec, "test")


@pytest.mark.parametrize(
    ("below", "maps"),
    [
        ("", "stuffthingmaps_trainval2017"),
        ("images", "annotations"),
        ("images", "stuffthingmaps_trainval2017"),
    ],
)
def test_coco_stuff_164k(tmp_path: Path, below: str, maps: str) -> None:
    coco_164k_tree(tmp_path, below=below, maps=maps)
    write_map(tmp_path / maps / "train2017" / "000000000009_labelTrainIds.png", sbd_mask(0))
    dataset = opened(f"coco_stuff164k:{tmp_path}", "train")
    (label,) = labels_of(dataset)
    raw = values_of(9, [0, 10, 12, 91, 181, 255])
    np.testing.assert_array_equal(label, folded(raw, 0))
    assert opened(f"coco_stuff164k:{tmp_path}", "test")[0].label is None
    write_picture(tmp_path / below / "train2017" / "000000000010.jpg")
    with pytest.raises(DataError, match=r"1 of 2 pictures have no label map, .*00010\.jpg"):
        opened(f"coco_stuff164k:{tmp_path}", "train")
    with pytest.raises(DataError, match="too low for COCO-Stuff 164k"):
        opened(f"coco_stuff164k:{tmp_path / maps}", "train")


# CamVid and the words


def test_camvid_by_name(tmp_path: Path) -> None:
    root = camvid_tree(tmp_path / "CamVid")
    dataset = opened(f"camvid:{root}", "val")
    raw = values_of(0, [0, 10, 11])
    np.testing.assert_array_equal(labels_of(dataset)[0], np.where(raw == 11, 255, raw))
    with pytest.raises(DataError, match=r"one level too high for CamVid; give .*CamVid"):
        opened(f"camvid:{tmp_path}", "val")
    write_map(root / "valannot/0016E5_00000.png", values_of(0, [0, 12]))
    with pytest.raises(DataError, match="= 12, allowed 0–11 or 255"):
        opened(f"camvid:{root}", "val")[0]
    (root / "mine.txt").write_text("val/0016E5_00001.png\tvalannot/0016E5_00001.png\n")
    assert len(opened(f"camvid:{root}/mine.txt", "val")) == 1


def test_what_is_one_split_only(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert is_list(f"voc:{tmp_path}/a.txt") and is_list(f"{tmp_path}/a.txt")
    assert not any(
        is_list(spec) for spec in (f"voc:{tmp_path}", str(tmp_path), "drawn", "hf:a.txt")
    )


def test_a_picture_that_is_there_twice(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path)
    (tmp_path / "loop").symlink_to("leftImg8bit")  # a link beside the data disturbs nothing
    assert len(opened(f"cityscapes:{tmp_path}")) == 2
    twice = tmp_path / "leftImg8bit/train/zurich/aachen_000000_000019_leftImg8bit.png"
    write_picture(twice)
    with pytest.raises(DataError, match=r"zurich/aachen.*: aachen.* is for the same picture"):
        opened(f"cityscapes:{tmp_path}")
