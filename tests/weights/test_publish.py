"""Publishing: from a foreign file to a repository, and from there by the manifest that it wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import TAG, State, entry_of, save
from hub_server import HubServer
from huggingface_hub import ModelCard
from released import entry_of as native_entry

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DownloadError,
    IntegrityError,
    UnknownCheckpointError,
)
from torchseg_zoo.files import sha256_of
from torchseg_zoo.models.publish import Published, publish
from torchseg_zoo.weights import load, manifest
from torchseg_zoo.weights.manifest import Checkpoint

pytestmark = [
    pytest.mark.usefixtures("limits", "cache", "quick"),
    # The client's own way of uploading is deprecated in the library that it uses.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
REPO = "org/zoo"
NAME = f"bisenet_x39.{TAG}"
WEIGHTS = f"{NAME}/model.safetensors"
TINY = "bisenet_x39.tiny"
Declare = Callable[..., Path]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    path = tmp_path_factory.mktemp("released") / "x39.pth"
    return path, save("torchseg/bisenet_x39", path)


@pytest.fixture
def declare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, released: tuple[Path, State]
) -> Declare:
    """Writes a manifest of two models: one in a foreign file, one embedded."""
    generic = generic_labels(19)
    monkeypatch.setitem(LABEL_SETS, generic.name, generic)
    path = tmp_path / "weights_manifest.json"
    monkeypatch.setattr(manifest, "manifest_path", lambda: path)
    monkeypatch.setattr(load, "EMBEDDED", tmp_path)
    torch.manual_seed(0)
    model = tsz.bisenet_x39(num_classes=19)
    model.labels = generic
    tsz.save_model(model, tmp_path / "tiny.safetensors")
    licenses = {"weights": "MIT", "code": "MIT", "dataset": "drawn"}
    tiny = native_entry(model, tmp_path / "tiny.safetensors") | {
        "tag": "tiny", "licenses": licenses, "status": "scored",
    }  # fmt: skip

    def write(url: str, **changes: Any) -> Path:
        entry = entry_of("torchseg/bisenet_x39", released[1], url)
        record = {
            **asdict(entry),
            "preprocess": entry.preprocess.to_dict(),
            "labels": generic.name,
            "unverified": ["config.head_channels", "preprocess.std"],
            **changes,
        }
        path.write_text(manifest.dump({"checkpoints": [record, tiny], "unreleased": []}))
        manifest.load.cache_clear()
        return path

    return write


@pytest.fixture
def url(hub: HubServer, released: tuple[Path, State]) -> str:
    """Where the foreign file is."""
    hub.put("theirs/old", {"x39.bin": released[0].read_bytes()})
    return f"{hub.url}/theirs/old/resolve/main/x39.bin"


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    manifest.load.cache_clear()


def uploads(hub: HubServer) -> list[str]:
    return [path for method, path, _ in hub.log if method == "PUT"]


def alter(path: Path, tag: str, **changes: Any) -> None:
    """Changes fields of the manifest's entry."""
    record = json.loads(path.read_text())
    (found,) = (one for one in record["checkpoints"] if one["tag"] == tag)
    found |= changes
    path.write_text(manifest.dump(record))
    manifest.load.cache_clear()


def entry() -> Checkpoint:
    return manifest.find("bisenet_x39", TAG)


def run(*names: str, **options: Any) -> list[Published]:
    return list(publish(names, REPO, **options))


def test_published_once_and_loaded_by_the_manifest_from_an_empty_cache(
    hub: HubServer, url: str, declare: Declare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = declare(url)
    before = tsz.create_model(NAME)
    done = run(NAME, TINY, responsible="Example Lab")
    assert [one.uploaded for one in done] == [True, True] and len(uploads(hub)) == 2
    files = hub.repositories[REPO]["main"]
    assert done[0].sha256 == hashlib.sha256(files[WEIGHTS]).hexdigest()

    found = entry()
    (source,) = found.sources
    assert source.kind == "hf" and source.location == done[0].location
    commit = source.location.partition("@")[2].partition("/")[0]
    assert hub.repositories[REPO][commit][WEIGHTS] == files[WEIGHTS]
    assert (found.sha256, found.size_bytes) == (done[0].sha256, len(files[WEIGHTS]))
    assert (found.layout, found.status, found.unverified) == (
        "native", "loaded", ("preprocess.std",)
    )  # fmt: skip
    assert found.converted_from["layout"] == "torchseg"
    assert found.converted_from["sources"][0]["location"] == url
    tiny = manifest.find("bisenet_x39", "tiny")
    assert [one.kind for one in tiny.sources] == ["embedded", "hf"] and tiny.status == "scored"

    # Nothing but the hub's repository and the written manifest is left.
    del hub.repositories["theirs/old"]
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path / "fresh"))
    after = tsz.bisenet_x39(pretrained=TAG)
    assert after.preprocess == before.preprocess and after.config == before.config
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], tensor)
    assert after(torch.zeros(1, 3, 64, 64)).equal(before(torch.zeros(1, 3, 64, 64)))

    text, commits = path.read_text(), len(hub.repositories[REPO])
    again = run(NAME, TINY, responsible="Example Lab")
    assert [one.uploaded for one in again] == [False, False]
    assert [one.location for one in again] == [one.location for one in done]
    assert path.read_text() == text and len(hub.repositories[REPO]) == commits
    assert len(uploads(hub)) == 2


def test_the_cards(hub: HubServer, url: str, declare: Declare) -> None:
    declare(url)
    run(NAME, TINY, responsible="Example Lab")
    files = hub.repositories[REPO]["main"]
    assert set(files) == {"README.md"} | {
        f"{name}/{file}"
        for name in (NAME, TINY)
        for file in (
            "model.safetensors", "config.json", "preprocessor_config.json", "README.md"
        )
    }  # fmt: skip
    card = ModelCard(files[f"{NAME}/README.md"].decode())
    assert "Example Lab takes responsibility" in card.text and "- weights: not stated" in card.text
    assert f'tsz.create_model("{NAME}")' in card.text
    licensed = ModelCard(files[f"{TINY}/README.md"].decode())
    assert licensed.data.to_dict()["license"] == "mit" and "Example Lab" not in licensed.text
    whole = ModelCard(files["README.md"].decode())
    assert whole.data.to_dict()["license_name"] == "see each card"
    for name in (NAME, TINY):
        assert f"[{name}](./{name})" in whole.text


def test_unknown_licences_are_refused_before_anything_is_done(
    hub: HubServer, url: str, declare: Declare, cache: Path
) -> None:
    path = declare(url)
    before = path.read_text()
    with pytest.raises(ArgumentError, match=rf"not stated: {NAME}.*--responsible NAME"):
        publish([TINY, NAME], REPO)
    with pytest.raises(ArgumentError, match="not stated"):
        publish([NAME], REPO, responsible=" ")
    assert hub.log == [] and path.read_text() == before and not cache.exists()


def test_a_dry_run_changes_nothing(hub: HubServer, url: str, declare: Declare) -> None:
    path = declare(url)
    before = path.read_text()
    (done,) = run(NAME, responsible="Example Lab", dry_run=True)
    assert done.uploaded and done.location == f"{REPO}/{WEIGHTS}" and done.size_bytes > 1e6
    assert path.read_text() == before and REPO not in hub.repositories


def test_an_interrupted_publication_goes_on(hub: HubServer, url: str, declare: Declare) -> None:
    path = declare(url)
    work = publish([TINY, NAME], REPO, responsible="Example Lab")
    next(work)
    work.close()
    assert [one.kind for one in manifest.read(path)[TINY].sources] == ["embedded", "hf"]
    assert manifest.read(path)[NAME].layout == "torchseg"
    done = run(TINY, NAME, responsible="Example Lab")
    assert [one.uploaded for one in done] == [False, True] and len(uploads(hub)) == 2


def test_a_new_file_moves_the_manifest_and_an_old_commit_stays(
    hub: HubServer, url: str, declare: Declare, tmp_path: Path
) -> None:
    path = declare(url)
    (first,) = run(TINY)
    model = tsz.create_model(TINY)
    model.head.classifier.weight.data.add_(1)  # type: ignore[union-attr,operator]
    tsz.save_model(model, tmp_path / "tiny.safetensors")
    with pytest.raises(IntegrityError, match="sha256 is"):
        run(TINY)
    alter(path, "tiny", sha256=sha256_of(tmp_path / "tiny.safetensors"))
    (second,) = run(TINY)
    assert second.uploaded and second.location != first.location
    assert [one.location for one in manifest.find("bisenet_x39", "tiny").sources] == [
        "tiny.safetensors",
        second.location,
    ]
    assert first.location.partition("@")[2].partition("/")[0] in hub.repositories[REPO]


def test_a_corrected_preprocessing_is_published_anew(
    hub: HubServer, url: str, declare: Declare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = declare(url)
    (first,) = run(NAME, responsible="Example Lab")
    preprocess = {**entry().preprocess.to_dict(), "std": [1.0, 1.0, 1.0]}
    alter(path, TAG, preprocess=preprocess, unverified=[])
    (second,) = run(NAME, responsible="Example Lab")
    assert second.uploaded and second.sha256 != first.sha256
    found = entry()
    assert found.sha256 == second.sha256 and [s.location for s in found.sources] == [
        second.location
    ]
    assert found.converted_from["layout"] == "torchseg" and not found.unverified
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path / "fresh"))
    for model in (tsz.create_model(NAME), tsz.load_model(f"hf://{second.location}")):
        assert model.preprocess.std == (1.0, 1.0, 1.0)
    assert b"[1.0, 1.0, 1.0]" in hub.repositories[REPO]["main"][f"{NAME}/README.md"]
    assert not run(NAME, responsible="Example Lab")[0].uploaded


def test_a_file_that_is_not_the_entrys_model_is_not_published(
    hub: HubServer, url: str, declare: Declare, tmp_path: Path
) -> None:
    path = declare(url)
    model = tsz.create_model(TINY)
    model.head.classifier.weight.data.fill_(float("nan"))  # type: ignore[union-attr,operator]
    for change, words in (("weights", "finite"), ("mean", "describes another model")):
        if change == "mean":
            model = tsz.bisenet_x39(num_classes=19)
            model.preprocess = tsz.Preprocess((0.0,) * 3, (1.0,) * 3)
            model.labels = LABEL_SETS[generic_labels(19).name]
        tsz.save_model(model, tmp_path / "tiny.safetensors")
        alter(path, "tiny", sha256=sha256_of(tmp_path / "tiny.safetensors"))
        with pytest.raises(CheckpointFormatError, match=words):
            run(TINY)
    assert REPO not in hub.repositories


def test_a_hub_that_refuses(hub: HubServer, url: str, declare: Declare) -> None:
    path = declare(url)
    before = path.read_text()
    hub.token = "hf_right"
    with pytest.raises(DownloadError):
        run(TINY)
    assert path.read_text() == before and REPO not in hub.repositories


@pytest.mark.parametrize(
    ("names", "repo", "error"),
    [
        ([], REPO, ArgumentError),
        (["bisenet_x39.nothing"], REPO, UnknownCheckpointError),
        ([TINY], "zoo", ArgumentError),
        ([TINY], "../..", ArgumentError),
        ([TINY], "a/b/c", ArgumentError),
    ],
)
def test_what_cannot_be_published(
    names: list[str], repo: str, error: type[Exception], hub: HubServer, url: str, declare: Declare
) -> None:
    declare(url)
    with pytest.raises(error):
        publish(names, repo)
    assert hub.log == []


def test_offline_and_installed(
    hub: HubServer, url: str, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(url)
    manifest.load()  # once; the file of an installation is only named here
    package = Path(tsz.__file__).parent
    monkeypatch.setattr(manifest, "manifest_path", lambda: package / "weights_manifest.json")
    with pytest.raises(ArgumentError, match="an installation"):
        publish([TINY], REPO)
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    with pytest.raises(DownloadError, match="unset TORCHSEG_ZOO_OFFLINE"):
        publish([TINY], REPO)


def test_the_command(
    hub: HubServer, url: str, declare: Declare, capsys: pytest.CaptureFixture[str]
) -> None:
    declare(url)
    command = ["weights", "publish", "bisenet_x39.*", "--to", REPO]
    assert main(command) == ArgumentError.exit_code
    err = capsys.readouterr().err
    assert "torchseg-zoo: ArgumentError: responsible: the licence" in err
    command += ["--responsible", "Example Lab"]
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("to upload") == 2 and REPO not in hub.repositories
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"hf://{entry().sources[0].location}" in out and "2 of 2 uploaded" in out
    assert main(command) == 0
    assert capsys.readouterr().out.count("there already") == 2
