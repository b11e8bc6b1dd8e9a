"""One training sample, PNG 1024×2048 in, crop 1024×1024 out, against decoding and albumentations.

    python benchmarks/samples.py [--rounds 21] [--size 1024 2048] [--crop 1024 1024] [--noise 4]

Pictures are drawn streets with camera noise, which decides how long PNG takes to decode; label maps
are the streets' own. "Decoding" is Pillow reading both files into arrays and nothing else. "Sample"
is what a worker does: decode, check, mirror, scale (0.5 to 2), crop, brightness; bytes come out.
albumentations does the same with its own transforms on what OpenCV reads, each picture padded to
the crop, and its usual end, Normalize and ToTensorV2; "normalised" is our sample with that done on
the same thread, which in training the device does; "its bytes" ends before Normalize, and "its
transforms" starts from decoded arrays, as "transform" does. "Exact" is ours in TorchSeg's order and
arithmetic. Everybody gets the same pictures in turn, on one thread, and other random numbers in
every round. Medians of per-round ratios of processor time are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import torch
from PIL import Image

from torchseg_zoo.data.datasets import DrawnStreets, FileDataset
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.samples import TrainingSamples

Pairs = list[tuple[Path, Path]]
Size = tuple[int, int]
Job = Callable[[int, int], object]  # round, picture

SCALES = (0.5, 2.0)
BRIGHTNESS = 0.2


def write_pictures(folder: Path, size: Size, noise: float, count: int) -> Pairs:
    rng = np.random.default_rng(0)
    pairs = []
    for index, scene in enumerate(DrawnStreets(count, size=size)):
        grain = rng.normal(0, noise, scene.image.shape)
        picture = np.clip(scene.image + grain, 0, 255).astype(np.uint8)
        pair = folder / f"{index}.png", folder / f"{index}_label.png"
        Image.fromarray(picture).save(pair[0])
        Image.fromarray(scene.label).save(pair[1])
        pairs.append(pair)
        if len(pairs) == count:
            break
    return pairs


def decoding(pairs: Pairs) -> Job:
    def job(_: int, picture: int) -> object:
        image, label = pairs[picture]
        return np.asarray(Image.open(image)), np.asarray(Image.open(label))

    return job


def ours(pairs: Pairs, crop: Size, *, exact: bool = False, cache: bool = False) -> Job:
    dataset = FileDataset([*pairs], DrawnStreets.labels)
    config = TrainConfig(
        crop=crop, scales=SCALES, brightness=BRIGHTNESS, exact_resize=exact, cache=cache
    )
    samples = TrainingSamples(dataset, None, config)
    if cache:
        for picture in range(len(pairs)):
            samples[0, 0, 0, picture]
    return lambda turn, picture: samples[0, turn * len(pairs) + picture, 0, picture]


def normalised(sample: Job) -> Job:
    """The sample as the network takes it, made on this thread."""
    scale, shift = (torch.from_numpy(part) for part in Preprocess().scale_and_shift())

    def job(turn: int, picture: int) -> object:
        image, label, _ = sample(turn, picture)  # type: ignore[misc]
        return (image.float() * scale + shift).permute(2, 0, 1), label

    return job


def albumentations(
    pairs: Pairs, crop: Size, *, to_tensor: bool, decoded: bool = False
) -> Job | None:
    try:
        import albumentations as A
        import cv2
        from albumentations.pytorch import ToTensorV2
    except ImportError:
        print("albumentations is not installed")
        return None
    cv2.setNumThreads(1)
    low, high = SCALES
    pipeline = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.RandomScale(scale_limit=(low - 1, high - 1), p=1.0),
            A.PadIfNeeded(*crop, border_mode=cv2.BORDER_CONSTANT, fill=(124, 116, 104)),
            A.RandomCrop(*crop),
            A.RandomBrightnessContrast(brightness_limit=BRIGHTNESS, contrast_limit=(0, 0), p=1.0),
            *([A.Normalize(), ToTensorV2()] if to_tensor else []),
        ]
    )

    def read(picture: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = pairs[picture]
        rgb = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        return rgb, cv2.imread(str(label), cv2.IMREAD_UNCHANGED)

    kept = [read(picture) for picture in range(len(pairs))] if decoded else []

    def job(_: int, picture: int) -> object:
        image, mask = kept[picture] if decoded else read(picture)
        done = pipeline(image=image, mask=mask)
        assert tuple(done["mask"].shape) == crop
        return done

    return job


def check(job: Job, crop: Size) -> None:
    """Our samples have the crop's size and hold what is in the pictures."""
    image, label, _ = job(0, 0)  # type: ignore[misc]
    assert image.shape == (*crop, 3) and label.shape == crop
    assert image.dtype == label.dtype == torch.uint8 and len(label.unique()) > 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--crop", type=int, nargs=2, default=(1024, 1024))
    parser.add_argument("--noise", type=float, default=4, help="grain of the pictures, in levels")
    parser.add_argument("--pictures", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size, crop = tuple(options.size), tuple(options.crop)
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_pictures(Path(folder), size, options.noise, options.pictures)
        contenders = {
            "decoding": decoding(pairs),
            "sample": ours(pairs, crop),
            "transform": ours(pairs, crop, cache=True),
            "exact sample": ours(pairs, crop, exact=True),
            "exact transform": ours(pairs, crop, exact=True, cache=True),
            "normalised": normalised(ours(pairs, crop)),
            "albumentations": albumentations(pairs, crop, to_tensor=True),
            "its bytes": albumentations(pairs, crop, to_tensor=False),
            "its transforms": albumentations(pairs, crop, to_tensor=False, decoded=True),
        }
        jobs = {name: job for name, job in contenders.items() if job is not None}
        check(jobs["sample"], crop)
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for turn in range(options.rounds + 1):
            for name, job in jobs.items():
                start = time.process_time()
                for picture in range(len(pairs)):
                    job(turn, picture)
                if turn:  # the first round is for warming up
                    times[name].append((time.process_time() - start) / len(pairs))
        kilobytes = [pair[0].stat().st_size // 1000 for pair in pairs]
    print(
        f"{platform.processor() or platform.machine()}, one thread, Python "
        f"{platform.python_version()}, torch {torch.__version__}, Pillow {Image.__version__}, "
        f"numpy {np.__version__}, {size[0]}×{size[1]} to {crop[0]}×{crop[1]}, "
        f"PNG of {min(kilobytes)} to {max(kilobytes)} kB"
    )
    show(times)


def show(times: dict[str, list[float]]) -> None:
    for name, taken in times.items():
        print(f"  {name:<16} {1e3 * statistics.median(taken):8.1f} ms")
    comparisons = [
        ("sample", "decoding", "<= 1.3"),
        ("transform", "decoding", "<= 0.25"),
        ("sample", "albumentations", "<= 0.8"),
        ("normalised", "albumentations", ""),
        ("sample", "its bytes", ""),
        ("transform", "its transforms", ""),
        ("exact sample", "decoding", ""),
        ("exact transform", "transform", ""),
    ]
    for ours_, theirs, goal in comparisons:
        if theirs in times:
            pairs = zip(times[ours_], times[theirs], strict=True)
            ratio = statistics.median(mine / other for mine, other in pairs)
            print(f"  {ours_} / {theirs}: {ratio:.3f}   {goal}")


if __name__ == "__main__":
    main()
