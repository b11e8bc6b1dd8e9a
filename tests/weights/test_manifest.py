"""``weights.manifest``: every declared checkpoint is whole, and a bad manifest says what is bad."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from released import record_of

import torchseg_zoo as tsz
from torchseg_zoo import registry
from torchseg_zoo.errors import CheckpointFormatError, ZooError
from torchseg_zoo.models.checkpoint import save_model
from torchseg_zoo.weights import load, manifest
from torchseg_zoo.weights.manifest import Checkpoint, manifest_path, read


def declared() -> dict[str, Checkpoint]:
    return read(manifest_path())


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    model = tsz.bisenet_x39(num_classes=3)
    file = tmp_path_factory.mktemp("manifest") / "m.safetensors"
    save_model(model, file)
    return record_of(model, file)


def read_record(folder: Path, record: object) -> dict[str, Checkpoint]:
    path = folder / "manifest.json"
    path.write_text(json.dumps(record))
    return read(path)


# What is declared


def test_every_entry_names_a_model_and_its_licences() -> None:
    for name, entry in declared().items():
        assert entry.model in registry._own_names(), name
        assert entry.name == name and entry.tag
        assert {"code", "weights", "dataset"} <= set(entry.licenses), name
        assert all(entry.licenses.values()), name
        assert entry.origin and entry.sources, name
        assert entry.config["model"] == entry.model, name
        assert entry.config["num_classes"] == entry.labels.num_classes, name
        assert len(entry.preprocess.mean) == entry.config.get("in_channels", 3), name
        for metric in entry.metrics:
            assert 0 < metric.miou_percent <= 100 and metric.source and metric.split, name


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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"label_sets": {}}', '{"label_sets": [], "checkpoints": []}',
             '{"label_sets": {}, "checkpoints": 3}', '{"label_sets": {"a": 1}, "checkpoints": []}'],
)  # fmt: skip
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
