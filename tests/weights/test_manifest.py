"""``weights.manifest``: every declared checkpoint is whole, and a bad manifest says what is bad."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from released import record_of

import torchseg_zoo as tsz
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import CheckpointFormatError, UnknownCheckpointError, ZooError
from torchseg_zoo.models.checkpoint import save_model
from torchseg_zoo.weights import load, manifest
from torchseg_zoo.weights.manifest import Checkpoint, Source, manifest_path, read


def declared() -> dict[str, Checkpoint]:
    return read(manifest_path())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = tsz.bisenet_x39(num_classes=3)
    file = tmp_path_factory.mktemp("manifest") / "m.safetensors"
    save_model(model, file)
    return record_of(model, file)


@pytest.fixture(autouse=True)
def _known_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LABEL_SETS, "custom", generic_labels(3))


def read_record(folder: Path, record: object) -> dict[str, Checkpoint]:
    path = folder / "manifest.json"
    path.write_text(json.dumps(record))
    return read(path)


# What is declared


def test_every_embedded_file_is_there_with_its_digest() -> None:
    embedded = set()
    for name, entry in declared().items():
        for source in entry.sources:
            if source.kind == "embedded":
                path = load.EMBEDDED / source.location
                content = path.read_bytes()
                assert hashlib.sha256(content).hexdigest() == entry.sha256, name
                assert len(content) == entry.size_bytes <= 8 * 2**20, name
                assert entry.layout == "native", name
                embedded.add(path.name)
    assert {path.name for path in load.EMBEDDED.glob("*.safetensors")} == embedded


def test_every_embedded_checkpoint_loads_and_predicts() -> None:
    for name, entry in declared().items():
        if entry.sources[0].kind == "embedded":
            model = tsz.create_model(name)
            assert model.labels == entry.labels and model.preprocess == entry.preprocess
            assert {c.out_channels for c in model.classifiers().values()} == {
                entry.labels.num_classes
            }
            labels = tsz.predict(model, np.full((33, 47, 3), 90, np.uint8)).labels
            assert labels.shape == (33, 47)


# Reading


def test_an_entry_is_read_whole(tmp_path: Path, record: dict[str, Any]) -> None:
    metric = {"dataset": "d", "split": "val", "mode": "whole", "miou_percent": 61.5}
    full = copy.deepcopy(record)
    full["checkpoints"][0] |= {"metrics": [metric], "recipe": {"lr": 0.1}}
    (entry,) = read_record(tmp_path, full).values()
    assert entry.metrics[0].miou_percent == 61.5 and entry.metrics[0].protocol == ""
    assert entry.labels.num_classes == 3 and entry.recipe == {"lr": 0.1}
    assert entry.sources[0].kind == "embedded"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sources": [{"kind": "ftp", "location": "x"}]}, "source kind 'ftp'"),
        ({"sources": [{"kind": "hf"}]}, "location"),
        (
            {"sources": [{"kind": "hf", "location": "org/repo@main/m.safetensors"}]},
            "org/repo@main/m.safetensors names no commit",
        ),
        ({"converted_from": "x"}, "converted_from is 'x'"),
        ({"status": "perfect"}, "status 'perfect'"),
        ({"sha256": "abc"}, "sha256 of 3 digits"),
        ({"sha256": 12345678}, "sha256 is 12345678"),
        ({"labels": "unknown"}, "KeyError: 'unknown'"),
        ({"labels": ["x"]}, "TypeError"),
        ({"config": {"num_classes": 4}}, "4 classes in the model, 3 in the labels"),
        ({"config": [1]}, "config is"),
        ({"config": None}, "config is None"),
        ({"licence": "MIT"}, "licence"),
        ({"preprocess": {"mean": [0.5]}}, "std"),
        ({"preprocess": 3}, "preprocess|TypeError|AttributeError"),
        ({"size_bytes": "big"}, "size_bytes is 'big'"),
        ({"metrics": [{"miou": 3}]}, "miou"),
        ({"model": None}, "model is None"),
        ({"aliases": "other"}, "list of texts"),
        ({"aliases": [3]}, "list of texts"),
        ({"channel_order": "grb"}, "channel_order 'grb'"),
        ({"ohem": "yes"}, "ohem is 'yes'"),
        ({"note": None}, "note is None"),
        ({"unverified": ["preprocess.gamma"]}, "unverified 'preprocess.gamma'"),
        ({"unverified": ["config.depth"]}, "unverified 'config.depth'"),
    ],
)
def test_bad_entries_say_which_and_why(
    tmp_path: Path, record: dict[str, Any], changes: dict[str, Any], match: str
) -> None:
    bad = copy.deepcopy(record)
    bad["checkpoints"][0] |= changes
    with pytest.raises(CheckpointFormatError, match=match) as caught:
        read_record(tmp_path, bad)
    assert str(caught.value.where).endswith("manifest.json entry 0")


def test_a_missing_field_and_a_second_declaration(tmp_path: Path, record: dict[str, Any]) -> None:
    for name in ("model", "tag", "config", "sources", "sha256", "preprocess", "labels"):
        bad = copy.deepcopy(record)
        del bad["checkpoints"][0][name]
        with pytest.raises(CheckpointFormatError, match=name):
            read_record(tmp_path, bad)
    twice = copy.deepcopy(record)
    twice["checkpoints"] *= 2
    with pytest.raises(CheckpointFormatError, match="declared twice"):
        read_record(tmp_path, twice)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"checkpoints": 3}', "[" * 20_000])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(CheckpointFormatError, match="weights manifest cannot be read"):
        read(path)
    with pytest.raises(CheckpointFormatError, match="weights manifest cannot be read"):
        read(tmp_path / "nowhere.json")


def test_mutated_manifests_give_our_errors_only(tmp_path: Path, record: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    whole = json.dumps(record)
    odd = ["null", "3", '"x"', "[]", "{}", "-1e9", "true", "[1, 2]"]
    accepted = 0
    for _ in range(300):
        text = whole
        for _ in range(int(rng.integers(1, 3))):
            start = int(rng.integers(0, len(text)))
            stop = start + int(rng.integers(0, 12))
            text = text[:start] + str(rng.choice(odd)) * int(rng.integers(0, 2)) + text[stop:]
        path = tmp_path / "m.json"
        path.write_text(text)
        try:
            read(path)
            accepted += 1
        except ZooError as error:
            assert str(path) in str(error)
    assert accepted < 150  # most mutations are noticed


def test_the_manifest_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest.load() is manifest.load()


# Names


@pytest.fixture
def two_tags(
    tmp_path: Path, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """One model: its default entry with an alias, and another with eight brothers."""
    first = copy.deepcopy(record["checkpoints"][0]) | {"tag": "camvid", "aliases": ["camvid.best"]}
    others = [copy.deepcopy(first) | {"tag": f"camvid.run{i}", "aliases": []} for i in range(9)]
    path = tmp_path / "manifest.json"
    gone = {"model": "bisenet_x39", "tag": "voc", "why": "it was lost", "fix": "train it"}
    path.write_text(json.dumps({"checkpoints": [first, *others], "unreleased": [gone]}))
    monkeypatch.setattr(manifest, "manifest_path", lambda: path)
    manifest.load.cache_clear()
    yield
    manifest.load.cache_clear()


@pytest.mark.usefixtures("two_tags")
def test_an_entry_answers_to_its_aliases_and_is_listed_once() -> None:
    entry = manifest.find("bisenet_x39", "camvid")
    assert manifest.find("bisenet_x39", "camvid.best") is entry
    assert entry.names == ("bisenet_x39.camvid", "bisenet_x39.camvid.best")
    names = [one.name for one in tsz.list_checkpoints("bisenet_x39")]
    assert names == tsz.list_models(pretrained=True) == sorted(names) and len(names) == 10
    assert tsz.list_models("*.best", pretrained=True) == ["bisenet_x39.camvid"]
    assert tsz.list_models("bisenet_x39", pretrained=True) == names
    assert tsz.list_models("bisenet_x39.camvid", pretrained=True) == ["bisenet_x39.camvid"]


@pytest.mark.usefixtures("two_tags")
def test_an_unknown_tag_is_answered_in_one_line() -> None:
    with pytest.raises(UnknownCheckpointError) as caught:
        manifest.find("bisenet_x39", "camvdi")
    assert "did you mean 'camvid'?" in str(caught.value)
    assert "available: camvid and 9 more: list_checkpoints('bisenet_x39')" in str(caught.value)
    with pytest.raises(UnknownCheckpointError, match=r"it was lost.*train it"):
        manifest.find("bisenet_x39", "voc")
    with pytest.raises(UnknownCheckpointError, match="no checkpoint of this model is released"):
        manifest.find("dfn_r101", "voc")


@pytest.mark.parametrize("other", [{"tag": "a"}, {"tag": "b", "aliases": ["a"]}])
def test_no_name_is_given_twice(
    tmp_path: Path, record: dict[str, Any], other: dict[str, Any]
) -> None:
    first = copy.deepcopy(record["checkpoints"][0]) | {"tag": "c", "aliases": ["a"]}
    whole = {"checkpoints": [first, copy.deepcopy(first) | {"aliases": []} | other]}
    with pytest.raises(CheckpointFormatError, match=r"bisenet_x39\.a is declared twice"):
        read_record(tmp_path, whole)


def test_only_exact_permissive_names_allow_commercial_use(record: dict[str, Any]) -> None:
    def allowed(weights: str, dataset: str) -> bool:
        licenses = {"code": "MIT", "weights": weights, "dataset": dataset}
        changed = record["checkpoints"][0] | {"licenses": licenses}
        return Checkpoint.from_dict(changed, where="here").commercial_ok

    assert allowed("MIT", "CC-BY-4.0")
    for weights, dataset in (
        ("not stated", "CC-BY-4.0"),
        ("MIT", "not stated"),
        ("MIT (repository)", "CC0-1.0"),
        ("", "MIT"),
    ):
        assert not allowed(weights, dataset)


def test_sources_are_spelled_for_the_fetcher() -> None:
    assert Source("hf", "org/repo@main/m.safetensors").url == "hf://org/repo@main/m.safetensors"
    assert Source("gdrive", "1yTbozInCLG").url == "gdrive://1yTbozInCLG"
    assert Source("https", "https://a.org/m.pth").url == "https://a.org/m.pth"
    assert Source("embedded", "m.safetensors").url == ""


def test_the_written_form_is_read_back_and_keeps_its_order(record: dict[str, Any]) -> None:
    text = manifest.dump(record)
    assert json.loads(text) == json.loads(json.dumps(record))
    assert manifest.dump(json.loads(text)) == text
