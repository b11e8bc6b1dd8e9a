"""Big pictures by rows: the labels are those of the undivided picture, within the memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from pictures import photo
from PIL import Image
from torch import Tensor, nn

from torchseg_zoo.data.image import read_image
from torchseg_zoo.data.label_map import read_label
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.data.strips import open_rows
from torchseg_zoo.data.write_strips import write_rows
from torchseg_zoo.errors import ArgumentError, DataError, MissingExtraError
from torchseg_zoo.inference.large import _cuts, _ramps, predict_large
from torchseg_zoo.inference.modes import Sliding
from torchseg_zoo.inference.scoring import label, scores
from torchseg_zoo.models.base import InputRule, ModelConfig


class Local(nn.Module):
    """Logits of five classes at stride 1 or 4; sees at most 3 · stride pixels around each."""

    def __init__(self, stride: int = 1, rule: InputRule | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 5, stride=stride, padding=2)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(0)
            self.conv.weight.uniform_(-0.4, 0.4, generator=generator)
            self.conv.bias.zero_()
        self.requires_grad_(False)
        self.preprocess = Preprocess()
        self.input_rule = rule or InputRule()
        self.config = ModelConfig("local", "none", num_classes=5, align_corners=False)
        self.labels = generic_labels(5)

    def forward(self, x: Tensor, *, upsample: bool = True) -> Tensor:
        assert self.input_rule.nearest(*x.shape[2:]) == tuple(x.shape[2:])
        return F.avg_pool2d(self.conv(x), 3, stride=1, padding=1)


def run(model: Any, source: object, target: Path, **options: Any) -> np.ndarray:
    result = predict_large(
        model, source, target, watch=lambda text: None, progress=False, **options
    )
    assert result.target == target and result.bound_bytes > 2**20
    if target.suffix == ".npy":
        return np.load(target, mmap_mode="r")
    if target.suffix == ".png":
        return read_label(target)
    return tifffile.imread(target)


def differing(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape and got.dtype == np.uint8
    return float((got != want).mean())


# Equal to the undivided picture


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("size", [(88, 136), (32, 136), (16, 20), (136, 40)])
@pytest.mark.parametrize("blend", [False, True])
def test_windows_give_the_undivided_pictures_labels(
    tmp_path: Path, size: tuple[int, int], stride: int, blend: bool
) -> None:
    model, image = Local(stride), photo(*size)
    want = label(model, image).numpy()
    got = run(model, image, tmp_path / "a.npy", window=(48, 56), margin=16, blend=blend)
    # Two logits that are equal but for rounding may change places. Blending uses the margins, too,
    # where a window sees zeros in place of its surroundings.
    assert differing(got, want) < (0.02 if blend else 0.0005)


def test_the_margin_is_what_makes_them_equal(tmp_path: Path) -> None:
    model, image = Local(4), photo(88, 136)
    want = label(model, image).numpy()
    got = run(model, image, tmp_path / "a.npy", window=(48, 56), margin=0)
    assert differing(got, want) > 0.005


def test_a_crop_equals_the_same_crop_of_the_whole(tmp_path: Path) -> None:
    model, image = Local(), photo(150, 170)
    got = run(model, image, tmp_path / "a.npy", window=(40, 40), margin=8)
    crop = label(model, np.ascontiguousarray(image[30:110, 50:130])).numpy()
    assert differing(got[34:106, 54:126], crop[4:-4, 4:-4]) < 0.001


@pytest.mark.parametrize("size", [(61, 77), (100, 43), (41, 120)])
def test_blending_is_a_weighted_mean_of_probabilities(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    class Placed(Local):
        def forward(self, x: Tensor, *, upsample: bool = True) -> Tensor:
            return super().forward(x) * torch.linspace(0.2, 2, x.shape[3] // 4)

    model, image = Placed(4), photo(*size)
    got = run(model, image, tmp_path / "a.npy", window=(40, 40), margin=11, blend=True)
    total = torch.zeros(5, *size)
    starts = [[min(18 * i, side - 40) for i in range(-(-(side - 40) // 18) + 1)] for side in size]
    down, across = (_ramps(found, 40, 22) for found in starts)
    for top, rows in zip(starts[0], down, strict=True):
        for left, columns in zip(starts[1], across, strict=True):
            x = model.preprocess.tensor(image[top : top + 40, left : left + 40])
            logits = F.interpolate(model(x), (40, 40), mode="bilinear")[0]
            part = total[:, top : top + 40, left : left + 40]
            part += logits.softmax(0) * rows[:, None] * columns
    assert differing(got, total.argmax(0).numpy().astype(np.uint8)) < 0.001
    plain = run(model, image, tmp_path / "b.npy", window=(40, 40), margin=11)
    assert differing(got, plain) > 0.001


def test_without_overlap_it_is_plain_sliding(tmp_path: Path) -> None:
    model, image = Local(4), photo(80, 120)
    want = label(model, image, Sliding((40, 40), (40, 40))).numpy()
    for blend in (False, True):
        got = run(model, image, tmp_path / "a.npy", window=(40, 40), margin=0, blend=blend)
        assert differing(got, want) < 0.001


@pytest.mark.parametrize("rule", [InputRule(multiple=16), InputRule(fixed=(48, 48))])
@pytest.mark.parametrize("size", [(30, 100), (100, 30), (20, 20), (97, 101)])
def test_input_rules_are_kept(tmp_path: Path, rule: InputRule, size: tuple[int, int]) -> None:
    model, image = Local(1, rule), photo(*size)
    options: dict[str, Any] = {} if rule.fixed else {"window": (48, 48)}
    want = label(Local(), image).numpy()
    for blend in (False, True):
        got = run(model, image, tmp_path / "a.npy", margin=8, blend=blend, **options)
        inner = np.s_[:-3, :-3]  # zeros after normalisation meet the border, where it is padded
        assert differing(got[inner], want[inner]) < (0.02 if blend else 0.0005)


def test_the_batch_does_not_matter(tmp_path: Path) -> None:
    model, image = Local(4), photo(100, 300)
    options: dict[str, Any] = {"window": (40, 40), "margin": 8}
    want = run(model, image, tmp_path / "a.npy", batch=1, **options)
    for batch in (2, 7, None):
        got = run(model, image, tmp_path / "b.npy", batch=batch, **options)
        assert differing(got, want) < 0.0005


def test_cuts_lie_in_the_middle_of_overlaps() -> None:
    assert _cuts([0, 20, 33], 30, 63) == [0, 25, 41, 63]
    assert _cuts([0], 30, 12) == [0, 12]
    first, last = _ramps([0, 6], 10, 4)
    torch.testing.assert_close(first, torch.tensor([1] * 6 + [0.875, 0.625, 0.375, 0.125]))
    torch.testing.assert_close(last, first.flip(0))


# Files


def tiff(path: Path, image: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, image, **options)
    return path


def test_every_kind_of_source_gives_the_same_rows(tmp_path: Path) -> None:
    image = photo(70, 90)
    np.save(tmp_path / "a.npy", image)
    Image.fromarray(image).save(tmp_path / "a.png")
    wide = image.astype(np.uint16) << 8 | 7
    planes = image.transpose(2, 0, 1)
    opaque = np.dstack([image, np.full((70, 90), 255, np.uint8)])
    rgb = {"photometric": "rgb"}
    sources: list[object] = [
        image, wide, np.load(tmp_path / "a.npy", mmap_mode="r"), tmp_path / "a.npy",
        str(tmp_path / "a.png"),
        tiff(tmp_path / "1.tif", image, tile=(32, 16), **rgb),
        tiff(tmp_path / "2.tif", image, rowsperstrip=9, **rgb),
        tiff(tmp_path / "3.tif", image, tile=(32, 16), compression="zlib", **rgb),
        tiff(tmp_path / "4.tif", planes, planarconfig="separate", tile=(16, 32), **rgb),
        tiff(tmp_path / "5.tiff", planes, planarconfig="separate", rowsperstrip=7, **rgb),
        tiff(tmp_path / "6.tif", wide, tile=(32, 16), byteorder=">", **rgb),
        tiff(tmp_path / "7.tif", image, tile=(32, 16), bigtiff=True, **rgb),
        tiff(tmp_path / "8.tif", opaque, tile=(32, 16), extrasamples=["unassalpha"], **rgb),
    ]  # fmt: skip
    for source in sources:
        reader = open_rows(source)
        assert reader.size == (70, 90)
        for top, bottom in ((0, 70), (0, 1), (31, 33), (10, 69), (69, 70)):
            np.testing.assert_array_equal(reader.read(top, bottom), image[top:bottom])
        reader.close()
    grey = image[:, :, 0]
    np.save(tmp_path / "g.npy", grey)
    Image.fromarray(grey).save(tmp_path / "g.png")
    tiff(tmp_path / "g.tif", grey, tile=(32, 32))
    tiff(tmp_path / "h.tif", grey)
    for source in (grey, *sorted(tmp_path.glob("[gh].*"))):
        reader = open_rows(source)
        rows = reader.read(5, 44)
        reader.close()
        np.testing.assert_array_equal(rows, np.repeat(grey[5:44, :, None], 3, axis=2))


@pytest.mark.parametrize("turn", range(1, 9))
def test_decoded_pictures_are_turned_as_displayed(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(photo(20, 31)).save(tmp_path / "a.png", exif=exif)
    want = read_image(tmp_path / "a.png")
    reader = open_rows(tmp_path / "a.png")
    assert reader.size == want.shape[:2]
    for top, bottom in ((0, want.shape[0]), (3, 9), (19, 20)):
        np.testing.assert_array_equal(reader.read(top, bottom), want[top:bottom])


def test_decoded_pictures_of_other_kinds(tmp_path: Path) -> None:
    plain = Image.fromarray(photo(20, 31))
    clear = plain.convert("RGBA")
    clear.putalpha(100)
    clear.save(tmp_path / "rgba.png")
    plain.quantize(9).save(tmp_path / "p.png", transparency=2)
    plain.convert("L").save(tmp_path / "l.png", transparency=120)
    Image.fromarray(photo(20, 31)[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "i.png")
    plain.convert("CMYK").save(tmp_path / "cmyk.jpg")
    plain.save(tmp_path / "rgb.webp")
    for path in sorted(tmp_path.iterdir()):
        want = read_image(path)
        np.testing.assert_array_equal(open_rows(path).read(4, 17), want[4:17], err_msg=path.name)


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.tif", "a.TIFF"])
@pytest.mark.parametrize("size", [(1, 1), (5, 300), (256, 256), (513, 31), (600, 700)])
def test_what_is_written_by_rows_can_be_read(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    labels = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    palette = np.random.default_rng(1).integers(0, 255, (256, 3), np.uint8)
    path = tmp_path / name
    parts = np.split(labels, [n for n in (3, 4, 200, 270) if n < size[0]])
    write_rows(path, size, iter(parts), palette=palette)
    got = np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))
    np.testing.assert_array_equal(got, labels)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    if path.suffix != ".npy":
        np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), palette[labels])
        write_rows(path, size, iter(parts))
        with Image.open(path) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), labels)


@pytest.mark.parametrize("name", ["a.npy", "a.png", "a.tif"])
def test_from_file_to_file(tmp_path: Path, name: str) -> None:
    model, image = Local(), photo(70, 90)
    want = label(model, image).numpy()
    for source in (tiff(tmp_path / "s.tif", image, tile=(32, 32), photometric="rgb"), image):
        got = run(model, source, tmp_path / name, window=(40, 40), margin=8)
        assert differing(got, want) < 0.001


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tiff(tmp_path / "s.tif", photo(200, 90), tile=(32, 32), photometric="rgb")
    path.write_bytes(path.read_bytes()[:-20000])
    (tmp_path / "a.npy").write_bytes(b"old")
    with pytest.raises(DataError, match=r"s\.tif: tile \d+ cannot be decoded"):
        run(Local(), path, tmp_path / "a.npy", window=(40, 40), margin=8)
    assert (tmp_path / "a.npy").read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.npy", "s.tif"]


# Announcing


def test_the_bound_is_announced_before_the_start(tmp_path: Path) -> None:
    said: list[str] = []
    target = tmp_path / "a.npy"

    def report(text: str) -> None:
        assert not target.exists()
        said.append(text)

    result = predict_large(
        Local(), photo(70, 90), target, window=(40, 40), margin=8, watch=report, progress=False
    )
    assert len(said) == 1 and "70×90 pixels in 12 windows of 40×40: at most" in said[0]
    assert f"{result.bound_bytes / 2**20:.0f} MiB" in said[0]
    assert result.windows == 12 and result.size == (70, 90)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (0, 4)}, "window: "),
        ({"window": 64}, "window: 64 is no size"),
        ({"window": (40, 40), "margin": 20}, "margin 20 leaves nothing of a window of 40×40"),
        ({"margin": -1}, "margin: "),
        ({"batch": 0}, "batch: "),
        (
            {"memory_limit_bytes": 2**20},
            "memory_limit_bytes .*: needs up to .*, more than the 1 al",
        ),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        run(Local(), photo(), tmp_path / "a.npy", **options)
    assert not (tmp_path / "a.npy").exists()


def test_models_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"window is 40×40 but the model takes .* by 16"):
        run(Local(1, InputRule(multiple=16)), photo(), tmp_path / "a.npy", window=(40, 40))
    model = Local()
    model.preprocess = Preprocess(resize=(20, 30))
    with pytest.raises(ArgumentError, match="resizes every picture to 20×30; use predict"):
        run(model, photo(), tmp_path / "a.npy")


def test_sources_and_targets_that_cannot_work(tmp_path: Path) -> None:
    model, target = Local(), tmp_path / "out.npy"
    image = photo(40, 50)
    np.save(tmp_path / "f.npy", np.asfortranarray(image))
    np.save(tmp_path / "float.npy", image / 255)
    np.save(tmp_path / "whole.npy", image)
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-9])
    (tmp_path / "text.npy").write_text("no")
    (tmp_path / "text.tif").write_text("no")
    tiff(tmp_path / "palette.tif", image[:, :, 0], colormap=np.zeros((3, 256), np.uint16))
    tiff(tmp_path / "float.tif", (image / 255).astype(np.float32), photometric="rgb")
    for name, message in {
        "f.npy": "stored column by column", "float.npy": "holds float64 of shape",
        "short.npy": "is cut off", "text.npy": "not a .npy file", "text.tif": "not a TIFF file",
        "palette.tif": "photometric 3", "float.tif": "holds float32", "none.tif": "no such file",
        "none.npy": "no such file", "none.png": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=message):
            run(model, tmp_path / name, target)
    for source in (3, torch.zeros(3, 4, 4)):
        with pytest.raises(ArgumentError, match="by rows"):
            run(model, source, target)
    with pytest.raises(DataError, match="holds float64"):
        run(model, image / 255, target)
    with pytest.raises(ArgumentError, match=r"cannot write a label map as \.jpg; use \.npy"):
        run(model, image, tmp_path / "a.jpg")
    mapped = np.load(tmp_path / "whole.npy", mmap_mode="r")
    for source in (tmp_path / "whole.npy", mapped):
        with pytest.raises(ArgumentError, match="would replace the picture"):
            run(model, source, tmp_path / "whole.npy")
    with pytest.raises(DataError, match="more than 1000 pixels"):
        Image.fromarray(image).save(tmp_path / "a.png")
        run(model, tmp_path / "a.png", target, memory_limit_bytes=4000)
    assert not target.exists()


def test_tiff_without_tifffile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiff(tmp_path / "a.tif", photo(), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtraError, match=r"torchseg-zoo\[large\]"):
        run(Local(), path, tmp_path / "a.npy")
    with pytest.raises(MissingExtraError):
        run(Local(), photo(), tmp_path / "b.tif")
    assert run(Local(), photo(), tmp_path / "c.npy").shape == (24, 33)


def test_scores_of_a_window_are_those_of_the_modes() -> None:
    # The same cutting and padding serves both: one window is the whole picture.
    model, image = Local(4), photo(40, 40)
    torch.testing.assert_close(
        scores(model, image, Sliding((40, 40), (40, 40))), scores(model, image)
    )


# Twenty thousand pixels a side

_SOAK = """
import json, sys, time
import numpy as np, torch
import torchseg_zoo as tsz
from torchseg_zoo.inference.large import predict_large

def peak_mib():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024

torch.set_num_threads(int(sys.argv[4]))
model = tsz.bisenet_x39(pretrained="camvid").fuse()
before = peak_mib()
started = time.perf_counter()
result = predict_large(model, sys.argv[1], sys.argv[2], blend=sys.argv[3] == "blend",
                     watch=lambda text: print(text, file=sys.stderr), progress=False)
peak = peak_mib()
print(json.dumps({"before": before, "peak": peak, "bound": result.bound_bytes / 2**20,
                  "seconds": time.perf_counter() - started, "windows": result.windows}))
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["tif", "npy", "png", "blend"])
def test_twenty_thousand_pixels_a_side(tmp_path: Path, kind: str) -> None:
    side = int(os.environ.get("TORCHSEG_ZOO_LARGE_SIDE", "20000"))
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    tile = np.tile(photo(500, 500), (2, side // 500, 1))
    source = tmp_path / f"source.{'tif' if kind == 'blend' else kind}"
    bands = (tile[:500] for _ in range(side // 500))
    if kind == "npy":
        rows = np.lib.format.open_memmap(source, "w+", np.uint8, (side, side, 3))
        for index, band in enumerate(bands):
            rows[500 * index : 500 * index + 500] = band
        del rows
    elif kind == "png":
        picture = Image.new("RGB", (side, side))
        for index, band in enumerate(bands):
            picture.paste(Image.fromarray(band), (0, 500 * index))
        picture.save(source, compress_level=1)
        del picture
    else:
        twice = np.concatenate([tile[:500], tile[:500]])
        twice = np.pad(twice, ((0, 0), (0, 256), (0, 0)))
        tiles = (
            twice[top % 500 : top % 500 + 256, left : left + 256]
            for top in range(0, side, 256)
            for left in range(0, side, 256)
        )
        tifffile.imwrite(
            source, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(256, 256), photometric="rgb"
        )
    target = tmp_path / ("labels.tif" if kind != "npy" else "labels.npy")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _SOAK, str(source), str(target), kind, threads],
        capture_output=True, text=True, check=True, timeout=7200,
    )  # fmt: skip
    found = json.loads(done.stdout)
    print(kind, done.stderr.strip(), found, f"{time.perf_counter() - start:.0f} s in all")
    assert found["peak"] <= found["bound"]
    limit = 4 * side * side / 2**20 + 400 + found["before"] if kind == "png" else 1.5 * 1024
    assert found["peak"] <= limit
    if kind in ("npy", "tif"):
        labels = np.load(target, mmap_mode="r") if kind == "npy" else tifffile.imread(target)
        assert labels.shape == (side, side) and len(np.unique(labels[:2000])) > 1
