"""One ``pretrained=`` call: from a foreign file on a server to a model with the right logits."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import FOREIGN, TAG, State, entry_of, golden_input, golden_logits, save
from loopback import Server

import torchseg_zoo as tsz
from torchseg_zoo.errors import (
    CacheError,
    CheckpointFormatError,
    DownloadError,
    IntegrityError,
    UnsafeCheckpointError,
)
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.registry import model_factory
from torchseg_zoo.weights import guard, manifest
from torchseg_zoo.weights.manifest import Checkpoint, Source

pytestmark = pytest.mark.usefixtures("limits", "cache")
SMALL = "torchseg/bisenet_x39"
Declare = Callable[[Checkpoint], Checkpoint]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Makes an entry the only released checkpoint."""

    def set_entry(entry: Checkpoint) -> Checkpoint:
        monkeypatch.setattr(manifest, "find", lambda model, tag: entry)
        return entry

    return set_entry


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    path = tmp_path_factory.mktemp("small") / "x39.pth"
    return path, save(SMALL, path)


def pretrained(entry: Checkpoint) -> SegmentationModel:
    return model_factory(entry.model)(entry.tag)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The guarded reads from now on."""
    seen: list[str] = []
    original = guard._run

    def run(path: Path, *rest: object) -> object:
        seen.append(str(path))
        return original(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(guard, "_run", run)
    return seen


@pytest.mark.parametrize("name", FOREIGN)
def test_from_a_server_to_the_right_logits(
    name: str, server: Server, cache: Path, tmp_path: Path, declare: Declare
) -> None:
    path = tmp_path / "released.pth"
    state = save(name, path)
    url = server.file("/released.pth", path.read_bytes())
    entry = declare(entry_of(name, state, url, path))
    model = pretrained(entry)
    assert model.config.to_dict()["model"] == entry.config["model"] and not model.training
    with torch.inference_mode():
        x = golden_input(name)
        got, expected, atol = golden_logits(name, model(x), model(x, upsample=False))
    np.testing.assert_allclose(got, expected, atol=atol, rtol=1e-4)
    assert len(list((cache / "blobs").iterdir())) == 2
    assert list((cache / "partial").iterdir()) == list((cache / "locks").iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_the_second_call_reads_neither_the_server_nor_the_pickle(
    small: tuple[Path, State],
    server: Server,
    cache: Path,
    declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    entry = declare(entry_of(SMALL, state, url))
    first = pretrained(entry)
    told = capsys.readouterr().err.splitlines()
    assert sum("is pinned from now on" in line for line in told) == 1
    assert (
        sum("licences: weights: not stated; code: MIT; dataset: res" in line for line in told) == 1
    )
    asked, seen = len(server.log), reads(monkeypatch)
    # The foreign file may go: the native one stands for it.
    (cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()).unlink()
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    second = pretrained(entry)
    assert len(server.log) == asked and seen == [] and capsys.readouterr().err == ""
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)
    tuned = model_factory(entry.model)(entry.tag, num_classes=3)
    assert tuned.num_classes == 3


@pytest.mark.usefixtures("quick")
def test_conversion_gives_the_same_bytes_each_time(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    entry = declare(entry_of(SMALL, state, url, path))
    digests = []
    for number in range(2):
        monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path / f"cache{number}"))
        pretrained(entry)
        names = {blob.name for blob in (tmp_path / f"cache{number}" / "blobs").iterdir()}
        digests.append(names - {entry.sha256})
    assert digests[0] == digests[1] and len(digests[0]) == 1
    native = tmp_path / "cache0" / "blobs" / digests[0].pop()
    again = tsz.load_model(native)
    assert again.config.to_dict() == pretrained(entry).config.to_dict()


@pytest.mark.usefixtures("quick")
def test_weights_for_bgr_are_turned(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare
) -> None:
    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    rgb = pretrained(declare(entry_of(SMALL, state, url, path)))
    bgr = pretrained(declare(entry_of(SMALL, state, url, path, channel_order="bgr")))
    x = golden_input(SMALL)
    with torch.inference_mode():
        torch.testing.assert_close(bgr(x.flip(1)), rgb(x), atol=1e-4, rtol=1e-4)
    turned = [
        name
        for name, tensor in rgb.state_dict().items()
        if not torch.equal(bgr.state_dict()[name], tensor)
    ]
    assert len(turned) == 2  # the spatial path's and the backbone's first convolution


@pytest.mark.usefixtures("quick")
def test_a_file_that_changes_under_an_unknown_hash(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare
) -> None:
    path, state = small
    data = path.read_bytes()
    url = server.file("/x39.pth", data)
    entry = declare(entry_of(SMALL, state, url))
    pretrained(entry)
    server.file("/x39.pth", data + b"\0", etag='"two"')
    pretrained(entry)  # the native file is here: nobody asks
    for blob in (cache / "blobs").iterdir():
        blob.unlink()
    with pytest.raises(IntegrityError, match="pinned"):
        pretrained(entry)


@pytest.mark.usefixtures("quick")
def test_a_native_file_that_rotted_is_made_again(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare
) -> None:
    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    entry = declare(entry_of(SMALL, state, url, path))
    pretrained(entry)
    native = next(blob for blob in (cache / "blobs").iterdir() if blob.name != entry.sha256)
    data = bytearray(native.read_bytes())
    data[-5] ^= 1
    native.write_bytes(data)
    asked = len(server.log)
    pretrained(entry)
    assert hashlib.sha256(native.read_bytes()).hexdigest() == native.name
    assert len(server.log) == asked


@pytest.mark.usefixtures("quick")
def test_another_model_than_the_manifest_says(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare
) -> None:
    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    good = entry_of(SMALL, state, url, path)
    declare(replace(good, config={**good.config, "head_channels": 99}))
    what = "it is for bisenet_x39, 19 classes, in the layout of torchseg; .*miss"
    with pytest.raises(CheckpointFormatError, match=what):
        tsz.bisenet_x39(TAG)
    declare(replace(good, model="pspnet_r50", config=tsz.pspnet_r50().config.to_dict()))
    with pytest.raises(CheckpointFormatError, match="is a BiSeNet, not a PSPNet"):
        tsz.pspnet_r50(TAG)
    assert [blob.name for blob in (cache / "blobs").iterdir()] == [good.sha256]
    assert list((cache / "partial").iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_what_shapes_decide_comes_from_the_file(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    good = entry_of(SMALL, state, url, path)
    width = good.config["head_channels"]
    doubtful = replace(
        good,
        config={**good.config, "head_channels": width + 1},
        unverified=("config.head_channels", "preprocess.std"),
    )
    declare(doubtful)
    for _ in range(2):
        assert pretrained(doubtful).config.head_channels == width  # type: ignore[attr-defined]
    assert capsys.readouterr().err.count("preprocessing unverified (preprocess.std)") == 2


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_inside_an_archive(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare
) -> None:
    path, state = small
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../evil.txt", "no")
        file.write(path, "checkpoints/x39.pth")
    url = server.file("/all.zip", archive.getvalue())
    entry = entry_of(SMALL, state, url)
    packed = replace(entry, sources=(Source("https", url, "checkpoints/x39.pth"),))
    assert pretrained(declare(packed)).num_classes == 19
    assert not list(cache.parent.rglob("evil.txt"))
    declare(replace(entry, sources=(Source("https", url, "checkpoints/other.pth"),)))
    with pytest.raises(CheckpointFormatError, match=r"does not hold one checkpoints/other\.pth"):
        tsz.bisenet_x39(TAG)


@pytest.mark.usefixtures("quick")
def test_failures_keep_their_class(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare, tmp_path: Path
) -> None:
    _, state = small
    declare(entry_of(SMALL, state, server.url + "/nothing"))
    with pytest.raises(DownloadError):
        tsz.bisenet_x39(TAG)
    evil = tmp_path / "evil.pth"
    torch.save({"state_dict": state, "f": eval}, evil)
    declare(entry_of(SMALL, state, server.file("/evil.pth", evil.read_bytes())))
    with pytest.raises(UnsafeCheckpointError, match=r"asks for (__builtin__|builtins)\.eval"):
        tsz.bisenet_x39(TAG)
    declare(entry_of(SMALL, state, server.file("/text.pth", b"PK\x03\x04" + b"\1" * 999)))
    with pytest.raises(CheckpointFormatError):
        tsz.bisenet_x39(TAG)
    assert list((cache / "partial").iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_read_only_cache_serves_what_is_converted(
    small: tuple[Path, State], server: Server, cache: Path, declare: Declare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from torchseg_zoo.weights.folder import Folder

    path, state = small
    url = server.file("/x39.pth", path.read_bytes())
    entry = declare(entry_of(SMALL, state, url, path))
    pretrained(entry)
    before = {file: file.stat().st_mtime_ns for file in cache.rglob("*")}
    monkeypatch.setattr(Folder, "writable", lambda self: False)
    pretrained(entry)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*")} == before
    with pytest.raises(CacheError, match="is read-only and lacks the file"):
        pretrained(replace(declare(replace(entry, channel_order="bgr"))))


# Files of one's own


@pytest.mark.usefixtures("quick")
def test_a_foreign_file_or_url_is_loaded_like_a_native_one(
    small: tuple[Path, State], server: Server, cache: Path
) -> None:
    path, _ = small
    url = server.file("/x39.pth", path.read_bytes())
    for where in (path, url):
        model = tsz.load_model(where, layout="torchseg", config={"align_corners": False})
        assert model.config.model == "bisenet_x39" and not model.config.align_corners
    with pytest.raises(CheckpointFormatError, match="not a head of torchvision"):
        tsz.load_model(path, layout="torchvision")


@pytest.mark.usefixtures("quick")
def test_a_native_url(server: Server, cache: Path, tmp_path: Path) -> None:
    source = tsz.bisenet_x39(num_classes=5)
    tsz.save_model(source, tmp_path / "m.safetensors")
    url = server.file("/m.safetensors", (tmp_path / "m.safetensors").read_bytes())
    model = tsz.load_model(url)
    assert torch.equal(model.head.classifier.weight, source.head.classifier.weight)  # type: ignore[union-attr,operator]
