"""Models to and from the Hugging Face hub, through the hub's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard
from pickles import payloads, saved

import torchseg_zoo as tsz
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DataError,
    DownloadError,
    IntegrityError,
    UnsafeCheckpointError,
)
from torchseg_zoo.models import hub_save
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.bisenet import BiSeNet
from torchseg_zoo.models.hub_client import CONFIG, PICKLED, WEIGHTS
from torchseg_zoo.models.pspnet import PSPNet
from torchseg_zoo.weights.manifest import Checkpoint, Metric, Source

pytestmark = pytest.mark.usefixtures("limits", "cache", "quick")
REPO = "org/street"
NAMES = {WEIGHTS, CONFIG, "preprocessor_config.json", "README.md"}


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    made = tsz.bisenet_x39(num_classes=4).eval()
    made.labels = generic_labels(4, "four")
    made.preprocess = Preprocess((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), resize=(64, 96))
    return made


@pytest.fixture
def published(hub: HubServer, model: SegmentationModel, tmp_path: Path) -> str:
    """The model in a repository; its commit."""
    model.save_pretrained(tmp_path / "published", repo_id=REPO)
    return hub.put(REPO, files_of(tmp_path / "published"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def checkpoint_of(model: SegmentationModel) -> Checkpoint:
    metrics = (
        Metric("cityscapes", "val", "whole", 71.2, 94.5, "mmseg", "one scale | no flip"),
        Metric("cityscapes", "val", "msf", 73.0),
        Metric("camvid", "val", "whole", 60.0),
    )
    return Checkpoint(
        model.config.model, "testset", model.config.to_dict(), (Source("https", "https://x/y"),),
        "", None, "native", model.preprocess, model.labels, metrics=metrics,
        licenses={"code": "MIT", "weights": "Apache-2.0", "dataset": "research only"},
        origin="a test",
    )  # fmt: skip


def assert_same(one: SegmentationModel, other: SegmentationModel) -> None:
    assert type(one) is type(other) and one.config == other.config and not one.training
    assert (one.labels, one.preprocess) == (other.labels, other.preprocess)
    for name, tensor in other.state_dict().items():
        assert torch.equal(one.state_dict()[name], tensor), name


# Folders


def test_a_folder_round_trip(model: SegmentationModel, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    assert model.save_pretrained(folder) is None
    assert set(files_of(folder)) == NAMES
    assert_same(tsz.from_pretrained(folder), model)
    assert_same(BiSeNet.from_pretrained(str(folder)), model)
    with pytest.raises(CheckpointFormatError, match="is a BiSeNet, not a PSPNet"):
        PSPNet.from_pretrained(folder)
    config = json.loads((folder / CONFIG).read_text())
    assert config["family"] == "BiSeNet" and config["id2label"]["3"] == "class 3"
    other = json.loads((folder / "preprocessor_config.json").read_text())
    assert other["image_mean"] == [0.1, 0.2, 0.3]


def test_saving_again_keeps_what_else_is_there(model: SegmentationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    second = tsz.bisenet_x39(num_classes=7).eval()
    second.save_pretrained(tmp_path)
    assert set(files_of(tmp_path)) == {*NAMES, "notes.txt"}
    assert_same(tsz.from_pretrained(tmp_path), second)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_failure_leaves_the_old_files(
    name: str, model: SegmentationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, old = tmp_path / "fresh", tmp_path / "old"
    model.save_pretrained(old)
    before = files_of(old)
    write, write_tensors = hub_save.atomic_write, hub_save.write_tensors

    def failing(original: Any) -> Any:
        def wrapper(path: Path, *rest: Any, **more: Any) -> Any:
            if path.name.endswith(name):
                raise DataError("disk full", where=path)
            return original(path, *rest, **more)

        return wrapper

    monkeypatch.setattr(hub_save, "atomic_write", failing(write))
    monkeypatch.setattr(hub_save, "write_tensors", failing(write_tensors))
    for folder in (fresh, old):
        with pytest.raises(DataError, match="disk full"):
            tsz.bisenet_x39(num_classes=3).save_pretrained(folder)
    assert files_of(old) == before and not fresh.exists()


def test_files_of_two_models_are_noticed(model: SegmentationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    tsz.bisenet_x39(num_classes=7).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / CONFIG).replace(tmp_path / "a" / CONFIG)
    with pytest.raises(CheckpointFormatError, match="describe two models"):
        tsz.from_pretrained(tmp_path / "a")


def test_a_fused_model_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="before fuse"):
        tsz.bisenet_x39(num_classes=2).fuse().save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "JSONDecodeError"),
        (b"[]", "not a record"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b'{"a":' + b" " * (1 << 20) + b"1}", "more than"),
        (b"{}", "'family'"),
        (b'{"family": "os.system"}', "no model family"),
    ],
)
def test_bad_configurations(
    text: bytes, words: str, model: SegmentationModel, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / CONFIG).write_bytes(text)
    (tmp_path / WEIGHTS).write_bytes(_plain(tmp_path / WEIGHTS))
    with pytest.raises(CheckpointFormatError, match=words):
        tsz.from_pretrained(tmp_path)


def _plain(path: Path) -> bytes:
    """The same tensors without our description."""
    from safetensors.torch import load_file, save

    return save(load_file(path))


def test_a_bin_goes_through_the_guard(model: SegmentationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / PICKLED).write_bytes(saved(model.state_dict()))
    assert_same(tsz.from_pretrained(tmp_path), model)
    evil = next(data for name, data, _ in payloads(tmp_path / "canary") if name == "os.system")
    (tmp_path / PICKLED).write_bytes(evil)
    with pytest.raises(UnsafeCheckpointError, match=r"os\.system"):
        tsz.from_pretrained(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_strictness(model: SegmentationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    state.pop("head.classifier.weight")
    (tmp_path / WEIGHTS).unlink()
    (tmp_path / PICKLED).write_bytes(saved(state))
    with pytest.raises(CheckpointFormatError, match=r"1 missing: head\.classifier\.weight"):
        tsz.from_pretrained(tmp_path)


# The card


def test_the_card(model: SegmentationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, checkpoint=checkpoint_of(model), repo_id=REPO)
    card = ModelCard.load(tmp_path / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "torchseg_zoo"
    results = card.data.eval_results
    found = {(r.dataset_type, r.metric_type, r.metric_value) for r in results}
    assert ("cityscapes", "mean_iou", 71.2) in found and ("cityscapes", "accuracy", 94.5) in found
    assert "whole; one scale | no flip; mmseg" in next(iter(results)).metric_name
    for words in (f'from_pretrained("{REPO}")', "- weights: Apache-2.0", "- dataset: research only",
                  "| cityscapes val | 71.2 | 94.5 | whole | one scale / no flip | mmseg |",
                  "class 0, class 1"):  # fmt: skip
        assert words in card.text, words
    import yaml
    from huggingface_hub import parse_eval_result_entries

    entries = yaml.safe_load((tmp_path / ".eval_results" / "cityscapes.yaml").read_text())
    parsed = parse_eval_result_entries(entries)
    assert [(entry.dataset_id, entry.task_id, entry.value) for entry in parsed] == [
        ("cityscapes", "val-whole", 71.2),
        ("cityscapes", "val-msf", 73.0),
    ]
    assert (tmp_path / ".eval_results" / "camvid.yaml").exists()


def test_a_card_without_scores_claims_none(model: SegmentationModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results is None and "None measured." in card.text
    assert card.data.to_dict()["license_name"] == "not stated"


# Repositories


def test_from_a_repository(
    hub: HubServer, published: str, model: SegmentationModel, cache: Path
) -> None:
    assert_same(tsz.from_pretrained(REPO), model)
    assert_same(tsz.from_pretrained(REPO, revision=published), model)
    assert len(list((cache / "blobs").iterdir())) == 1
    gets = [path for method, path, _ in hub.log if method == "GET" and path.endswith(WEIGHTS)]
    assert len(gets) == 1 and published in gets[0]


def test_a_branch_that_moves_is_no_integrity_error(
    hub: HubServer, published: str, model: SegmentationModel, tmp_path: Path
) -> None:
    tsz.from_pretrained(REPO)
    second = tsz.bisenet_x39(num_classes=6).eval()
    second.save_pretrained(tmp_path / "second")
    hub.put(REPO, files_of(tmp_path / "second"))
    assert_same(tsz.from_pretrained(REPO), second)
    assert_same(tsz.from_pretrained(REPO, revision=published), model)


def test_without_a_connection(
    hub: HubServer, published: str, model: SegmentationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadError, match="not in the cache"):
        tsz.from_pretrained(REPO, local_files_only=True)
    tsz.from_pretrained(REPO)
    asked = len(hub.log)
    assert_same(tsz.from_pretrained(REPO, local_files_only=True), model)
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    assert_same(tsz.from_pretrained(REPO), model)
    assert len(hub.log) == asked


def test_a_token_and_a_cache_of_its_own(
    hub: HubServer, published: str, model: SegmentationModel, tmp_path: Path, cache: Path
) -> None:
    hub.token = "hf_right"
    with pytest.raises(DownloadError, match=r"no such repository|wants a login"):
        tsz.from_pretrained(REPO)
    kept = tmp_path / "kept"
    assert_same(tsz.from_pretrained(REPO, token="hf_right", cache_dir=kept), model)
    assert list(kept.rglob(WEIGHTS)) and not cache.exists()
    blob = next(iter(kept.rglob(WEIGHTS))).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(IntegrityError, match="force_download"):
        tsz.from_pretrained(REPO, token="hf_right", cache_dir=kept)
    again = tsz.from_pretrained(REPO, token="hf_right", cache_dir=kept, force_download=True)
    assert_same(again, model)


def test_a_repository_with_a_bin_only(
    hub: HubServer, published: str, model: SegmentationModel
) -> None:
    files = hub.repositories[REPO]["main"]
    only = {name: data for name, data in files.items() if name != WEIGHTS}
    hub.put("org/old", {**only, PICKLED: saved(model.state_dict())})
    assert_same(tsz.from_pretrained("org/old"), model)
    hub.put("org/none", only)
    with pytest.raises(DownloadError, match=r"model\.safetensors.*no such file"):
        tsz.from_pretrained("org/none")


@pytest.mark.parametrize("name", ["org/nothing", "a/b/c", "../../etc", "org/street@x", ""])
def test_repositories_that_are_not_there(name: str, hub: HubServer, published: str) -> None:
    with pytest.raises((DownloadError, CheckpointFormatError)):
        tsz.from_pretrained(name)
    with pytest.raises(DownloadError, match="no such repository or revision"):
        tsz.from_pretrained(REPO, revision="nowhere")


# The client's own way of uploading is deprecated in the library that it uses.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_push_and_back(hub: HubServer, model: SegmentationModel, tmp_path: Path) -> None:
    url = model.push_to_hub("org/new", token="hf_x", commit_message="first")
    assert url.startswith(f"{hub.url}/org/new/commit/") and hub.messages == ["first"]
    assert set(hub.repositories["org/new"]["main"]) == NAMES
    assert_same(tsz.from_pretrained("org/new"), model)
    url2 = model.save_pretrained(tmp_path / "x", repo_id="org/new", push_to_hub=True)
    assert url2 is not None


def test_a_push_that_is_refused(hub: HubServer, model: SegmentationModel) -> None:
    hub.token = "hf_right"
    with pytest.raises(DownloadError):
        model.push_to_hub("org/new", token="hf_wrong")
    assert hub.repositories == {}


def test_the_client_is_loaded_only_when_it_is_needed() -> None:
    code = (
        "import sys, torchseg_zoo as tsz; tsz.bisenet_x39(num_classes=2);"
        "import torchseg_zoo.models.hub, torchseg_zoo.models.hub_save;"
        "print(sorted({'huggingface_hub', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
