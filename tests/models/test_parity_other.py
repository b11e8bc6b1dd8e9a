"""Parity with the original code of six further families: see tests/golden/README.md.

A golden file is one line in ``GOLDENS``; everything else is read from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import procedural
from golden.reading import arrays_of, record_of, state_of

from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.models.checkpoint import model_from_state_dict
from torchseg_zoo.types import SegOutput

Output = Callable[[SegmentationModel, torch.Tensor, SegOutput], torch.Tensor]


def main(model: SegmentationModel, x: torch.Tensor, low: SegOutput) -> torch.Tensor:
    """The main logits at input size."""
    return model._to_size(low.logits, (x.shape[-2], x.shape[-1]))


def main_low(model: SegmentationModel, x: torch.Tensor, low: SegOutput) -> torch.Tensor:
    """The main logits at the head's stride."""
    return low.logits


def times8(model: SegmentationModel, x: torch.Tensor, low: SegOutput) -> torch.Tensor:
    """The main logits, enlarged by the factor 8 whatever the input's size."""
    return F.interpolate(
        low.logits, scale_factor=8, mode="bilinear", align_corners=model.config.align_corners
    )


def aux_low(head: str) -> Output:
    """An auxiliary head's logits at its own stride."""
    return lambda model, x, low: low.aux[head]


def aux(head: str) -> Output:
    """An auxiliary head's logits at input size."""
    return lambda model, x, low: model._to_size(low.aux[head], (x.shape[-2], x.shape[-1]))


@dataclass(frozen=True)
class Golden:
    """How one golden file is to be read.

    Args:
        model: factory name that the converter must arrive at.
        outputs: golden output → how ours is computed.
        config: what shapes cannot tell, from a case's settings.
    """

    model: str
    outputs: dict[str, Output]
    config: Callable[[dict[str, Any]], dict[str, Any]] = field(default=lambda case: {})


def strided(case: dict[str, Any]) -> dict[str, Any]:
    return {"backbone_options": {"output_stride": case["output_stride"]}}


def multi_grid(case: dict[str, Any]) -> dict[str, Any]:
    stride = case["output_stride"]
    last_stage = tuple(32 // stride * factor for factor in (1, 2, 4))
    return {
        "backbone_options": {
            "output_stride": stride,
            "whole_stage": True,
            "last_stage": last_stage,
        }
    }


def attending(**fields: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda case: fields


PSANET = {"logits": main, "aux_low": aux_low("stage3")}


def aligned(case: dict[str, Any]) -> dict[str, Any]:
    return {"align_corners": case["align_corners"]}


def aligned_os16(case: dict[str, Any]) -> dict[str, Any]:
    return {**aligned(case), "backbone_options": {"output_stride": 16, "final_norm": False}}


ENCNET = {"logits": main, "se_logits": aux_low("presence"), "aux_logits": aux("stage3")}
OCNET = {"logits_low": main_low, "dsn_low": aux_low("stage3"), "logits_up": main}

GOLDENS: dict[str, Golden] = {
    "other/psanet_resnet50_bidirectional": Golden("psanet_r50", PSANET),
    "other/psanet_resnet50_collect": Golden("psanet_r50", PSANET),
    "other/psanet_resnet50_distribute": Golden(
        "psanet_r50", PSANET, attending(direction="distribute")
    ),
    "other/psanet_resnet50_bidirectional_compact": Golden(
        "psanet_r50", PSANET, attending(attention="compact")
    ),
    "other/deeplabv3_resnet50_vainf": Golden("deeplabv3_r50", {"logits": main}, strided),
    "other/deeplabv3plus_resnet50_vainf": Golden("deeplabv3plus_r50", {"logits": main}, strided),
    "other/deeplabv3plus_resnet101_jfzhang": Golden(
        "deeplabv3plus_r101", {"logits": main}, multi_grid
    ),
    "other/denseaspp_densenet121_os8": Golden("denseaspp_d121", {"logits": times8}, aligned),
    "other/denseaspp_densenet121_os16": Golden("denseaspp_d121", {"logits": times8}, aligned_os16),
    "other/encnet_resnet50s_plain": Golden("encnet_r50", ENCNET),
    "other/encnet_resnet50s_lateral": Golden("encnet_r50", ENCNET),
    "other/ocnet_base_oc_resnet50": Golden("ocnet_base_r50", OCNET),
    "other/ocnet_pyramid_oc_resnet50": Golden("ocnet_pyramid_r50", OCNET),
    "other/ocnet_asp_oc_resnet50": Golden("ocnet_asp_r50", OCNET),
}


def cases() -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}-{case['name']}")
        for name in GOLDENS
        for case in record_of(name)["cases"]
    ]


@pytest.mark.parametrize(("name", "case"), cases())
def test_outputs(name: str, case: dict[str, Any]) -> None:
    golden = GOLDENS[name]
    model = model_from_state_dict(state_of(name), config=golden.config(case))
    assert model.config.model == golden.model
    assert model.num_classes == record_of(name)["num_classes"]
    x = torch.from_numpy(procedural.input_image(case["input_shape"]))
    with torch.inference_mode():
        low = model(x, with_aux=True, upsample=False)
        assert set(golden.outputs) == set(case["outputs"])
        for output, compute in golden.outputs.items():
            value = compute(model, x, low)
            expected = case["outputs"][output]
            assert list(value.shape) == expected["full_shape"], output
            assert float(value.double().std()) == pytest.approx(expected["std"], rel=1e-3)
            step = tuple(slice(None, None, one) for one in expected["step"])
            stored = arrays_of(name)[expected["array"]]
            atol = 1e-4 * expected["std"]
            np.testing.assert_allclose(
                value.numpy()[step], stored, atol=atol, rtol=0, err_msg=output
            )


@pytest.mark.parametrize("name", GOLDENS)
def test_parameter_count(name: str) -> None:
    record = record_of(name)
    shapes = {key: shape for key, shape, _ in record["state_dict"]}
    # OCNet's key and query share their tensors, and the file counts them twice.
    shared = sum(
        int(np.prod(shape))
        for key, shape in shapes.items()
        if ".f_key." in key and key.endswith((".weight", ".bias"))
    )
    config = GOLDENS[name].config(record["cases"][0])
    model = model_from_state_dict(state_of(name), config=config)
    assert sum(p.numel() for p in model.parameters()) == record["parameters"] - shared
