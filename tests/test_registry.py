"""``registry`` and what every factory ends in: names, options, and checkpoints that do not fit."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from released import TAG, declare
from torch import Tensor

import torchseg_zoo as tsz
from torchseg_zoo import registry
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DownloadError,
    UnknownCheckpointError,
    UnknownModelError,
    ZooError,
)
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.weights import manifest


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmentationModel]:
    """A ``bisenet_x39`` of 5 classes, declared as ``bisenet_x39.<TAG>``."""
    torch.manual_seed(7)
    model = tsz.bisenet_x39(num_classes=5).eval()
    model.preprocess = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    colors = tuple((i, i, i) for i in range(5))
    model.labels = LabelSet("five", tuple("abcde"), colors)  # type: ignore[arg-type]
    with declare(model, tmp_path, monkeypatch):
        yield model


def state_of(model: SegmentationModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(model: SegmentationModel, other: SegmentationModel) -> set[str]:
    ours, theirs = model.state_dict(), other.state_dict()
    assert set(ours) == set(theirs)
    return {
        name
        for name in ours
        if ours[name].shape != theirs[name].shape or not torch.equal(ours[name], theirs[name])
    }


# Names


def test_names_read_from_the_source_are_those_that_register() -> None:
    import torchseg_zoo.models

    own = {
        name
        for name, factory in registry._FACTORIES.items()
        if factory.__module__.startswith("torchseg_zoo.models.")
    }
    assert registry._own_names() == own
    assert all(callable(getattr(torchseg_zoo.models, name)) for name in own)
    for name in own:
        assert getattr(tsz, name) is registry._FACTORIES[name]
        assert name in dir(tsz)


def test_patterns() -> None:
    everything = tsz.list_models()
    assert everything == sorted(everything) and len(set(everything)) == len(everything)
    assert tsz.list_models("bisenet_x39*") == ["bisenet_x39", "bisenet_x39_speed"]
    assert tsz.list_models("*_r101") == [name for name in everything if name.endswith("_r101")]
    assert tsz.list_models("bisenet_x39") == ["bisenet_x39"]
    assert tsz.list_models("bisenet_x") == tsz.list_models("") == []


def test_patterns_of_checkpoints(released: SegmentationModel) -> None:
    for pattern in ("*", "bisenet_x39", "bisenet*", f"*.{TAG}", f"bisenet_x39.{TAG}"):
        assert tsz.list_models(pattern, pretrained=True) == [f"bisenet_x39.{TAG}"]
    assert tsz.list_models("bisenet_r18*", pretrained=True) == []
    assert [entry.name for entry in tsz.list_checkpoints("bisenet_x39")] == [f"bisenet_x39.{TAG}"]
    assert tsz.list_checkpoints("bisenet_r18") == []


def test_a_users_own_model_appears_and_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))

    @tsz.register_model
    def my_segmenter(pretrained: str | None = None, *, width: int = 1) -> Any:
        return ("built", pretrained, width)

    assert "my_segmenter" in tsz.list_models("my_*")
    assert tsz.create_model("my_segmenter", width=3) == ("built", None, 3)
    assert tsz.create_model("my_segmenter.tag") == ("built", "tag", 1)


@pytest.mark.parametrize("name", ["bisenet_x93", "bisnet_x39", "bisenet_x39_sped"])
def test_unknown_names_suggest_the_nearest(name: str) -> None:
    with pytest.raises(UnknownModelError, match=rf"no model '{name}'; did you mean .*bisenet_x39"):
        tsz.create_model(name)
    with pytest.raises(AttributeError, match=name):
        getattr(tsz, name)


@pytest.mark.parametrize("name", ["", "zzzzzz", ".camvid"])
def test_names_like_no_other_point_to_the_list(name: str) -> None:
    with pytest.raises(UnknownModelError, match="list_models"):
        tsz.create_model(name)


def test_unknown_tags_suggest_the_nearest(released: SegmentationModel) -> None:
    near = TAG[:-1]
    for call in (
        lambda: tsz.create_model(f"bisenet_x39.{near}"),
        lambda: tsz.bisenet_x39(near),
        lambda: tsz.create_model("bisenet_x39", near),
    ):
        with pytest.raises(UnknownCheckpointError, match=f"did you mean '{TAG}'.*available: {TAG}"):
            call()
    with pytest.raises(UnknownCheckpointError, match="no checkpoint of this model is released"):
        tsz.bisenet_r18("camvid")


@pytest.mark.parametrize("call", [
    lambda: tsz.create_model("bisenet_x39."),
    lambda: tsz.create_model("bisenet_x39", ""),
    lambda: tsz.bisenet_x39(""),
])  # fmt: skip
def test_an_empty_tag_never_means_random_weights(call: Any) -> None:
    with pytest.raises(UnknownCheckpointError):
        call()


def test_a_tag_is_named_once(released: SegmentationModel) -> None:
    assert tsz.create_model(f"bisenet_x39.{TAG}", TAG).labels == released.labels
    with pytest.raises(TypeError, match="drop pretrained='other'"):
        tsz.create_model(f"bisenet_x39.{TAG}", "other")
    with pytest.raises(TypeError, match="checkpoint tag"):
        tsz.bisenet_x39(True)  # type: ignore[arg-type]


# Options


@pytest.mark.parametrize("classes", [0, -1, 300, 256, 2.0, "19"])
def test_class_counts_that_cannot_work(classes: Any, released: SegmentationModel) -> None:
    for tag in (None, TAG):
        with pytest.raises(ArgumentError, match="num_classes"):
            tsz.bisenet_x39(tag, num_classes=classes)


@pytest.mark.parametrize("channels", [0, -1])
def test_channel_counts_that_cannot_work(channels: int, released: SegmentationModel) -> None:
    for tag in (None, TAG):
        with pytest.raises(ArgumentError, match="in_channels"):
            tsz.bisenet_x39(tag, in_channels=channels)


def test_backbones_that_cannot_work() -> None:
    with pytest.raises(UnknownModelError, match=r"no backbone 'resnet19'.*did you mean .*resnet18"):
        tsz.bisenet_r18(backbone="resnet19")
    with pytest.raises(ZooError, match="backbone"):
        tsz.bisenet_r18(backbone="vit_tiny_patch16_224")
    with pytest.raises(TypeError, match="num_class"):
        tsz.bisenet_r18(num_class=3)  # type: ignore[call-arg]


# Released weights


def test_a_checkpoint_rebuilds_its_own_model(released: SegmentationModel) -> None:
    for model in (tsz.bisenet_x39(TAG), tsz.create_model(f"bisenet_x39.{TAG}")):
        assert not differing(model, released)
        assert model.config == released.config and not model.training
        assert (model.preprocess, model.labels) == (released.preprocess, released.labels)
        assert all(parameter.requires_grad for parameter in model.parameters())
        x = torch.randn(1, 3, 32, 48)
        with torch.inference_mode():
            torch.testing.assert_close(model(x), released(x), atol=1e-6, rtol=1e-6)


def test_another_class_count_gets_fresh_classifiers_and_keeps_the_rest(
    released: SegmentationModel,
) -> None:
    model = tsz.bisenet_x39(TAG, num_classes=7)
    fresh = {f"{path}.{part}" for path in model.classifiers() for part in ("weight", "bias")}
    assert differing(model, released) == fresh
    assert model.num_classes == model.labels.num_classes == model.config.num_classes == 7
    assert model.preprocess == released.preprocess
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 7, 32, 32)


def test_the_checkpoints_own_class_count_keeps_its_classifiers(
    released: SegmentationModel,
) -> None:
    model = tsz.bisenet_x39(TAG, num_classes=5)
    assert not differing(model, released) and model.labels == released.labels


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_change_the_stems_alone(released: SegmentationModel, channels: int) -> None:
    model = tsz.bisenet_x39(TAG, in_channels=channels)
    changed = differing(model, released)
    assert changed == {"backbone.body.conv1.conv.weight", "spatial_path.conv_7x7.conv.weight"}
    assert model.config.in_channels == len(model.preprocess.mean) == channels
    assert model.preprocess.mean == (released.preprocess.mean * 2)[:channels]
    grey = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        got = model.backbone.body.conv1.conv(grey.expand(-1, channels, -1, -1))
        want = released.backbone.body.conv1.conv(grey.expand(-1, 3, -1, -1))
    if channels == 1:  # with more, the response to grey is kept in the mean over the stem's weights
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
    assert model(torch.randn(1, channels, 32, 32)).shape == (1, 5, 32, 32)


def test_a_checkpoint_excludes_another_backbone(released: SegmentationModel) -> None:
    with pytest.raises(ArgumentError, match=f"{TAG}.*xception39.*backbone='resnet18'"):
        tsz.bisenet_x39(TAG, backbone="resnet18")
    with pytest.raises(ArgumentError, match=f"{TAG}.*pretrained_backbone=True exclude each other"):
        tsz.bisenet_x39(TAG, pretrained_backbone=True)


def differs(name: str, value: Any) -> Any:
    """A value for an option that no checkpoint with ``value`` was trained with."""
    return {
        "output_stride": 16 if value == 8 else 8,
        "backbone": "mobilenetv3_small_100",
        "lateral": not value,
        "mask_size": (9, 9),
        "multi_grid": (1, 2),
    }[name]


HONOURED = {"pretrained", "num_classes", "in_channels", "pretrained_backbone"}
OPTIONS = [
    (model, name)
    for model in tsz.list_models()
    if manifest.list_checkpoints(model)
    for name in inspect.signature(registry.model_factory(model)).parameters
    if name not in HONOURED
]


@pytest.mark.parametrize(("model", "name"), OPTIONS)
def test_no_option_beside_a_checkpoint_is_passed_over(
    model: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHSEG_ZOO_OFFLINE", "1")
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path))
    factory = registry.model_factory(model)
    default = inspect.signature(factory).parameters[name].default
    for entry in manifest.list_checkpoints(model):
        if all(source.kind == "embedded" for source in entry.sources):
            continue
        own = {**entry.config, **entry.config["backbone_options"]}.get(name)
        # The default is refused like any other value, once it is written out.
        for value in (differs(name, own), default):
            if name != "multi_grid" and value == own:
                continue
            if (name, value, own) == ("mask_size", None, [60, 60]):
                continue  # that is what it means
            with pytest.raises(ArgumentError, match=rf"{entry.tag}.* {name}.*drop {name}"):
                factory(entry.tag, **{name: value})
            with pytest.raises(ArgumentError, match=f"drop {name}"):
                tsz.create_model(entry.name, **{name: value})
        with pytest.raises(DownloadError, match="offline"):
            factory(entry.tag)
        if own is not None and own != [60, 60]:
            with pytest.raises(DownloadError, match="offline"):
                factory(entry.tag, **{name: tuple(own) if isinstance(own, list) else own})


def test_a_mask_of_the_size_of_torchsegs_positions_is_another_network() -> None:
    with pytest.raises(ArgumentError, match="drop mask_size"):
        tsz.create_model("psanet_r50.ade20k.torchseg", mask_size=(60, 60))


def test_a_file_that_is_not_installed(released: SegmentationModel) -> None:
    path = next(iter(manifest.load().values())).sources[0].location
    from torchseg_zoo.weights import load

    (load.EMBEDDED / path).unlink()
    with pytest.raises(CheckpointFormatError, match="not in this installation; reinstall"):
        tsz.bisenet_x39(TAG)


def test_a_fresh_model_has_fresh_weights_each_time() -> None:
    torch.manual_seed(0)
    first, second = tsz.bisenet_x39(num_classes=3), tsz.bisenet_x39(num_classes=3)
    assert differing(first, second)
    torch.manual_seed(0)
    assert not differing(first, tsz.bisenet_x39(num_classes=3))
    assert first.training
