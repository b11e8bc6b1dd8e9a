"""``data.datasets``: list files, folders, CamVid, and the word that names a data set."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from torchseg_zoo.data.datasets import (
    DrawnStreets,
    FileDataset,
    camvid,
    folder,
    list_file,
    open_dataset,
)
from torchseg_zoo.data.label_sets import CAMVID, CITYSCAPES
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.errors import ArgumentError, DataError

LABELS = generic_labels(3)


def write_pair(root: Path, image: str, label: str, *, seed: int = 0, values: int = 3) -> None:
    """A 6×8 picture and its label map, below ``root``."""
    for name in (image, label):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(6, 8, seed)).save(root / image)
    Image.fromarray(label_of(seed, values)).save(root / label)


def label_of(seed: int, values: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, (6, 8)).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index in range(3):
        write_pair(tmp_path, f"images/{index}.png", f"labels/{index}.png", seed=index)
    return tmp_path


def listed(root: Path, text: str | bytes) -> Path:
    path = root / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def assert_samples(dataset: FileDataset, seeds: list[int]) -> None:
    assert len(dataset) == len(seeds)
    for index, seed in enumerate(seeds):
        sample = dataset[index]
        np.testing.assert_array_equal(sample.image, photo(6, 8, seed))
        np.testing.assert_array_equal(sample.label, label_of(seed))


# List files


@pytest.mark.parametrize(
    "text",
    [
        "images/0.png\tlabels/0.png\nimages/2.png\tlabels/2.png\n",
        "images/0.png\tlabels/0.png\nimages/2.png\tlabels/2.png",
        "images/0.png\tlabels/0.png\r\nimages/2.png\tlabels/2.png\r\n",
        "\ufeffimages/0.png\tlabels/0.png\nimages/2.png\tlabels/2.png\n",
        "\n  \nimages/0.png\tlabels/0.png\n\t\n\nimages/2.png \t labels/2.png\n\n",
    ],
    ids=["plain", "no-end", "crlf", "bom", "blanks"],
)
def test_lists_are_read_as_people_write_them(root: Path, text: str) -> None:
    assert_samples(list_file(listed(root, text), LABELS), [0, 2])


def test_paths_start_from_the_list_or_from_root(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = listed(elsewhere, "images/1.png\tlabels/1.png\n")
    assert_samples(list_file(path, LABELS, root=root), [1])
    with pytest.raises(
        DataError, match=r"line 1: no file .*; correct the line, or give root= \(--root\)"
    ):
        list_file(path, LABELS)
    absolute = listed(elsewhere, f"{root}/images/1.png\t{root}/labels/1.png\n")
    assert_samples(list_file(absolute, LABELS), [1])


def test_a_list_of_pictures_alone_has_no_labels(root: Path) -> None:
    dataset = list_file(listed(root, "images/0.png\nimages/1.png\n"), LABELS)
    assert [sample.label for sample in (dataset[0], dataset[1])] == [None, None]
    assert dataset[1].name == str(root / "images/1.png")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "list.txt: the list is empty"),
        ("\n \r\n\t\n", "list.txt: the list is empty"),
        ("\ufeff", "list.txt: the list is empty"),
        ("images/0.png\tlabels/0.png\n\nimages/1.png\n", "line 3: expected image<TAB>label, got 1"),
        ("images/0.png\nimages/1.png\tlabels/1.png\n", "line 2: expected one image path, got 2"),
        ("images/0.png\tlabels/0.png\tx\n", "line 1: expected image<TAB>label, got 3 columns"),
        ("images/0.png\t\tlabels/0.png\n", "line 1: expected image<TAB>label, got 3 columns"),
        ("images/0.png labels/0.png\n", "line 1: no file .*images/0.png labels/0.png"),
        ("images/0.png\tlabels/0.png\n\n\nimages/9.png\tlabels/1.png\n", "line 4: no file .*9.png"),
        ("images/0.png\tlabels/\n", "line 1: no file"),
        ("images/0.png\ta\0b\n", "line 1: no file"),
        ("images/0.png\tlabels/\x0cq.png\nimages/9.png\tlabels/1.png\n", "line 1: no file"),
        (b"images/0.png\tlabels/\xe4.png\n", "not UTF-8"),
        ("images/0.png\tlabels/0.png\n".encode("utf-16"), "not UTF-8"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_used_say_where(root: Path, text: str | bytes, match: str) -> None:
    path = listed(root, text)
    with pytest.raises(DataError, match=match) as caught:
        list_file(path, LABELS)
    assert str(caught.value.where).startswith(str(path))
    assert caught.value.fix


def test_lists_that_are_no_files_are_refused_without_waiting(root: Path) -> None:
    os.mkfifo(root / "pipe.txt")
    for name, match in {
        "nowhere.txt": "no such file",
        "images": "a folder",
        "pipe.txt": "pipe",
    }.items():
        with pytest.raises(DataError, match=match):
            list_file(root / name, LABELS)


# Samples


def test_label_and_picture_of_different_size_name_both(root: Path) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(root / "labels/1.png")
    dataset = list_file(listed(root, "images/1.png\tlabels/1.png\n"), LABELS)
    with pytest.raises(
        DataError, match=r"labels/1.png: labels are 6×9, the picture .*images/1.png is 6×8"
    ):
        dataset[0]


def test_a_label_out_of_range_names_file_pixel_and_value(root: Path) -> None:
    label = label_of(0)
    label[2, 3] = 200
    Image.fromarray(label).save(root / "labels/0.png")
    dataset = list_file(listed(root, "images/0.png\tlabels/0.png\n"), LABELS)
    with pytest.raises(DataError, match=r"pixel \(3, 2\) = 200, allowed 0–2 or 255") as caught:
        dataset[0]
    assert caught.value.where == str(root / "labels/0.png")


def test_raw_ids_are_mapped_before_values_are_checked(root: Path) -> None:
    raw = np.full((6, 8), 7, np.uint8)
    raw[0] = 26
    raw[1] = 4
    Image.fromarray(raw).save(root / "labels/0.png")
    path = listed(root, "images/0.png\tlabels/0.png\n")
    label = list_file(path, CITYSCAPES)[0].label
    assert label is not None
    assert (label[0] == 13).all() and (label[1] == 255).all() and (label[2:] == 0).all()
    raw[3, 2] = 200
    Image.fromarray(raw).save(root / "labels/0.png")
    with pytest.raises(DataError, match=r"labels/0.png: pixel \(2, 3\) = 200, allowed 0–33 or 255"):
        list_file(path, CITYSCAPES)[0]
    own = dataclasses.replace(CITYSCAPES, raw_ids={200: 0})
    label = list_file(path, own)[0].label
    assert label is not None and label[3, 2] == 0 and (label == 255).sum() == 47


def test_a_turned_photo_and_its_unturned_label_do_not_fit(root: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(photo(6, 8)).save(root / "images/0.png", exif=exif)
    dataset = list_file(listed(root, "images/0.png\tlabels/0.png\n"), LABELS)
    with pytest.raises(DataError, match=r"labels are 6×8, the picture .* is 8×6"):
        dataset[0]


# Folders


def test_a_folder_pairs_by_name(root: Path) -> None:
    (root / "images/1.png").rename(root / "images/1.jpeg")
    Image.fromarray(label_of(7)).save(root / "labels/extra.png")
    dataset = folder(root / "images", root / "labels", LABELS)
    assert_samples(dataset, [0, 1, 2])
    assert folder(root / "images", None, LABELS)[0].label is None


def test_a_folder_with_a_missing_label_map_counts_and_names(root: Path) -> None:
    (root / "labels/1.png").unlink()
    (root / "labels/2.png").unlink()
    with pytest.raises(DataError, match=r"2 of 3 pictures have no label map, the first is 1\.png"):
        folder(root / "images", root / "labels", LABELS)
    with pytest.raises(DataError, match="no such folder"):
        folder(root / "images", root / "nowhere", LABELS)


# CamVid


def tutorial(root: Path, *, split: str = "val") -> Path:
    """CamVid's layout as the SegNet tutorial has it, label 11 for what has no class."""
    for index in range(2):
        write_pair(root, f"{split}/{index}.png", f"{split}annot/{index}.png", seed=index, values=12)
    (root / f"{split}.txt").write_text(
        "".join(
            f"/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png\n" for i in (0, 1)
        )
    )
    return root


@pytest.mark.parametrize("with_list", [False, True])
def test_camvid_in_either_layout(tmp_path: Path, with_list: bool) -> None:
    tutorial(tmp_path)
    if with_list:
        (tmp_path / "val.txt").write_text("val/1.png\tvalannot/1.png\nval/0.png\tvalannot/0.png\n")
    dataset = camvid(tmp_path, "val")
    assert dataset.labels is CAMVID
    assert len(dataset) == 2
    for index, seed in enumerate((1, 0) if with_list else (0, 1)):
        raw = label_of(seed, 12)
        assert (raw == 11).any()
        np.testing.assert_array_equal(dataset[index].label, np.where(raw == 11, 255, raw))


def test_camvid_without_the_split(tmp_path: Path) -> None:
    tutorial(tmp_path)
    with pytest.raises(DataError, match=r"no split 'test': neither test\.txt nor a folder test/"):
        camvid(tmp_path, "test")


def test_camvid_with_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tutorial(tmp_path) / "val.txt").write_bytes(b"\xff\xfe\x00\t\xe4")
    with pytest.raises(DataError, match="not UTF-8"):
        camvid(tmp_path, "val")


# What --data names


def test_the_word_drawn_has_splits_that_share_no_scene() -> None:
    scenes = {}
    for split, length in {"train": 1000, "val": 100, "test": 100}.items():
        dataset = open_dataset("drawn", split, None)
        assert isinstance(dataset, DrawnStreets) and len(dataset) == length
        scenes[split] = dataset[0].image.tobytes()
    assert len(set(scenes.values())) == 3
    with pytest.raises(ArgumentError, match=r"no split 'valid'.*train, val or test"):
        open_dataset("drawn", "valid", None)


def test_every_layout_is_found_by_its_path(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    listed(root, "images/0.png\tlabels/0.png\n")
    (root / "list.txt").rename(root / "val.txt")
    for spec in (root / "val.txt", root):
        dataset = open_dataset(str(spec), "val", LABELS)
        assert isinstance(dataset, FileDataset) and dataset.labels is LABELS
        assert_samples(dataset, [0])
    other = tmp_path_factory.mktemp("other")
    write_pair(other, "val/images/a.png", "val/labels/a.png", seed=5)
    assert_samples(open_dataset(str(other), "val", LABELS), [5])  # type: ignore[arg-type]
    camvid_root = tutorial(tmp_path_factory.mktemp("camvid"))
    assert open_dataset(str(camvid_root), "val", LABELS).labels is CAMVID
    assert open_dataset(str(camvid_root), "val", None).labels is CAMVID


def test_what_data_cannot_be(root: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(str(root / "nowhere"), "val", LABELS)
    with pytest.raises(DataError, match=r"found no split 'val'; expected val\.txt"):
        open_dataset(str(root), "val", LABELS)
    os.mkfifo(root / "pipe")
    with pytest.raises(DataError, match="named pipe"):
        open_dataset(str(root / "pipe"), "val", LABELS)
    with pytest.raises(ArgumentError, match="how many classes"):
        open_dataset(str(listed(root, "images/0.png\tlabels/0.png\n")), "val", None)


def test_the_ignore_index_of_a_label_set_is_allowed(root: Path) -> None:
    labels = LabelSet("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), ignore_index=77)
    label = label_of(0)
    label[0, 0] = 77
    Image.fromarray(label).save(root / "labels/0.png")
    path = listed(root, "images/0.png\tlabels/0.png\n")
    assert list_file(path, labels)[0].label is not None
    with pytest.raises(DataError, match=r"= 77, allowed 0–2 or 255"):
        list_file(path, LABELS)[0]
