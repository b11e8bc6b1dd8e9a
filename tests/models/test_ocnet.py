"""OCNet's attention blocks against loops over their definition, and the layouts without goldens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import procedural
from torch import Tensor

from torchseg_zoo.errors import ArgumentError, InputShapeError
from torchseg_zoo.models.checkpoint import model_from_state_dict
from torchseg_zoo.models.object_context import CellAttention, InterlacedAttention, WindowAttention
from torchseg_zoo.models.ocnet import OCNet, OCNetConfig, ocnet_asp_r101
from torchseg_zoo.weights.convert import convert


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(procedural.uniform("noise", shape, -1, 1)).double()


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Of the maps' positions among each other, by the book."""
    weights = (query.flatten(2).mT @ key.flatten(2)) / query.shape[1] ** 0.5
    return (value.flatten(2) @ weights.softmax(-1).mT).reshape(value.shape)


@pytest.mark.parametrize("size", [(7, 9), (12, 12), (13, 6), (4, 15)])
@pytest.mark.parametrize("bins", [2, 3, 6])
def test_windows_equal_a_loop(size: tuple[int, int], bins: int) -> None:
    block = WindowAttention(bins, (8, 4, 8, 8), slope=0.01, separate_query=False).double()
    maps = [noise(2, channels, *size) for channels in (4, 4, 8)]
    expected = torch.empty_like(maps[2])
    edges = [[*(i * (side // bins) for i in range(bins)), side] for side in size]
    for top, bottom in zip(edges[0], edges[0][1:], strict=False):
        for left, right in zip(edges[1], edges[1][1:], strict=False):
            if top < bottom and left < right:
                window = (..., slice(top, bottom), slice(left, right))
                expected[window] = attention(*(one[window] for one in maps))
    torch.testing.assert_close(block.gather(*maps), expected)


@pytest.mark.parametrize("long_range", [True, False])
def test_cells_equal_a_loop(long_range: bool) -> None:
    block = CellAttention(8, 4, long_range=long_range).double()
    maps = [noise(2, channels, 16, 24) for channels in (4, 4, 8)]
    expected = torch.empty_like(maps[2])
    if long_range:
        parts = [(..., slice(i, None, 8), slice(j, None, 8)) for i in range(8) for j in range(8)]
    else:
        parts = [
            (..., slice(i, i + 8), slice(j, j + 8))
            for i in range(0, 16, 8)
            for j in range(0, 24, 8)
        ]
    for part in parts:
        expected[part] = attention(*(one[part] for one in maps))
    torch.testing.assert_close(block.gather(*maps), expected)


def test_interlaced_pads_the_smaller_half_first() -> None:
    block = InterlacedAttention(8, 4).double().eval()
    x = noise(1, 8, 13, 16)
    padded = F.pad(x, (0, 0, 1, 2))
    torch.testing.assert_close(block(x), block.short(block.long(padded))[:, :, 1:14])


def tiny(**fields: Any) -> OCNet:
    config = OCNetConfig("ocnet_base_r101", "resnet10t", num_classes=3, **fields)
    return OCNet(config)


@pytest.mark.parametrize("context", ["base", "pyramid", "asp", "interlaced"])
def test_a_map_smaller_than_the_windows_trains(context: str) -> None:
    model = tiny(context=context).train()
    output = model(torch.randn(2, 3, 64, 96), with_aux=True)
    (output.logits.mean() + output.aux["stage3"].mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_attention_starts_silent() -> None:
    model = tiny().eval()
    x = torch.randn(1, 512, 4, 4)
    assert not model.head.context.attention(x).any()


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="'round'"):
        tiny(context="round")
    with pytest.raises(InputShapeError, match="at least 64"):
        tiny(context="asp")(torch.zeros(1, 3, 33, 96))
    assert ocnet_asp_r101(backbone="resnet18").config.backbone_options.ceil_pool is False


def openseg_names(model: OCNet, context: str) -> dict[str, Tensor]:
    """A model's tensors under the names that openseg.pytorch gives them."""
    import re

    root = {"base": "oc_module", "asp": "context.2", "interlaced": "isa_head.2"}[context]
    pre = {"base": "oc_module_pre", "asp": "context", "interlaced": "isa_head"}[context]
    suffix = "_head" if context == "interlaced" else ""
    inner = {"base": "stages.0", "asp": "context.2.stages.0", "interlaced": "stages.0"}[context]
    fuse = "conv_bn" if context == "interlaced" else "conv_bn_dropout"
    last = 3 if context == "interlaced" else 2
    rules = [
        (r"backbone\.body\.conv1\.([036])", lambda m: f"backbone.resinit.conv{int(m[1]) // 3 + 1}"),
        (r"backbone\.body\.conv1\.([14])", lambda m: f"backbone.resinit.bn{int(m[1]) // 3 + 1}"),
        (r"backbone\.body\.bn1", "backbone.resinit.bn3"),
        (r"backbone\.body\.", "backbone."),
        (r"^head\.conv\.conv", f"{pre}.0"),
        (r"^head\.conv\.norm", f"{pre}.1.0"),
        (r"\.attention\.(long|short)\.", r".attention.\1_range_sa."),
        (r"\.(key|query)\.(\d)\.conv", lambda m: f".f_{m[1]}.{2 * int(m[2])}"),
        (r"\.(key|query)\.(\d)\.norm", lambda m: f".f_{m[1]}.{2 * int(m[2]) + 1}.0"),
        (r"\.value\.", ".f_value."),
        (r"\.project\.conv", ".W.0"),
        (r"\.project\.norm", ".W.1.0"),
        (r"\.project\.", ".W."),
        (r"^head\.context\.attention", f"{root}.{inner}"),
        (r"^head\.context\.local\.conv", f"{root}.context.0"),
        (r"^head\.context\.local\.norm", f"{root}.context.1.0"),
        (r"^head\.context\.tail\.norm", f"{root}.context.2.conv_bn_dropout.0.0"),
        (r"^head\.context\.branches\.(\d)\.conv", lambda m: f"{root}.conv{int(m[1]) + 2}.0"),
        (r"^head\.context\.branches\.(\d)\.norm", lambda m: f"{root}.conv{int(m[1]) + 2}.1.0"),
        (r"^head\.context\.fuse\.conv", f"{root}.{fuse}.0"),
        (r"^head\.context\.fuse\.norm", f"{root}.{fuse}.1.0"),
        (r"^head\.classifier", f"cls{suffix}"),
        (r"^aux_heads\.stage3\.conv\.conv", f"dsn{suffix}.0"),
        (r"^aux_heads\.stage3\.conv\.norm", f"dsn{suffix}.1.0"),
        (r"^aux_heads\.stage3\.classifier", f"dsn{suffix}.{last}"),
    ]
    named = {}
    for name, tensor in model.state_dict().items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    return named


@pytest.mark.parametrize(
    ("context", "model"), [("base", "base"), ("asp", "asp"), ("interlaced", "isa")]
)
def test_openseg_files_convert(context: str, model: str) -> None:
    config = OCNetConfig(
        f"ocnet_{model}_r50",
        "resnet50s",
        num_classes=4,
        context=context,
        negative_slope=0.0,
        separate_query=True,
        narrow_asp=context == "asp",
        conv_bias=context != "interlaced",
    )
    with torch.device("meta"):
        original = OCNet(config)
    state = {
        name: torch.from_numpy(procedural.fill(name, tuple(tensor.shape))).reshape(tensor.shape)
        for name, tensor in openseg_names(original, context).items()
    }
    if context == "interlaced":
        state = {name: tensor for name, tensor in state.items() if "f_value.bias" not in name}
    converted = model_from_state_dict(state)
    assert converted.config.model == config.model
    assert converted.config.context == context
    assert converted.config.separate_query
    assert converted.config.narrow_asp == config.narrow_asp
    ours = converted.state_dict()
    if context == "interlaced":
        first, second = state["isa_head.2.conv_bn.0.weight"].chunk(2, dim=1)
        assert torch.equal(ours["head.context.fuse.conv.weight"], torch.cat([second, first], 1))
        assert not ours["head.context.attention.long.value.bias"].any()


def test_inplace_abn_files_get_their_absolute_weights() -> None:
    norm = {"weight": -2.0, "bias": 1.0, "running_mean": 0.0, "running_var": 1.0}
    shapes = {
        "conv1.weight": (64, 3, 3, 3),
        "layer1.0.conv3.weight": (1,),
        "cls.weight": (19, 512, 1, 1),
    }
    state = {name: torch.ones(shape) for name, shape in shapes.items()}
    state |= {f"layer3.{i}.conv1.weight": torch.ones(1) for i in range(6)}
    state |= {f"layer4.{i}.conv1.weight": torch.ones(1) for i in range(3)}
    state |= {f"bn3.{key}": torch.full((1,), value) for key, value in norm.items()}
    state |= {f"context.2.stages.0.{key}.0.weight": torch.ones(1) for key in ("f_key", "f_query")}
    plain = {**state, "bn3.num_batches_tracked": torch.tensor(0)}
    assert convert(state).tensors["backbone.body.bn1.weight"].item() == pytest.approx(2.00001)
    assert convert(plain).tensors["backbone.body.bn1.weight"].item() == -2
