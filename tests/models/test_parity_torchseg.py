"""Parity with TorchSeg: see tests/golden/README.md for how its outputs were made.

A golden file is one line in ``GOLDENS``; everything else is read from it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import procedural
from golden.reading import arrays_of, record_of, state_of

from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import model_from_state_dict
from torchseg_zoo.training.border import border_loss, legacy_border_loss
from torchseg_zoo.training.objective import Objective
from torchseg_zoo.training.optim import config_groups
from torchseg_zoo.training.recipes import recipe
from torchseg_zoo.types import SegOutput


@dataclass(frozen=True)
class Golden:
    """How one golden file is to be read.

    Args:
        model: factory name that the converter must arrive at.
        factors: by how much the original resizes the heads, in the order of its ``heads``.
        heads: our names of these heads; "" is the main one.
        groups: original module name → ours, where they differ; those with the same ours are summed.
        recipe: the settings of the original's training script.
        log_heads: whether the file holds the heads' log-probabilities instead of their logits.
        borders: our names of DFN's border heads, in the order of its ``border_heads``.
    """

    model: str
    factors: tuple[int, ...]
    heads: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()
    recipe: str = ""
    log_heads: bool = False
    borders: tuple[str, ...] = ()


BISENET_HEADS = ("stride16", "stride8", "")
BISENET_GROUPS = (("context_path", ("backbone",)), ("heads", ("head", "aux_heads")))
FULL, SPEED = (16, 8, 8), (2, 1, 1)
DFN = Golden(
    "dfn_r101",
    (32, 16, 8, 4),
    ("stride32", "stride16", "stride8", ""),
    (
        ("smooth_pre_rrbs", ("smooth_pre",)),
        ("cabs", ("attention",)),
        ("smooth_aft_rrbs", ("smooth_post",)),
        ("smooth_heads", ("head", "aux_heads")),
        ("border_pre_rrbs", ("head", "aux_heads")),
        ("border_aft_rrbs", ("head", "aux_heads")),
        ("border_heads", ("head", "aux_heads")),
    ),
    borders=("border4", "border8", "border16", "border32"),
)


def bisenet(model: str, factors: tuple[int, ...], recipe: str) -> Golden:
    return Golden(model, factors, BISENET_HEADS, BISENET_GROUPS, recipe=recipe)


GOLDENS = {
    "torchseg/bisenet_r18": bisenet("bisenet_r18", FULL, "bisenet_r18.cityscapes"),
    "torchseg/bisenet_r18_speed": bisenet(
        "bisenet_r18_speed", SPEED, "bisenet_r18_speed.cityscapes"
    ),
    "torchseg/bisenet_r101": bisenet("bisenet_r101", FULL, "bisenet_r101.cityscapes"),
    "torchseg/bisenet_x39": bisenet("bisenet_x39", FULL, "bisenet_x39.cityscapes"),
    "torchseg/bisenet_x39_speed": bisenet("bisenet_x39", SPEED, "bisenet_x39_speed.cityscapes"),
    "torchseg/fcn32s_r101": Golden(
        "fcn32s_r101",
        (32, 16),
        ("", "stage3"),
        (("FCN", ("backbone", "head", "aux_heads")),),
        recipe="fcn32s_r101.voc",
    ),
    "torchseg/pspnet_r50": Golden(
        "pspnet_r50",
        (8, 8),
        ("", "stage3"),
        (("psp_layer", ("head",)), ("aux_layer", ("aux_heads",))),
        recipe="pspnet_r50.ade20k",
        log_heads=True,
    ),
    "torchseg/psanet_r50": Golden(
        "psanet_r50",
        (8, 8),
        ("", "stage3"),
        (("psa_layer", ("head",)), ("aux_layer", ("aux_heads",))),
        recipe="psanet_r50.ade20k",
        log_heads=True,
    ),
    "torchseg/dfn_r101_voc21": dataclasses.replace(DFN, recipe="dfn_r101.voc"),
    "torchseg/dfn_r101_city19": dataclasses.replace(DFN, recipe="dfn_r101.cityscapes"),
}

every_golden = pytest.mark.parametrize("name", GOLDENS)


def build(name: str) -> SegmentationModel:
    # A released file comes in its project's wrapping.
    checkpoint = {"model": state_of(name), "epoch": 80}
    return model_from_state_dict(checkpoint)


def original_heads(name: str, output: SegOutput) -> list[torch.Tensor]:
    golden = GOLDENS[name]
    logits = [output.aux[head] if head else output.logits for head in golden.heads]
    return [
        F.interpolate(value, scale_factor=factor, mode="bilinear", align_corners=True)
        if factor > 1
        else value
        for value, factor in zip(logits, golden.factors, strict=True)
    ]


def original_borders(name: str, output: SegOutput) -> list[torch.Tensor]:
    return [
        F.interpolate(output.aux[border], scale_factor=4, mode="bilinear", align_corners=True)
        for border in GOLDENS[name].borders
    ]


def original_output(name: str, model: SegmentationModel, case: dict[str, Any]) -> torch.Tensor:
    x = torch.from_numpy(procedural.input_image(case["input_shape"]))
    with torch.inference_mode():
        logits = model(x, upsample=False)
    main = GOLDENS[name].heads.index("")
    factor = GOLDENS[name].factors[main]
    if factor > 1:
        logits = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=True)
    return logits.log_softmax(1) if case["log_softmax"] else logits


def assert_statistics(value: torch.Tensor, expected: dict[str, Any]) -> None:
    assert list(value.shape) == expected["shape"]
    for statistic in ("mean", "std", "min", "max"):
        got = float(getattr(value.double(), statistic)())
        assert got == pytest.approx(expected[statistic], rel=1e-3, abs=5e-4), statistic


def assert_arrays(
    name: str, kind: str, values: list[torch.Tensor], expected: list[dict[str, Any]]
) -> None:
    for index, (value, record) in enumerate(zip(values, expected, strict=True)):
        assert_statistics(value, record)
        stride = record["stride"]
        np.testing.assert_allclose(
            value[:, :, ::stride, ::stride], arrays_of(name)[f"{kind}{index}"], atol=5e-4, rtol=1e-4
        )


@every_golden
def test_outputs(name: str) -> None:
    model = build(name)
    assert model.config.model == GOLDENS[name].model
    assert model.num_classes == record_of(name)["num_classes"]
    for index, case in enumerate(record_of(name)["cases"]):
        out = original_output(name, model, case)
        assert_statistics(out, case["output"])
        suffix = f"_{index}" if index else ""
        stride = case["stride"]
        np.testing.assert_allclose(
            out[:, :, ::stride, ::stride], arrays_of(name)[f"out{suffix}"], atol=5e-4, rtol=1e-4
        )
        different = (out.argmax(1).numpy() != arrays_of(name)[f"argmax{suffix}"]).sum()
        assert different <= case["close_calls"]


@every_golden
def test_every_head(name: str) -> None:
    model = build(name)
    x = torch.from_numpy(procedural.input_image(record_of(name)["cases"][0]["input_shape"]))
    with torch.inference_mode():
        output = model(x, with_aux=True, upsample=False)
        heads = original_heads(name, output)
        borders = original_borders(name, output)
    if GOLDENS[name].log_heads:
        heads = [value.log_softmax(1) for value in heads]
    assert_arrays(name, "head", heads, record_of(name)["heads"])
    assert_arrays(name, "border", borders, record_of(name).get("border_heads", []))
    assert len(output.aux) + 1 == len(heads) + len(borders)


@every_golden
def test_parameter_counts(name: str) -> None:
    model = build(name)
    record = record_of(name)
    assert sum(p.numel() for p in model.parameters()) == record["params"]
    training_only = sum(
        int(np.prod(shape))
        for key, shape, _ in record["state"]
        if key in record["eval_only_missing"]
        and not key.rpartition(".")[2].startswith(("runn", "num_"))
    )
    assert record["params"] - training_only == record["params_eval"]


@every_golden
def test_parameter_groups(name: str) -> None:
    rename = dict(GOLDENS[name].groups)
    theirs = record_of(name)["param_groups"]
    expected: dict[tuple[tuple[str, ...], bool], list[dict[str, Any]]] = {}
    for group in theirs:
        parts = rename.get(group["module"], (group["module"],))
        expected.setdefault((parts, group["weight_decay"] > 0), []).append(group)
    groups = config_groups(build(name), recipe(GOLDENS[name].recipe))
    checked = 0
    for (parts, decayed), originals in expected.items():
        mine = [
            group
            for group in groups
            if group["name"] in parts and (group["weight_decay"] > 0) == decayed
        ]
        params = [parameter for group in mine for parameter in group["params"]]
        assert len(params) == sum(group["tensors"] for group in originals), parts
        elements = sum(parameter.numel() for parameter in params)
        assert elements == sum(group["elements"] for group in originals), parts
        for group in mine:
            for original in originals:
                assert group["lr"] == pytest.approx(original["lr"])
                assert group["weight_decay"] == pytest.approx(original["weight_decay"])
        checked += len(mine)
    assert checked == len(groups)


@pytest.mark.parametrize("name", [name for name in GOLDENS if "train" in record_of(name)])
def test_training_step(name: str) -> None:
    train = record_of(name)["train"]
    model = build(name).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.eval()
    x = torch.from_numpy(procedural.input_image(train["input_shape"], "train")).double()
    count, height, width = train["label_shape"]

    def label_maps(classes: int, kind: str, ignore: int) -> torch.Tensor:
        maps = [
            procedural.label_map(height, width, classes, f"train/{kind}{i}", ignore)
            for i in range(count)
        ]
        return torch.from_numpy(np.stack(maps))

    labels = label_maps(model.num_classes, "label", train["ignore"])
    config = recipe(GOLDENS[name].recipe)
    assert (config.criterion == "ohem") == bool(train.get("ohem"))
    if train.get("ohem"):
        threshold, min_kept = train["ohem"]
        assert config.ohem_threshold == threshold
        config = dataclasses.replace(config, ohem_min_kept=min_kept)
    # The original's borders are compared with a drawn label map here, not with where classes meet.
    smooth = dataclasses.replace(config, border_weight=0)
    objective = Objective(smooth, ignore_index=train["ignore"], align_corners=True)
    output = model(x, with_aux=True, upsample=False)
    heads = original_heads(name, output)
    main = GOLDENS[name].heads.index("")
    aux = {str(index): value for index, value in enumerate(heads) if index != main}
    loss = objective(SegOutput(heads[main], aux), labels)
    if GOLDENS[name].borders:
        edges = label_maps(2, "edge", 255)
        assert config.border_criterion == "legacy"
        borders = border_loss(output, edges, legacy_border_loss, align_corners=True)
        loss = loss + config.border_weight * borders
    assert loss.item() == pytest.approx(train["loss"], rel=1e-8)

    loss.backward()
    converted = our_names(name)
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert {converted[key] for key in train["grad_norm"]} == set(gradients)
    for key, norm in train["grad_norm"].items():
        gradient = gradients[converted[key]]
        if norm is None:
            assert gradient is None, key
        else:
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-9), key
    buffers = dict(model.named_buffers())
    for key, total in {**train["running"], **train["running_var"]}.items():
        assert buffers[converted[key]].sum().item() == pytest.approx(total, rel=1e-6, abs=1e-8), key


def our_names(name: str) -> dict[str, str]:
    """Original name → ours, found by converting tensors that are numbered."""
    from torchseg_zoo.weights.convert import convert

    keys = [key for key, *_ in record_of(name)["state"]]
    shapes = {key: shape for key, shape, _ in record_of(name)["state"]}
    numbered = {key: torch.full(shapes[key], float(index)) for index, key in enumerate(keys)}
    return {
        keys[int(tensor.flatten()[0])]: new for new, tensor in convert(numbered).tensors.items()
    }
