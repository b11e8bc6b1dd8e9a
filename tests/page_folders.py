"""What pages say is in the folder where their commands are given, small enough to be quick."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import foreign
import numpy as np
from PIL import Image
from trees import cityscapes_tree

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.data.label_sets import CAMVID, CITYSCAPES

ROOT = Path(__file__).parents[1]
SIZE = (128, 160)


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
    "cityscapes/": cityscapes_tree,
    "runs/a/": _run,
    "runs/b/": _run,
    "runs/mine/": _run,
    "runs/cityscapes19/": _cityscapes_run,
    "epoch-80.pth": lambda target: foreign.save("torchseg/bisenet_x39", target),
    "bisenetv1_r18.pth": lambda target: foreign.save("mmseg/bisenetv1_r18", target),
}
