"""``data.datasets.hf``: tables of the ``datasets`` library, built here and read through it."""

from __future__ import annotations

import builtins
import io
import json
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from pictures import photo
from PIL import Image
from trees import values_of

from torchseg_zoo.data.datasets import hugging_face, open_dataset
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import ArgumentError, DataError, MissingExtraError

NAMES = ["sky", "road", "tree"]
VALUES = [0, 1, 2, 255]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither network nor the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format="PNG")
    return stream.getvalue()


def pictures(count: int = 2) -> list[dict[str, bytes]]:
    return [{"bytes": png(photo(6, 8, seed))} for seed in range(count)]


def maps(count: int = 2) -> list[dict[str, bytes]]:
    return [{"bytes": png(values_of(seed, VALUES))} for seed in range(count)]


def saved(
    root: Path, columns: dict[str, tuple[Any, list[Any]]], split: str | None = "train"
) -> str:
    features = datasets.Features({name: kind for name, (kind, _) in columns.items()})
    table = datasets.Dataset.from_dict(
        {name: values for name, (_, values) in columns.items()}, features=features
    )
    place = root / "table"
    (datasets.DatasetDict({split: table}) if split else table).save_to_disk(str(place))
    return str(place)


def assert_samples(dataset: Any, count: int = 2) -> None:
    assert len(dataset) == count
    for index in range(count):
        sample = dataset[index]
        assert sample.name.endswith(f"[{index}]")
        np.testing.assert_array_equal(sample.image, photo(6, 8, index))
        np.testing.assert_array_equal(sample.label, values_of(index, VALUES))


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("image", "label"), ("pixel_values", "annotation"), ("Image", "Mask"),
        ("photo_of_it", "segmentation_mask"), ("img", "anything"),
    ],
)  # fmt: skip
def test_columns_are_guessed(tmp_path: Path, image: str, label: str) -> None:
    kind = datasets.Image()
    columns = {
        "id": (datasets.Value("int64"), [1, 2]), label: (kind, maps()), image: (kind, pictures()),
    }  # fmt: skip
    assert_samples(open_dataset(f"hf:{saved(tmp_path, columns)}", "train", generic_labels(3)))


@pytest.mark.parametrize("kind", ["Array2D", "List"])
def test_class_names_inside_rows_of_numbers(tmp_path: Path, kind: str) -> None:
    names = datasets.ClassLabel(names=NAMES)
    feature = {
        "Array2D": datasets.Array2D((6, 8), "uint8"),
        "List": datasets.List(datasets.List(names)),
    }[kind]
    # ClassLabel refuses 255, the ignore index.
    values = [0, 1, 2]
    rows = [values_of(seed, values).tolist() for seed in range(2)]
    source = saved(tmp_path, {"image": (datasets.Image(), pictures()), "label": (feature, rows)})
    dataset = hugging_face(source, "train", generic_labels(5))
    assert dataset.labels.classes == (tuple(NAMES) if kind == "List" else generic_labels(5).classes)
    np.testing.assert_array_equal(dataset[1].label, values_of(1, values))


def test_class_names_of_a_column_that_lists_classes(tmp_path: Path) -> None:
    columns: dict[str, tuple[Any, list[Any]]] = {
        "image": (datasets.Image(), pictures()),
        "mask": (datasets.Image(), maps()),
        "present": (datasets.List(datasets.ClassLabel(names=NAMES)), [[0, 1], [2]]),
        # What a whole picture shows does not name its pixels.
        "scene": (datasets.ClassLabel(names=["in", "out"]), [0, 1]),
    }
    dataset = hugging_face(saved(tmp_path, columns), "train")
    assert dataset.labels.classes == tuple(NAMES)
    assert_samples(dataset)


def test_a_benchmark_keeps_its_raw_values(tmp_path: Path) -> None:
    raw = values_of(0, [0, 1, 150])
    columns = {
        "image": (datasets.Image(), pictures(1)),
        "annotation": (datasets.Image(), [{"bytes": png(raw)}]),
        "scene_category": (datasets.ClassLabel(names=["kitchen"]), [0]),
    }
    label = hugging_face(saved(tmp_path, columns), "train", LABEL_SETS["ade20k"])[0].label
    assert label is not None and sorted(set(label.ravel().tolist())) == [0, 149, 255]


def test_splits_by_any_of_their_names(tmp_path: Path) -> None:
    columns = {"image": (datasets.Image(), pictures()), "label": (datasets.Image(), maps())}
    source = saved(tmp_path, columns, "validation")
    assert_samples(hugging_face(source, "val", generic_labels(3)))
    with pytest.raises(DataError, match="found no split 'train'; it has validation"):
        hugging_face(source, "train", generic_labels(3))


def test_one_table_and_a_folder_of_parquet(tmp_path: Path) -> None:
    columns = {"image": (datasets.Image(), pictures()), "label": (datasets.Image(), maps())}
    source = saved(tmp_path, columns, None)
    assert_samples(hugging_face(source, "train", generic_labels(3)))
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    datasets.load_from_disk(source).to_parquet(str(parquet / "train-00000.parquet"))
    assert_samples(hugging_face(str(parquet), "train", generic_labels(3)))


def test_a_folder_of_files_with_their_list_also_in_another_process(tmp_path: Path) -> None:
    lines = []
    (tmp_path / "train").mkdir()
    for index in range(2):
        (tmp_path / "train" / f"{index}.png").write_bytes(pictures()[index]["bytes"])
        (tmp_path / "train" / f"{index}_mask.png").write_bytes(maps()[index]["bytes"])
        lines.append({"image_file_name": f"{index}.png", "mask_file_name": f"{index}_mask.png"})
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = hugging_face(str(tmp_path), "train", generic_labels(3))
    assert_samples(dataset)
    assert_samples(pickle.loads(pickle.dumps(dataset)))  # as workers that prepare samples get it


def test_pictures_without_labels(tmp_path: Path) -> None:
    source = saved(tmp_path, {"image": (datasets.Image(), pictures())})
    assert hugging_face(source, "train", generic_labels(3))[0].label is None


def test_what_cannot_be_guessed_names_the_columns(tmp_path: Path) -> None:
    kind = datasets.Image()
    columns = {name: (kind, pictures()) for name in ("left", "right", "label")}
    source = saved(tmp_path, columns)
    with pytest.raises(
        ArgumentError, match=r"which column holds the pictures \(columns: left \(Im"
    ):
        hugging_face(source, "train", generic_labels(3))
    with pytest.raises(ArgumentError, match="no column 'middle' of pictures"):
        hugging_face(source, "train", generic_labels(3), image="middle")
    with pytest.raises(ArgumentError, match="no column 'x' of label maps"):
        hugging_face(source, "train", generic_labels(3), image="left", label="x")
    with pytest.raises(ArgumentError, match="does not tell how many classes"):
        hugging_face(source, "train", image="left")
    columns = {name: (kind, pictures()) for name in ("image", "one", "other")}
    source = saved(tmp_path / "second", columns)
    with pytest.raises(ArgumentError, match="which column holds the label maps"):
        hugging_face(source, "train", generic_labels(3))
    assert hugging_face(source, "train", generic_labels(3), label="one").labels.num_classes == 3


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        ({"bytes": png(np.zeros((5, 8), np.uint8))}, r"\[0\] label: labels are 5×8, the picture"),
        ({"bytes": png(np.full((6, 8), 3, np.uint8))}, r"\[0\] label: pixel \(0, 0\) = 3, allowed"),
        ({"bytes": png(photo(6, 8))}, r"\[0\] label: the label map holds colours"),
        ({"bytes": b"no picture"}, r"\[0\] label: "),
        (None, r"\[0\] label: there is no picture in this row"),
    ],
)
def test_bad_rows_name_table_row_and_column(tmp_path: Path, mask: Any, match: str) -> None:
    columns = {"image": (datasets.Image(), pictures(1)), "label": (datasets.Image(), [mask])}
    dataset = hugging_face(saved(tmp_path, columns), "train", generic_labels(3))
    with pytest.raises(DataError, match=match):
        dataset[0]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([[0, 1], [2]], "not a label map"),
        ([], "not a label map"),
        ([[0, 256]], "run from 0 to 256, allowed are 0–255"),
        ([[-1, 0]], "run from -1 to 0"),
    ],
)
def test_rows_of_numbers_that_are_no_map(tmp_path: Path, rows: Any, match: str) -> None:
    kind = datasets.List(datasets.List(datasets.Value("int32")))
    columns = {"image": (datasets.Image(), pictures(1)), "label": (kind, [rows])}
    dataset = hugging_face(saved(tmp_path, columns), "train", generic_labels(3))
    with pytest.raises(DataError, match=match):
        dataset[0]


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    for source in ("nobody/nothing", "nobody/nothing:config", str(tmp_path / "nowhere")):
        with pytest.raises(DataError, match="the data set cannot be opened"):
            hugging_face(source, "train", generic_labels(3))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "state.json").write_text("{")
    with pytest.raises(DataError, match="the data set cannot be opened"):
        hugging_face(str(broken), "train", generic_labels(3))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"hf:a/b: .*torchseg-zoo\[hf\]"):
        open_dataset("hf:a/b", "train", None)
