"""``weights.load`` and ``models.checkpoint``: a file becomes the whole model, or a named error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import torchseg_zoo as tsz
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import CheckpointFormatError, DataError, ZooError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import describe_model, model_from_meta
from torchseg_zoo.weights.load import assign, build_loaded, check_fits, read_meta, read_tensors
from torchseg_zoo.weights.save import FORMAT, write_tensors


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(1)
    return tsz.bisenet_x39(num_classes=11).eval()


@pytest.fixture
def file(tmp_path: Path, model: SegmentationModel) -> Path:
    path = tmp_path / "model.safetensors"
    tsz.save_model(model, path)
    return path


class Table(nn.Module):
    """A tiny net with a buffer that no file holds, as some timm backbones have."""

    table: Tensor

    def __init__(self, scale: float = 3.0) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(2.0) * scale, persistent=False)
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.table


# Round trips


def test_a_saved_model_comes_back(model: SegmentationModel, tmp_path: Path) -> None:
    model.labels, model.preprocess = CAMVID, Preprocess((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (64, 96))
    path = tmp_path / "m.safetensors"
    tsz.save_model(model, path)
    again = tsz.load_model(str(path))
    assert type(again) is type(model) and again.config == model.config and not again.training
    assert (again.labels, again.preprocess) == (model.labels, model.preprocess)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))


def test_a_model_in_channels_last_and_reset_is_saved_as_it_is(tmp_path: Path) -> None:
    model = tsz.bisenet_x39(num_classes=3).to(memory_format=torch.channels_last)
    model.reset_classifier(4, generic_labels(4, "four"))
    tsz.save_model(model, tmp_path / "m.safetensors")
    again = tsz.load_model(tmp_path / "m.safetensors")
    assert again.num_classes == 4 and again.labels.name == "four"
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model.eval()(x), atol=1e-5, rtol=1e-4)


def test_a_loaded_model_can_be_trained(file: Path) -> None:
    model = tsz.load_model(file).train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.head.classifier.weight.grad is not None  # type: ignore[union-attr]


def test_rewriting_the_file_does_not_reach_the_model(file: Path) -> None:
    model = tsz.load_model(file)
    before = model.state_dict()["head.classifier.weight"].clone()
    file.write_bytes(b"\0" * file.stat().st_size)
    assert torch.equal(model.state_dict()["head.classifier.weight"], before)


def test_a_file_that_cannot_be_written(model: SegmentationModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="create the folder first"):
        tsz.save_model(model, tmp_path / "no" / "m.safetensors")


# Building on meta


def test_nothing_is_initialised_when_the_file_holds_everything() -> None:
    devices = []

    def build() -> nn.Module:
        layer = nn.BatchNorm2d(2)
        devices.append(layer.weight.device.type)
        return layer

    source = nn.BatchNorm2d(2)
    source.running_mean.fill_(5)  # type: ignore[union-attr]
    loaded = build_loaded(build, source.state_dict(), where="x")
    assert devices == ["meta"]
    assert loaded.running_mean.tolist() == [5, 5]
    assert loaded.weight.requires_grad and not loaded.running_mean.requires_grad


def test_buffers_that_no_file_holds_are_computed_and_not_left_empty() -> None:
    source = Table()
    source.count.fill_(9)
    loaded = build_loaded(Table, source.state_dict(), where="x")
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    assert loaded.table.tolist() == [0, 3] and loaded.count.item() == 9
    x = torch.randn(4, 2)
    assert torch.equal(loaded(x), source(x))


# Strictness


def renamed(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    names = list(state)
    return {
        (f"other.{name}" if names.index(name) < count else name): v for name, v in state.items()
    }


def test_what_does_not_fit_is_listed_and_nothing_is_changed(model: SegmentationModel) -> None:
    target = tsz.bisenet_x39(num_classes=11)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    tensors = renamed(model.state_dict(), 8)
    tensors["head.classifier.weight"] = torch.zeros(19, 64, 1, 1)
    with pytest.raises(CheckpointFormatError) as caught:
        assign(target, tensors, where="a.safetensors")
    error = caught.value
    assert error.what == "does not fit BiSeNet" and error.where == "a.safetensors"
    missing, unexpected, misshaped = str(error.why).split("; ")
    assert missing.startswith("8 missing: backbone.") and missing.endswith(" and 3 more")
    assert unexpected.startswith("8 unexpected: other.") and unexpected.count("other.") == 5
    assert misshaped == (
        "1 misshaped: head.classifier.weight is (19, 64, 1, 1), not (11, 64, 1, 1)"
    )
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name])


def test_exactly_five_are_all_listed(model: SegmentationModel) -> None:
    with pytest.raises(CheckpointFormatError) as caught:
        check_fits(model, renamed(model.state_dict(), 5), where="a")
    assert str(caught.value.why).count("backbone.") == 10 and "more" not in str(caught.value.why)


def test_another_models_file_is_refused(file: Path) -> None:
    meta = read_meta(file)
    meta["config"] = {**meta["config"], "head_channels": 256}
    with pytest.raises(CheckpointFormatError, match=r"misshaped: head\."):
        model_from_meta(meta, read_tensors(file, mapped=False), where=str(file))


# Files that are no checkpoint


@pytest.mark.parametrize("mapped", [True, False])
def test_files_that_are_cut_or_something_else(file: Path, mapped: bool) -> None:
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    cuts = [whole[:end] for end in (0, 4, 8, header // 2, header, len(whole) - 1)]
    strangers = [b"garbage" * 100, bytes(1000), b"PK\x03\x04" + bytes(500), b"\xff" * 64]
    for content in (*cuts, *strangers):
        file.write_bytes(content)
        for read in (lambda: read_tensors(file, mapped=mapped), lambda: tsz.load_model(file)):
            with pytest.raises(CheckpointFormatError) as caught:
                read()
            assert caught.value.where == str(file) and caught.value.fix


def test_mutated_headers_give_our_errors_only(file: Path) -> None:
    rng = np.random.default_rng(0)
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    at = whole.index(FORMAT.encode())
    for _ in range(60):
        data = bytearray(whole)
        low, high = (0, header) if rng.random() < 0.5 else (at, at + 900)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(low, high))] = int(rng.integers(32, 127))
        file.write_bytes(data)
        try:
            tsz.load_model(file)
        except ZooError as error:
            assert str(file) in str(error) or error.where in ("backbone", None)


def test_safetensors_of_others_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointFormatError, match="not a checkpoint of this package"):
        tsz.load_model(path)
    save_file({"a": torch.zeros(2)}, path, metadata={FORMAT: "[1, 2]"})
    with pytest.raises(CheckpointFormatError, match="header is not a record"):
        tsz.load_model(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda meta: meta.pop("family"), "'family'"),
        (lambda meta: meta.update(family="Unheard"), "no model family 'Unheard'"),
        (lambda meta: meta.pop("config"), "'config'"),
        (lambda meta: meta.update(config=3), "does not describe a model"),
        (lambda meta: meta["config"].update(new_field=1), "no field new_field"),
        (lambda meta: meta["config"].update(num_classes=0), "num_classes"),
        (lambda meta: meta["config"].update(backbone="resnet19"), "no backbone 'resnet19'"),
        (lambda meta: meta["config"].update(backbone=5), "no BiSeNet can be built"),
        (lambda meta: meta["config"].update(head_channels="x"), "no BiSeNet can be built"),
        (lambda meta: meta["config"].update(head_channels=-4), "no BiSeNet can be built"),
        (lambda meta: meta["config"].update(num_classes=12), "contradicts itself .*11 classes"),
        (lambda meta: meta["preprocess"].update(mean=[0.5], std=[0.5]), "1 channels in the prep"),
        (lambda meta: meta.update(labels={"name": "x"}), "classes"),
        (lambda meta: meta.update(labels=[]), "does not describe a model"),
    ],
)
def test_headers_that_describe_no_model(
    model: SegmentationModel, tmp_path: Path, change: Any, match: str
) -> None:
    meta = json.loads(json.dumps(describe_model(model)))
    change(meta)
    path = tmp_path / "odd.safetensors"
    write_tensors(path, model.state_dict(), meta)
    with pytest.raises(ZooError, match=match):
        tsz.load_model(path)
