"""``data.datasets.classes``: names and colours in a file beside one's own pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trees import values_of, write_map, write_picture

from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.data.datasets.classes import read_classes
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import ArgumentError, DataError


def written(root: Path, text: str | bytes, name: str = "classes.txt") -> Path:
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_names_and_colours_as_people_write_them(tmp_path: Path) -> None:
    labels = read_classes(written(tmp_path, "\ufeffsky\t#0000FF\r\n\r\nwet road\r\nÄste\tff8000"))
    assert labels.classes == ("sky", "wet road", "Äste")
    spare = generic_labels(3).palette
    assert labels.palette == ((0, 0, 255), spare[1], (255, 128, 0))
    assert (labels.name, labels.ignore_index, labels.raw_ids) == (tmp_path.name, 255, None)


def test_json_says_what_values_mean(tmp_path: Path) -> None:
    record = generic_labels(2).to_dict() | {"raw_ids": {"10": 0, "20": 1}}
    labels = read_classes(written(tmp_path, json.dumps(record), "classes.json"))
    assert labels.num_classes == 2 and labels.raw_ids == {10: 0, 20: 1}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"classes\.txt: the classes file is empty"),
        (" \n\t\n", "is empty"),
        (b"\xff\xfe\xe4", "cannot be read"),
        ("sky\nroad\nsky\n", "class 'sky' is there twice"),
        ("sky\nroad\tgreen\n", "class 2: 'green' is no colour; give it as rrggbb"),
        ("\n".join(map(str, range(256))), "256 classes; label maps hold at most 255"),
    ],
    ids=["empty", "blank", "bytes", "twice", "colour", "many"],
)
def test_files_that_cannot_be_used_say_why(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        read_classes(written(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '{"name": "a", "classes": ["a"], "palette": [[1, 2]]}', "nul"]
)
def test_json_that_is_no_label_set(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"classes\.json: the classes file cannot be read"):
        read_classes(written(tmp_path, text, "classes.json"))


def own_folder(root: Path, pattern: str) -> None:
    for index in range(2):
        write_picture(root / pattern.format("images") / f"{index}.jpg", index)
        label = values_of(index, [0, 1, 255])
        write_map(root / pattern.format("labels") / f"{index}.png", label)


@pytest.mark.parametrize("pattern", ["val/{}", "{}/val"])
@pytest.mark.parametrize("prefix", ["", "folder:"])
def test_a_folder_with_a_classes_file_needs_nothing_else(
    tmp_path: Path, pattern: str, prefix: str
) -> None:
    own_folder(tmp_path, pattern)
    with pytest.raises(ArgumentError, match=r"classes\.txt beside them.*\(--classes K\|FILE\)"):
        open_dataset(f"{prefix}{tmp_path}", "val", None)
    written(tmp_path, "sky\nroad\n")
    for labels in (None, generic_labels(5)):  # what the files mean is theirs to say
        dataset = open_dataset(f"{prefix}{tmp_path}", "val", labels)
        assert dataset.labels.classes == ("sky", "road") and len(dataset) == 2
        np.testing.assert_array_equal(dataset[1].label, values_of(1, [0, 1, 255]))
    write_map(tmp_path / pattern.format("labels") / "0.png", values_of(0, [0, 2]))
    with pytest.raises(DataError, match=r"0\.png: pixel .* = 2, allowed 0–1 or 255"):
        open_dataset(str(tmp_path), "val", None)[0]
    with pytest.raises(DataError, match="found no split 'train'"):
        open_dataset(str(tmp_path), "train", None)


def test_a_list_finds_the_classes_beside_it_or_in_its_root(tmp_path: Path) -> None:
    data, lists = tmp_path / "data", tmp_path / "lists"
    own_folder(data, "{}")
    lists.mkdir()
    (lists / "mine.txt").write_text("images/0.jpg\tlabels/0.png\n")
    written(data, "sky\nroad\n")
    dataset = open_dataset(str(lists / "mine.txt"), "val", None, root=data)
    assert dataset.labels.classes == ("sky", "road")
    written(lists, "a\nb\nc\n")
    assert open_dataset(str(lists / "mine.txt"), "val", None, root=data).labels.num_classes == 3
