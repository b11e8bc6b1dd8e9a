"""Parity with mmsegmentation and torchvision: see tests/golden/README.md.

A golden file is one line in ``GOLDENS``; everything else is read from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from golden import procedural
from golden.reading import arrays_of, record_of, state_of

from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import model_from_state_dict


@dataclass(frozen=True)
class Golden:
    """How one golden file is to be read.

    Args:
        model: factory name that the converter must arrive at.
        heads: golden array of a head → our auxiliary name; "" is the main head.
        final: golden array → ours, at input size.
        config: what shapes cannot tell.
    """

    model: str
    heads: dict[str, str]
    final: dict[str, str] = field(default_factory=lambda: {"final": ""})
    config: dict[str, Any] = field(default_factory=dict)


DILATED = {"decode_head": "", "auxiliary_head": "stage3"}
ALIGNED = {"align_corners": True}
D6 = {"backbone_options": {"output_stride": 16}, "head_dilation": 6}

GOLDENS: dict[str, Golden] = {
    "mmseg/bisenetv1_r18": Golden(
        "bisenet_r18",
        {"decode_head": "", "auxiliary_head.0": "stride8", "auxiliary_head.1": "stride16"},
    ),
    "mmseg/fcn_r50": Golden("fcn_r50", DILATED),
    "mmseg/fcn_d6_r50b": Golden("fcn_r50", DILATED, config=D6),
    "mmseg/pspnet_r50": Golden("pspnet_r50", DILATED),
    "mmseg/pspnet_r50_769": Golden("pspnet_r50", DILATED, config=ALIGNED),
    "mmseg/pspnet_r50_ade20k": Golden("pspnet_r50", DILATED),
    "mmseg/deeplabv3_r50": Golden("deeplabv3_r50", DILATED),
    "mmseg/deeplabv3plus_r18": Golden("deeplabv3plus_r18", DILATED),
    "mmseg/deeplabv3plus_r18_wide": Golden("deeplabv3plus_r18", DILATED),
    "mmseg/deeplabv3plus_r50": Golden("deeplabv3plus_r50", DILATED),
    "mmseg/encnet_r50": Golden(
        "encnet_r50",
        {"decode_head.0": "", "decode_head.1": "presence", "auxiliary_head": "stage3"},
    ),
    "mmseg/isanet_r50": Golden("ocnet_isa_r50", DILATED),
    "mmseg/psanet_r50": Golden("psanet_r50", DILATED),
    "torchvision/deeplabv3_resnet50": Golden(
        "deeplabv3_r50",
        {"classifier": "", "aux_classifier": "stage3"},
        {"final.out": "", "final.aux": "stage3"},
    ),
    "torchvision/fcn_resnet50": Golden(
        "fcn_r50",
        {"classifier": "", "aux_classifier": "stage3"},
        {"final.out": "", "final.aux": "stage3"},
    ),
}

every_golden = pytest.mark.parametrize("name", GOLDENS)


def build(name: str) -> SegmentationModel:
    # A released file comes in its project's wrapping.
    checkpoint: dict[str, Any] = state_of(name)
    if name.startswith("mmseg/"):
        checkpoint = {"meta": {"epoch": 1}, "state_dict": checkpoint}
    return model_from_state_dict(checkpoint, config=GOLDENS[name].config)


def assert_equal(name: str, array: str, value: torch.Tensor) -> None:
    expected = record_of(name)["outputs"][array]
    assert list(value.shape) == expected["shape"], array
    got = eval(f"value{expected['saved']}", {"value": value.numpy()})  # an index from our own file
    # Noise is at most 2e-5; the spatial spread guards against values too flat for a fixed bound.
    atol = min(1e-4, 1e-3 * expected["spatial_std"]) if expected.get("spatial_std") else 1e-4
    np.testing.assert_allclose(
        got, arrays_of(name)[array], atol=max(atol, 2e-5), rtol=1e-4, err_msg=array
    )


@every_golden
def test_outputs(name: str) -> None:
    golden = GOLDENS[name]
    model = build(name)
    assert model.config.model == golden.model
    assert model.num_classes == record_of(name)["num_classes"]
    assert model.config.align_corners == record_of(name)["align_corners"]
    x = torch.from_numpy(procedural.input_image(record_of(name)["input_shape"]))
    with torch.inference_mode():
        low = model(x, with_aux=True, upsample=False)
        full = model(x, with_aux=True)
    for array, head in golden.heads.items():
        assert_equal(name, array, low.aux[head] if head else low.logits)
    for array, head in golden.final.items():
        assert_equal(name, array, full.aux[head] if head else full.logits)


@every_golden
def test_parameter_count(name: str) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == record_of(name)["num_params"]
