"""Miniature data sets, in the trees that their archives unpack to: pictures of 6×8 pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pictures import photo
from PIL import Image
from scipy.io import savemat

SIZE = (6, 8)


def write_picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(*SIZE, seed)).save(path)
    return path


def values_of(seed: int, values: Iterable[int]) -> np.ndarray:
    """(6, 8) uint8 in which every value occurs, in an order that the seed decides."""
    rng = np.random.default_rng(seed)
    wanted = np.array(list(values), np.uint8)
    flat = np.resize(wanted, SIZE[0] * SIZE[1])
    rng.shuffle(flat)
    return flat.reshape(SIZE)


def write_map(path: Path, label: np.ndarray, *, palette: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label)
    if palette is not None:
        picture.putpalette(palette.tobytes())
    picture.save(path)
    return path


def cityscapes_tree(root: Path, *, truth: str = "gtFine", train_ids: bool = False) -> Path:
    """Two cities in train, one in val and in test; ``labelTrainIds`` too if wanted."""
    cities = {"train": ("aachen", "ulm"), "val": ("lindau",), "test": ("berlin",)}
    for split, names in cities.items():
        for seed, city in enumerate(names):
            stem = f"{city}_00000{seed}_000019"
            write_picture(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", seed)
            start = root / truth / split / city / f"{stem}_{truth}"
            for other in ("color", "instanceIds"):
                write_map(Path(f"{start}_{other}.png"), values_of(seed, [1, 2]))
            raw = values_of(seed, [0] if split == "test" else [0, 4, 7, 8, 26, 33])
            write_map(Path(f"{start}_labelIds.png"), raw)
            if train_ids:
                write_map(Path(f"{start}_labelTrainIds.png"), train_ids_of(raw))
    return root


def train_ids_of(raw: np.ndarray) -> np.ndarray:
    """Cityscapes' label ids to train ids, for the values that ``cityscapes_tree`` writes."""
    table = np.full(256, 255, np.uint8)
    for label_id, train_id in ((7, 0), (8, 1), (26, 13), (33, 18)):
        table[label_id] = train_id
    return table[raw]


VOC_TRAIN, VOC_VAL = ["2007_000032", "2007_000039"], ["2007_000033"]
SBD_ONLY = ["2008_000002", "2008_000003"]


def voc_tree(root: Path, palette: np.ndarray) -> Path:
    """VOC2012 with two training pictures, one of validation, one of test, and SBD's pictures."""
    sets = root / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for split, names in {"train": VOC_TRAIN, "val": VOC_VAL, "test": ["2008_000006"]}.items():
        (sets / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (sets / "trainval.txt").write_text("".join(f"{name}\n" for name in VOC_TRAIN + VOC_VAL))
    for seed, name in enumerate([*VOC_TRAIN, *VOC_VAL, *SBD_ONLY, "2008_000006", "2012_000001"]):
        write_picture(root / "JPEGImages" / f"{name}.jpg", seed)
    for seed, name in enumerate(VOC_TRAIN + VOC_VAL):
        mask = values_of(seed, [0, 1, 20, 255])
        write_map(root / "SegmentationClass" / f"{name}.png", mask, palette=palette)
    return root


def sbd_mask(seed: int) -> np.ndarray:
    return values_of(100 + seed, [0, 5, 15])


def sbd_tree(root: Path, *, pictures: bool = True) -> Path:
    """SBD as released: MATLAB masks, also of one training and one validation picture of VOC."""
    masks = root / "dataset" / "cls"
    masks.mkdir(parents=True)
    for seed, name in enumerate([*SBD_ONLY, VOC_TRAIN[0], VOC_VAL[0]]):
        record = {"Boundaries": np.zeros((2, 2)), "Segmentation": sbd_mask(seed)}
        savemat(masks / f"{name}.mat", {"GTcls": record}, do_compression=True)
        if pictures:
            write_picture(root / "dataset" / "img" / f"{name}.jpg", 50 + seed)
    return root


def ade20k_tree(root: Path, *, count: int = 2) -> Path:
    for folder, short in (("training", "train"), ("validation", "val")):
        for index in range(count):
            name = f"ADE_{short}_{index + 1:08d}"
            write_picture(root / "images" / folder / f"{name}.jpg", index)
            label = values_of(index, [0, 1, 21, 150])
            write_map(root / "annotations" / folder / f"{name}.png", label)
    write_picture(root / "testing" / "ADE_test_00000001.jpg", 9)
    return root


def coco_10k_tree(root: Path) -> Path:
    (root / "imageLists").mkdir(parents=True)
    for split, number in (("train", 9), ("test", 25)):
        name = f"COCO_train2014_{number:012d}"
        (root / "imageLists" / f"{split}.txt").write_text(f"{name}\n")
        write_picture(root / "images" / f"{name}.jpg", number)
        label = values_of(number, [0, 1, 11, 13, 92, 182])
        (root / "annotations").mkdir(exist_ok=True)
        savemat(root / "annotations" / f"{name}.mat", {"S": label, "names": np.array(["a"])})
    return root


def coco_164k_tree(
    root: Path, *, below: str = "", maps: str = "stuffthingmaps_trainval2017"
) -> Path:
    for split, number in (("train2017", 9), ("val2017", 139), ("test2017", 1)):
        name = f"{number:012d}"
        write_picture(root / below / split / f"{name}.jpg", number)
        if split != "test2017":
            label = values_of(number, [0, 10, 12, 91, 181, 255])
            write_map(root / maps / split / f"{name}.png", label)
    return root


def camvid_tree(root: Path, *, test: bool = True) -> Path:
    """The SegNet tutorial's folders, with its own lists."""
    for split in ("train", "val", "test") if test else ("train", "val"):
        lines = []
        for index in range(2):
            name = f"0016E5_{index:05d}.png"
            write_picture(root / split / name, index)
            write_map(root / f"{split}annot" / name, values_of(index, [0, 10, 11]))
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def listing(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and its bytes."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = (path.stat().st_mtime_ns, path.read_bytes())
    return found
