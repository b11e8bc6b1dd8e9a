"""Every declared checkpoint: its record, and that its file's tensors fit the model it names.

What a file holds is not known before it is fetched. ``foreign_shapes`` writes down names and shapes
from the projects' descriptions; here they are first compared with the golden files, then converted
on the meta device and compared with the model that the entry's configuration builds.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from typing import Any

import foreign_shapes
import pytest
import torch
from golden.reading import record_of

from torchseg_zoo import registry
from torchseg_zoo.data.label_sets import LABEL_SETS
from torchseg_zoo.errors import UnknownCheckpointError
from torchseg_zoo.inference.modes import check_mode, mode_from_dict
from torchseg_zoo.models.base import InputRule, family
from torchseg_zoo.weights import manifest, sources
from torchseg_zoo.weights.convert import Converted, convert
from torchseg_zoo.weights.manifest import Checkpoint, Source, manifest_path, read


def as_found(entry: Checkpoint) -> Checkpoint:
    """The entry as it was before its native file was published, if it was converted."""
    if not entry.converted_from:
        return entry
    found = {**entry.converted_from}
    found["sources"] = tuple(Source(**source) for source in found["sources"])
    found["unverified"] = tuple(found.get("unverified", ()))
    return replace(entry, converted_from={}, **found)


WRITTEN = read(manifest_path())
ENTRIES = {name: as_found(entry) for name, entry in WRITTEN.items()}
FOREIGN = {name: entry for name, entry in ENTRIES.items() if entry.layout != "native"}
SEED_ONLY = [
    "bisenet_r101.cityscapes", "bisenet_x39.cityscapes", "bisenet_r18_speed.cityscapes",
    "bisenet_x39_speed.cityscapes", "dfn_r101.voc", "dfn_r101.cityscapes",
    "dfn_r101.cityscapes.ohem",
]  # fmt: skip

every_entry = pytest.mark.parametrize("name", ENTRIES)


# Records


@every_entry
def test_the_record_is_whole(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.model in registry._own_names()
    assert entry.config["model"] == entry.model and entry.name == name
    assert entry.dataset in LABEL_SETS and entry.labels.name == entry.dataset
    for tag in (entry.tag, *entry.aliases):
        assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9-]+)?", tag) and tag.startswith(entry.dataset)
    assert {"code", "weights", "dataset"} == set(entry.licenses) and all(entry.licenses.values())
    assert entry.origin and entry.train_set and entry.recipe and entry.sources
    assert entry.layout == "native" or entry.layout in foreign_shapes.LAYOUTS
    assert len(entry.preprocess.mean) == entry.config.get("in_channels", 3)
    assert set(entry.sha256) <= set("0123456789abcdef")
    assert entry.metrics
    for metric in entry.metrics:
        assert metric.dataset in LABEL_SETS and metric.split and metric.source and metric.protocol
        scores = [metric.miou_percent, *metric.paper.values(), *metric.earlier.values()]
        assert all(0 < score <= 100 for score in scores)
        assert {*metric.paper, *metric.earlier} <= {"miou_percent", "pixel_accuracy_percent"}
        assert set(metric.replay) <= {"mode", "resize", "label_size"}
        if metric.replay:
            mode = mode_from_dict(metric.replay["mode"])
            check_mode(mode, InputRule())
            assert mode_from_dict(json.loads(json.dumps(mode.to_dict()))) == mode
    assert entry.status == "listed" or WRITTEN[name].layout == "native"


@every_entry
def test_the_sources_are_spelled_as_the_fetcher_takes_them(name: str) -> None:
    kinds = {"https": "web", "gdrive": "drive", "hf": "hub"}
    for source in (*ENTRIES[name].sources, *WRITTEN[name].sources):
        if source.kind == "embedded":
            assert source.url == ""
            continue
        assert sources.parse(source.url).kind == kinds[source.kind]
        if source.kind == "https":
            assert source.url.startswith("https://")
        # Where a file's name carries its digest, the two agree.
        digits = re.search(r"-([0-9a-f]{8})\.pth$", source.location)
        if digits:
            assert ENTRIES[name].sha256.startswith(digits[1])


def test_the_file_is_written_in_the_one_form() -> None:
    text = manifest_path().read_text(encoding="utf-8")
    assert manifest.dump(json.loads(text)) == text
    assert len(text.encode()) < 1_500_000


def test_every_model_has_one_default_per_data_set() -> None:
    plain = {(entry.model, entry.dataset) for entry in ENTRIES.values() if "." not in entry.tag}
    assert plain == {(entry.model, entry.dataset) for entry in ENTRIES.values()}
    for entry in ENTRIES.values():
        if entry.layout != "native" and "." not in entry.tag:
            (alias,) = entry.aliases
            assert manifest.find(entry.model, alias) == WRITTEN[entry.name]


def test_defaults_have_a_known_hash_where_there_is_one() -> None:
    for entry in ENTRIES.values():
        rivals = [one for one in ENTRIES.values() if one.model == entry.model]
        if "." not in entry.tag and not entry.sha256 and entry.layout != "native":
            assert not any(one.sha256 for one in rivals if one.dataset == entry.dataset)
    assert as_found(manifest.find("bisenet_r18", "cityscapes")).layout == "mmseg"
    seeds = as_found(manifest.find("bisenet_r18", "cityscapes.torchseg"))
    assert seeds.layout == "torchseg" and seeds.tag == "cityscapes.torchseg"
    for name in SEED_ONLY:
        assert ENTRIES[name].layout == "torchseg"
    assert ENTRIES["dfn_r101.cityscapes"].ohem is False
    assert ENTRIES["dfn_r101.cityscapes.ohem"].ohem is True


def test_the_seeds_files_say_what_is_not_known_of_them() -> None:
    seeds = [entry for entry in ENTRIES.values() if entry.layout == "torchseg"]
    assert len(seeds) == 12 and {entry.sources[0].kind for entry in seeds} == {"gdrive"}
    for entry in seeds:
        assert "preprocess.std" in entry.unverified and not entry.sha256
        assert "evaluate --verify" in entry.note
        assert any(name.startswith("config.") for name in entry.unverified)


def test_bgr_files_are_marked() -> None:
    assert {e.name for e in ENTRIES.values() if e.channel_order == "bgr"} == {
        "ocnet_base_r101.cityscapes",
        "ocnet_isa_r101.cityscapes.openseg",
    }
    red, green, blue = ENTRIES["ocnet_base_r101.cityscapes"].preprocess.mean
    assert red > green > blue  # in RGB order: the file has it the other way round


def test_nothing_is_taken_for_commercial_use_that_is_not_stated() -> None:
    assert not any(entry.commercial_ok for entry in ENTRIES.values())


def test_what_is_not_to_be_had_says_so() -> None:
    tags = {(e.model, tag) for e in ENTRIES.values() for tag in (e.tag, *e.aliases)}
    for one in manifest.unreleased():
        assert one.model in registry._own_names() and (one.model, one.tag) not in tags
        with pytest.raises(UnknownCheckpointError) as caught:
            manifest.find(one.model, one.tag)
        assert caught.value.why == one.why and caught.value.fix == one.fix
    with pytest.raises(UnknownCheckpointError, match=r"never released.*60 epochs of 330 steps"):
        manifest.find("fcn32s_r101", "voc")


# Tensors


def golden_shapes(name: str) -> tuple[dict[str, tuple[int, ...]], int]:
    record = record_of(name)
    state = record.get("state") or record["state_dict"]
    return {key: tuple(shape) for key, shape, *_ in state}, record["num_classes"]


@pytest.mark.parametrize(
    ("golden", "layout", "model", "tag"),
    [
        ("torchseg/bisenet_r18", "torchseg", "bisenet_r18", ""),
        ("torchseg/bisenet_r18_speed", "torchseg", "bisenet_r18_speed", ""),
        ("torchseg/bisenet_r101", "torchseg", "bisenet_r101", ""),
        ("torchseg/bisenet_x39", "torchseg", "bisenet_x39", ""),
        ("torchseg/bisenet_x39_speed", "torchseg", "bisenet_x39_speed", ""),
        ("torchseg/dfn_r101_voc21", "torchseg", "dfn_r101", ""),
        ("torchseg/dfn_r101_city19", "torchseg", "dfn_r101", ""),
        ("torchseg/fcn32s_r101", "torchseg", "fcn32s_r101", ""),
        ("torchseg/pspnet_r50", "torchseg", "pspnet_r50", ""),
        ("torchseg/psanet_r50", "torchseg", "psanet_r50", ""),
        ("mmseg/bisenetv1_r18", "mmseg", "bisenet_r18", ""),
        ("mmseg/fcn_r50", "mmseg", "fcn_r50", ""),
        ("mmseg/fcn_d6_r50b", "mmseg", "fcn_r50", "cityscapes.mmseg-b-d6-512x1024-80k"),
        ("mmseg/pspnet_r50", "mmseg", "pspnet_r50", ""),
        ("mmseg/deeplabv3_r50", "mmseg", "deeplabv3_r50", ""),
        ("mmseg/deeplabv3plus_r18", "mmseg", "deeplabv3plus_r18", ""),
        ("mmseg/deeplabv3plus_r50", "mmseg", "deeplabv3plus_r50", ""),
        ("mmseg/encnet_r50", "mmseg", "encnet_r50", ""),
        ("mmseg/psanet_r50", "mmseg", "psanet_r50", ""),
        ("mmseg/isanet_r50", "mmseg", "ocnet_isa_r50", ""),
        ("torchvision/fcn_resnet50", "torchvision", "fcn_r50", ""),
        ("torchvision/deeplabv3_resnet50", "torchvision", "deeplabv3_r50", ""),
        ("other/deeplabv3_resnet50_vainf", "vainf", "deeplabv3_r50", ""),
        ("other/deeplabv3plus_resnet50_vainf", "vainf", "deeplabv3plus_r50", ""),
        ("other/deeplabv3plus_resnet101_jfzhang", "jfzhang95", "deeplabv3plus_r101", ""),
        ("other/denseaspp_densenet121_os8", "denseaspp", "denseaspp_d121", ""),
        ("other/encnet_resnet50s_plain", "encoding", "encnet_r50", "ade20k.encoding"),
        ("other/encnet_resnet50s_lateral", "encoding", "encnet_r50", "pascal_context59.encoding"),
    ],
)
def test_the_descriptions_are_right(golden: str, layout: str, model: str, tag: str) -> None:
    wanted, classes = golden_shapes(golden)
    shapes = foreign_shapes.LAYOUTS[layout](model, classes, tag)
    if not shapes.counts:  # the golden was made with a PyTorch that counts batches
        wanted = {key: value for key, value in wanted.items() if "num_batches" not in key}
    assert shapes == wanted


def particular(entry: Checkpoint) -> str:
    """The tag that says which of its origin's files an entry is."""
    return next(tag for tag in (*entry.aliases, entry.tag) if "." in tag)


def shapes_of(entry: Checkpoint) -> foreign_shapes.Tensors:
    describe = foreign_shapes.LAYOUTS[entry.layout]
    return describe(entry.model, entry.labels.num_classes, particular(entry))


@functools.cache
def converted(layout: str, shapes: frozenset[tuple[str, tuple[int, ...]]]) -> Converted:
    return convert({name: torch.empty(shape, device="meta") for name, shape in shapes})


@functools.cache
def built(family_name: str, config: str) -> dict[str, torch.Size]:
    cls = family(family_name)
    with torch.device("meta"):
        model = cls(cls.config_class.from_dict(json.loads(config)))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def not_in_shapes(entry: Checkpoint) -> dict[str, Any]:
    """Fields of the configuration that names and shapes leave open, from the tag's words."""
    if entry.layout == "torchseg":
        return {"model": entry.model}  # X39's two variants are alike but for their training
    if entry.layout != "mmseg" or entry.model.startswith("bisenet"):
        return {}
    words = particular(entry).partition(".")[2].split("-")
    options: dict[str, Any] = {"output_stride": 16 if {"d6", "mg124"} & set(words) else 8}
    if entry.model.endswith("_r18"):
        options["dilate_second"] = False
    if "mg124" in words:
        options["last_stage"] = (1, 2, 4)
    if "d32" in words:
        options["keep_strides"] = True
    fields = {"align_corners": "769x769" in words, "backbone_options": options}
    return fields | ({"head_dilation": 6} if "d6" in words else {})


@pytest.mark.parametrize("name", FOREIGN)
def test_the_files_tensors_are_the_models(name: str) -> None:
    entry = FOREIGN[name]
    result = converted(entry.layout, frozenset(shapes_of(entry).items()))
    assert result.layout == entry.layout
    cls = family(result.family)
    config = cls.config_class.from_dict({**result.config, **not_in_shapes(entry)})
    assert cls.config_class.from_dict(entry.config) == config
    assert json.loads(json.dumps(config.to_dict())) == entry.config  # complete, nothing left out
    # How logits are resized changes no tensor.
    key = json.dumps({**entry.config, "align_corners": True, "model": ""}, sort_keys=True)
    tensors = {name: tensor.shape for name, tensor in result.tensors.items()}
    assert tensors == built(result.family, key)
