"""``data.check``: every planted fault is found and named, and nothing else; mappings read back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from torchseg_zoo.cli import main
from torchseg_zoo.data.check import check_data, quick_check
from torchseg_zoo.data.check.mapping import map_colors
from torchseg_zoo.data.class_weights import balanced_weights
from torchseg_zoo.data.datasets import FileDataset, open_dataset
from torchseg_zoo.data.datasets.classes import read_classes
from torchseg_zoo.data.label_sets import CITYSCAPES
from torchseg_zoo.data.labels import LabelSet, generic_labels
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.errors import ArgumentError, DataError

SIZE = (20, 30)
COLORS = ((255, 0, 0), (0, 200, 0), (10, 20, 250))
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[:3] = COLORS


def truth(seed: int, classes: int = 3) -> np.ndarray:
    """(20, 30) train ids in patches: all classes and an unlabelled corner."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, classes, (4, 6)).astype(np.uint8)
    patches.reshape(-1)[:classes] = np.arange(classes)
    label = patches.repeat(5, 0).repeat(5, 1)
    label[-2:, -2:] = 255
    return label


def save(label: np.ndarray, path: Path, *, palette: np.ndarray | None = None) -> None:
    picture = Image.fromarray(label)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(path)


def clean_set(root: Path) -> Path:
    """Six training and three validation samples, and nothing wrong with them."""
    for split, count, start in (("train", 6, 0), ("val", 3, 100)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for index in range(count):
            image = Image.fromarray(photo(*SIZE, start + index))
            image.save(root / split / "images" / f"{index}.png")
            save(truth(start + index), root / split / "labels" / f"{index}.png")
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


def splits_of(root: Path, **options: LabelSet | None) -> dict[str, Dataset]:
    labels = options.get("labels")
    return {name: open_dataset(str(root), name, None, classes=labels) for name in ("train", "val")}


# The faults, each planted into a clean set at train/…/2.*


def stray(root: Path) -> None:
    label = truth(2)
    label[3, 4:6] = 7
    save(label, root / "train/labels/2.png")


def painted(root: Path) -> None:
    label = truth(2)
    Image.fromarray(PALETTE[label]).save(root / "train/labels/2.png")


def other_size(root: Path) -> None:
    save(truth(2)[:-1], root / "train/labels/2.png")


def turned_photo(root: Path, orientation: int) -> None:
    """A photo whose EXIF tag turns it, beside the label map of the pixels as they are stored."""
    (root / "train/images/2.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(*SIZE, 2)).save(root / "train/images/2.jpg", exif=exif)


def cut_picture(root: Path) -> None:
    path = root / "train/images/2.png"
    path.write_bytes(path.read_bytes()[:-40])


def empty_label(root: Path) -> None:
    (root / "train/labels/2.png").write_bytes(b"")


def lossy_label(root: Path) -> None:
    (root / "train/labels/2.png").unlink()
    Image.fromarray(truth(2)).save(root / "train/labels/2.jpg")


def in_both_splits(root: Path) -> None:
    """The same pixels in other bytes."""
    (root / "val/images/1.png").unlink()
    Image.fromarray(photo(*SIZE, 2)).save(root / "val/images/1.bmp")


def twice(root: Path) -> None:
    Image.fromarray(photo(*SIZE, 0)).save(root / "train/images/2.png", compress_level=0)


def class_gone(root: Path) -> None:
    for path in (root / "train/labels").iterdir():
        label = np.asarray(Image.open(path)).copy()
        label[label == 2] = 0
        save(label, path)


def nothing_labelled(root: Path) -> None:
    save(np.full(SIZE, 255, np.uint8), root / "train/labels/2.png")


def shuffled_palette(root: Path) -> None:
    save(truth(1), root / "train/labels/1.png", palette=PALETTE)
    save(truth(2), root / "train/labels/2.png", palette=PALETTE[[1, 0, *range(2, 256)]])


def animated(root: Path) -> None:
    (root / "train/images/2.png").unlink()
    frames = [Image.fromarray(photo(*SIZE, seed)).convert("L") for seed in (2, 3)]
    frames[0].save(root / "train/images/2.gif", save_all=True, append_images=frames[1:])


FAULTS: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    "stray": (stray, "stray", "error", r"7 \(0.056 % of pixels\); allowed are 0–2 or 255"),
    "painted": (painted, "colors", "error", "1 label maps hold colours"),
    "size": (other_size, "size", "error", "1 label maps have another size"),
    "exif": (lambda root: turned_photo(root, 6), "exif", "error", "before their picture was turn"),
    "silent exif": (lambda root: turned_photo(root, 3), "exif", "warning", "sizes agree, so look"),
    "cut": (cut_picture, "unreadable", "error", "1 files cannot be used"),
    "empty": (empty_label, "unreadable", "error", "1 files cannot be used"),
    "lossy": (lossy_label, "unreadable", "error", "1 files cannot be used"),
    "leak": (in_both_splits, "duplicates", "warning", "1 of its 3 pictures are in train"),
    "repeated": (twice, "repeated", "warning", "1 pictures repeat others"),
    "unused": (class_gone, "unused", "warning", "no pixel has 1 of 3 classes: car"),
    "unlabelled": (nothing_labelled, "unlabelled", "warning", "1 label maps have no pixel of any"),
    "palette": (shuffled_palette, "palette", "warning", "in 1 label maps a number has another"),
    "remark": (animated, "remark", "warning", "reading 1 files gave a warning"),
}


def test_nothing_is_found_in_a_clean_set(tmp_path: Path) -> None:
    report = check_data(splits_of(clean_set(tmp_path)))
    assert report.findings == () and report.exit_code == 0 and report.proposal is None
    assert "nothing found" in report.text()
    labels = np.stack([truth(seed) for seed in (*range(6), 100, 101, 102)])
    assert report.counts[[0, 1, 2, 255]].tolist() == [
        int((labels == value).sum()) for value in (0, 1, 2, 255)
    ]
    assert report.maps[[0, 1, 2, 255]].tolist() == [9, 9, 9, 9]
    train = np.bincount(labels[:6].ravel(), minlength=256)[:3]
    assert report.class_weights() == pytest.approx(balanced_weights(train).tolist(), rel=1e-3)
    record = json.loads(json.dumps(report.to_dict()))
    assert [one["name"] for one in record["classes"]] == ["sky", "road", "car"]
    assert record["ignored_percent"] == pytest.approx(100 * 4 / 600, abs=1e-3)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(tmp_path: Path, name: str) -> None:
    plant, kind, severity, what = FAULTS[name]
    plant(clean_set(tmp_path))
    report = check_data(splits_of(tmp_path))
    assert [(one.kind, one.severity) for one in report.findings] == [(kind, severity)]
    (finding,) = report.findings
    assert finding.fix
    assert re.search(what, finding.what)
    if kind != "unused":
        assert finding.num_files == 1 and re.search(r"[12]\.\w+", finding.files[0])
    assert report.exit_code == (18 if severity == "error" else 1)


def test_all_faults_at_once_by_processes_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each fault has a sample of its own; what one would hide stays visible in others."""
    root = clean_set(tmp_path / "set")
    for index, name in enumerate(FAULTS):
        if name in ("leak", "unused", "palette"):
            continue
        one = clean_set(tmp_path / name)
        FAULTS[name][0](one)
        for kind in ("images", "labels"):
            (source,) = (one / "train" / kind).glob("2.*")
            target = root / "train" / kind / f"{name}{index}{source.suffix}"
            target.write_bytes(source.read_bytes())
    in_both_splits(root)
    shuffled_palette(root)
    (root / "classes.txt").write_text("sky\nroad\ncar\nriver\n")
    report = check_data(splits_of(root))
    kinds = {one.kind for one in report.findings}
    assert kinds == {kind for _, kind, _, _ in FAULTS.values()}

    arguments = [
        "check-data",
        "--data",
        str(root),
        "--workers",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--save-json", str(tmp_path / "report.json")]) == 18
    shown = capsys.readouterr().out
    for finding in report.findings:
        assert finding.what in shown
    record = json.loads((tmp_path / "report.json").read_text())
    assert record == json.loads((tmp_path / "out/report.json").read_text())
    assert record == json.loads(json.dumps(report.to_dict()))
    assert (tmp_path / "out/report.txt").read_text() in shown


# Mappings


@pytest.mark.parametrize("style", ["rgb", "palette", "named"])
def test_painted_label_maps_are_read_by_the_proposed_mapping(tmp_path: Path, style: str) -> None:
    root = clean_set(tmp_path)
    if style == "named":  # the classes file's colours decide, in whatever order they come
        order = (1, 2, 0)
        lines = ["sky\t#0a14fa\n", "road\t#ff0000\n", "car\t#00c800\n"]
        (root / "classes.txt").write_text("".join(lines))
    else:  # by the order of the colours
        order = (2, 0, 1)
    truths = {}
    for path in [*root.glob("*/labels/*.png")]:
        label = np.asarray(Image.open(path)).copy()
        label[label == 255] = 0
        truths[path] = np.array(order, np.uint8)[label]
        if style == "palette":  # every file numbers the colours as it likes
            numbers = np.roll(np.arange(3), int(path.stem))
            table = np.zeros((256, 3), np.uint8)
            table[numbers] = COLORS
            save(numbers[label].astype(np.uint8), path, palette=table)
        else:
            Image.fromarray(PALETTE[label]).save(path)
    report = check_data(splits_of(root))
    assert report.proposal is not None and report.exit_code != 0
    report.save(tmp_path / "out")
    labels = read_classes(tmp_path / "out/classes.json")
    assert labels.classes == ("sky", "road", "car")
    again = splits_of(root, labels=labels)
    for dataset in again.values():
        assert isinstance(dataset, FileDataset)
        for (_, path), sample in zip(dataset.pairs, dataset, strict=False):
            assert path is not None
            np.testing.assert_array_equal(sample.label, truths[path])
    second = check_data(again)
    assert second.findings == () and np.array_equal(second.counts, report.counts)


def test_a_colour_that_is_not_listed_is_named(tmp_path: Path) -> None:
    root = clean_set(tmp_path)
    colors = {color: index for index, color in enumerate(COLORS)} | {(0, 0, 0): 255}
    labels = LabelSet("own", ("a", "b", "c"), COLORS, raw_colors=colors)
    for path in root.glob("*/labels/*.png"):
        Image.fromarray(PALETTE[np.asarray(Image.open(path))]).save(path)
    assert check_data(splits_of(root, labels=labels)).findings == ()
    rgb = PALETTE[truth(2)]
    rgb[1, 2:4] = (255, 1, 0)
    Image.fromarray(rgb).save(root / "train/labels/2.png")
    splits = splits_of(root, labels=labels)
    with pytest.raises(DataError, match=r"2\.png: pixel \(2, 1\) has colour ff0100, which stands"):
        splits["train"][2]
    (finding,) = check_data(splits).findings
    assert finding.kind == "stray" and finding.files == (f"{root}/train/labels/2.png: ff0100",)


@pytest.mark.parametrize(
    ("classes", "stored", "words"),
    [
        (3, {0: 1, 1: 2, 2: 3, 255: 255}, "start at 1"),
        (3, {0: 0, 1: 127, 2: 254, 255: 255}, "as many values as classes"),
        (2, {0: 0, 1: 255}, "0 and 255"),
        (3, {0: 0, 1: 1, 2: 2, 255: 3}, "without a class are ignored"),
        (19, dict(zip(range(19), CITYSCAPES.raw_ids or (), strict=True)) | {255: 4}, "cityscapes"),
    ],
)
def test_values_are_read_by_the_proposed_mapping(
    tmp_path: Path, classes: int, stored: dict[int, int], words: str
) -> None:
    root = clean_set(tmp_path)
    (root / "classes.txt").unlink()
    table = np.zeros(256, np.uint8)
    table[list(stored)] = list(stored.values())
    truths = {}
    for seed, path in enumerate(root.glob("*/labels/*.png")):
        truths[path] = truth(seed, classes)
        if 255 not in stored:
            truths[path][truths[path] == 255] = 0
        save(table[truths[path]], path)
    number = str(classes)
    out = tmp_path / "out"
    arguments = ["check-data", "--data", str(root), "--workers", "1", "--out", str(out)]
    assert main([*arguments, "--classes", number]) == 18
    assert words in (out / "report.txt").read_text()
    dataset = open_dataset(str(root), "train", None, classes=read_classes(out / "classes.json"))
    assert isinstance(dataset, FileDataset)
    for index, (_, path) in enumerate(dataset.pairs):
        assert path is not None
        np.testing.assert_array_equal(dataset[index].label, truths[path])
    assert main([*arguments[:-2], "--classes", str(out / "classes.json")]) == 0


def test_too_many_values_are_classes_that_nobody_named(tmp_path: Path) -> None:
    root = clean_set(tmp_path)
    for seed, path in enumerate(root.glob("*/labels/*.png")):
        save(truth(seed, classes=6), path)
    report = check_data(splits_of(root))
    assert report.proposal is None and report.exit_code == 18
    for finding in report.findings:
        assert finding.kind == "stray"
        assert "there are 6 different values, the largest is 5: name more classes" in finding.fix


def test_smoothed_masks_get_no_mapping() -> None:
    assert map_colors(generic_labels(3), dict.fromkeys(range(300), 10)) is None


# The command, and the quick form


def test_classes_that_do_not_agree_with_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = clean_set(tmp_path)
    assert main(["check-data", "--data", str(root), "--classes", "5"]) == ArgumentError.exit_code
    assert "--classes is 5, but this data names 3 classes" in capsys.readouterr().err
    assert main(["check-data", "--data", "drawn", "--classes", str(root / "classes.txt")]) == 4
    assert "this data set has 11 classes of its own, the classes file names 3" in (
        capsys.readouterr().err
    )
    assert main(["check-data", "--data", str(root), "--classes", "0"]) == 4


def test_a_quick_check_stops_at_what_training_would_meet(tmp_path: Path) -> None:
    root = clean_set(tmp_path)
    quick_check(splits_of(root), advice="check")
    stray(root)
    with pytest.raises(DataError) as caught:
        quick_check(splits_of(root), advice="`torchseg-zoo check-data --data x`")
    assert caught.value.where == str(root / "train/labels/2.png")
    assert caught.value.what == "pixel (4, 3) = 7, allowed 0–2 or 255"
    assert "of 6 samples looked at in train: label values that stand for no class: 7" in (
        str(caught.value.why)
    )
    assert str(caught.value.fix).startswith("`torchseg-zoo check-data --data x` tells all")


def test_a_quick_check_stops_at_labels_that_mean_something_else(tmp_path: Path) -> None:
    root = clean_set(tmp_path)
    (root / "classes.txt").write_text("background\nthing\n")
    for path in root.glob("*/labels/*.png"):
        save(np.where(np.asarray(Image.open(path)) == 1, 255, 0).astype(np.uint8), path)
    with pytest.raises(DataError, match="class 1 would never be learnt"):
        quick_check(splits_of(root), advice="check")


class Memory:
    """Samples without files, one of which cannot be had."""

    labels = generic_labels(3)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        if index == 2:
            raise DataError("is gone", where="sample 2", fix="bring it back")
        return Sample(f"sample {index}", photo(*SIZE, index), truth(index))


def test_any_data_set_can_be_checked() -> None:
    report = check_data({"train": Memory()})
    (finding,) = report.findings
    assert finding.kind == "unreadable" and finding.files == ("sample 2: is gone",)
    assert report.counts[:3].all()
