"""What pages say is in the folder where their commands are given, small enough to be quick."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import foreign
import numpy as np
import torch
from pages import Block
from PIL import Image
from trees import cityscapes_tree

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.data.label_sets import CAMVID, CITYSCAPES
from torchseg_zoo.evaluation.reproduce import find_row
from torchseg_zoo.metrics import ConfusionMatrix, Scores

ROOT = Path(__file__).parents[1]
SIZE = (128, 160)
# What the pages say for real pictures, and what does for these.
SHORTER = {
    "--epochs 60": "--epochs 1 --set crop=64,64",
    "--epochs 200": "--epochs 4 --set crop=64,64 --set early_crop=None --batch-size 4"
    " --workers 0 --set cache=False",
    "256x256": "128x128",
    "(256, 256)": "(128, 128)",
    "(171, 171)": "(86, 86)",
}


def shorter(block: Block) -> Block:
    """The block with numbers that take little time."""
    text = block.text
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return dataclasses.replace(block, text=text)


def prepare(names: list[str], folder: Path) -> None:
    """Puts the things of these names into a folder."""
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        THINGS[name](target)


def drawn(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Small streets with labels of CamVid's classes."""
    scenes = DrawnStreets(count, seed=seed, size=SIZE)
    return [(scenes[index].image, np.asarray(scenes[index].label)) for index in range(count)]


def write_pairs(images: Path, labels: Path, count: int, seed: int) -> None:
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index, (image, label) in enumerate(drawn(count, seed)):
        Image.fromarray(image).save(images / f"{index:04}.png")
        Image.fromarray(label).save(labels / f"{index:04}.png")


def _street(target: Path) -> None:
    shutil.copy(ROOT / "examples" / "street.png", target)


def _linked(what: Path) -> Callable[[Path], None]:
    return lambda target: target.symlink_to(what)


def _photos(target: Path) -> None:
    target.mkdir()
    for index, (image, _) in enumerate(drawn(3, seed=5)):
        Image.fromarray(image).save(target / f"{index}.png")


def _video(target: Path) -> None:
    from videos import write_video  # PyAV, which the other pages do without

    write_video(target)


def _labelled(target: Path) -> None:
    # Scenes in which each class occurs: nothing is wrong with this folder.
    for seed, split in ((2, "train"), (3, "val")):
        write_pairs(target / split / "images", target / split / "labels", 4, seed)
    (target / "classes.txt").write_text("".join(f"{name}\n" for name in CAMVID.classes))


def _own(target: Path) -> None:
    write_pairs(target / "images", target / "labels", 10, seed=3)
    table = np.array([0, 2, 2, 1, 1, 2, 2, 2, 2, 2, 2], np.uint8)
    for path in (target / "labels").iterdir():
        Image.fromarray(table[np.asarray(Image.open(path))]).save(path)
    (target / "classes.txt").write_text("sky\nroad\nthing\n")


def _painted(target: Path) -> None:
    """The same with a colour for each class, as labelling programs paint them."""
    _own(target)
    colors = np.array([[0, 128, 255], [128, 64, 128], [200, 30, 30]], np.uint8)
    for path in (target / "labels").iterdir():
        Image.fromarray(colors[np.asarray(Image.open(path))]).save(path)
    (target / "classes.txt").write_text("sky\t0080ff\nroad\t804080\nthing\tc81e1e\n")


def _camvid(target: Path) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        write_pairs(target / split, target / f"{split}annot", 4, seed)


def _published(target: Path) -> None:
    """The same, with labels on which the embedded checkpoint scores what was published."""
    _camvid(target)
    model, published = tsz.bisenet_x39(pretrained="camvid"), find_row("bisenet_x39 camvid whole")
    paths = sorted((target / "val").iterdir())
    found = np.stack([tsz.predict(model, path).labels for path in paths])
    frequency = np.bincount(found.ravel(), minlength=model.num_classes) / found.size
    generator = np.random.default_rng(0)
    others = generator.integers(model.num_classes, size=found.shape, dtype=np.uint8)
    place = generator.random(found.shape)

    def truth(share: float, power: float) -> np.ndarray:
        """Most are what the model finds; the more so in frequent classes, the higher the power."""
        return np.where(place * frequency[found] ** power < share, others, found)

    def scores(share: float, power: float) -> Scores:
        counts = ConfusionMatrix(model.num_classes)
        counts.update(torch.from_numpy(truth(share, power)), torch.from_numpy(found))
        return counts.scores()

    def share_of(power: float) -> float:
        wanted = published.metric.miou_percent
        return _where(lambda share: scores(share, power).miou_percent < wanted)

    def is_accurate(power: float) -> bool:
        wanted = published.metric.pixel_accuracy_percent
        return scores(share_of(power), power).pixel_accuracy_percent > (wanted or 0)

    power = _where(is_accurate)
    for path, label in zip(paths, truth(share_of(power), power), strict=True):
        Image.fromarray(label).save(target / "valannot" / path.name)


def _where(holds: Callable[[float], bool]) -> float:
    """From where on, between 0 and 1, a condition holds."""
    low, high = 0.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _run(target: Path) -> None:
    """A finished run: its best model."""
    target.mkdir()
    tsz.save_model(tsz.bisenet_x39(pretrained="camvid"), target / "best.safetensors")


def _cityscapes_run(target: Path) -> None:
    target.mkdir()
    model = tsz.bisenet_x39(num_classes=CITYSCAPES.num_classes)
    model.labels = CITYSCAPES
    tsz.save_model(model, target / "best.safetensors")


THINGS: dict[str, Callable[[Path], object]] = {
    "street.png": _street,
    "photos/": _photos,
    "drive.mp4": _video,
    "examples/": _linked(ROOT / "examples"),
    "torchseg-zoo/": _linked(ROOT),
    "labelled/": _labelled,
    "mydata/": _own,
    "painted/": _painted,
    "camvid/": _camvid,
    "data/camvid/": _published,
    "cityscapes/": cityscapes_tree,
    "runs/a/": _run,
    "runs/b/": _run,
    "runs/mine/": _run,
    "runs/cityscapes19/": _cityscapes_run,
    "epoch-80.pth": lambda target: foreign.save("torchseg/bisenet_x39", target),
    "bisenetv1_r18.pth": lambda target: foreign.save("mmseg/bisenetv1_r18", target),
}
