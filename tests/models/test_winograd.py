"""The fast 3×3 convolution against the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import torchseg_zoo as tsz
from torchseg_zoo.models import winograd
from torchseg_zoo.models.winograd import WinogradConv2d, speed_up_convs


def conv(channels: int = 128, out: int = 128, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation, bias=bias)
    return layer.to(memory_format=torch.channels_last)


def multiplied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the products that are taken at the points, as they are taken."""
    shapes = []

    def bmm(left: Tensor, right: Tensor) -> Tensor:
        shapes.append((*left.shape, right.shape[2]))
        return left @ right

    monkeypatch.setattr(winograd.torch, "bmm", bmm)
    return shapes


@pytest.mark.parametrize("dilation", [1, 2, 4, 6])
@pytest.mark.parametrize(("height", "width"), [(48, 96), (45, 90), (47, 95), (69, 93)])
def test_equals_the_plain_convolution(
    monkeypatch: pytest.MonkeyPatch, dilation: int, height: int, width: int
) -> None:
    layer = conv(128, 136, dilation, bias=dilation != 2)
    x = torch.randn(2, 128, height, width)
    with torch.inference_mode():
        wanted = layer.double()(x.double())
        layer.float()
        taken = multiplied(monkeypatch)
        got = WinogradConv2d(layer)(x)
    assert taken, "the plain convolution ran"
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() < 3e-5 * wanted.std()


def test_rounding_is_that_of_the_plain_sum() -> None:
    layer = conv(512, 128)
    x = torch.randn(1, 512, 32, 64)
    with torch.inference_mode():
        exact = layer.double()(x.double())
        layer.float()
        plain = (layer(x) - exact).std()
        fast = (WinogradConv2d(layer)(x) - exact).std()
    assert fast < 8 * plain
    assert fast < 5e-6 * exact.std()


def test_large_maps_are_taken_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv(128, 128)
    x = torch.randn(1, 128, 256, 256)
    with torch.inference_mode():
        wanted = layer(x)
        taken = multiplied(monkeypatch)
        got = WinogradConv2d(layer)(x)
    assert (got - wanted).abs().max() < 3e-5 * wanted.std()
    assert len(taken) > 4
    assert max(36 * 4 * tiles * 256 for _, tiles, _, _ in taken) < 2 * winograd._BAND_BYTES


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 5, padding=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=128),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 3, padding=(2, 1), dilation=(2, 1)),
        nn.Conv2d(32, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1).double(),
        nn.Conv2d(128, 128, 3, padding="same"),
    ],
    ids=str,
)
def test_other_convolutions_stay(layer: nn.Conv2d) -> None:
    model = nn.Sequential(layer)
    speed_up_convs(model)
    assert model[0] is layer


def test_plain_where_it_cannot_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv()
    fast = WinogradConv2d(layer)
    taken = multiplied(monkeypatch)
    small, large = torch.randn(1, 128, 8, 8), torch.randn(1, 128, 32, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fast(small), layer(small))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fast(large).dtype == torch.bfloat16
    leaf = large.requires_grad_()
    fast(leaf).sum().backward()
    assert leaf.grad is not None and leaf.grad.abs().sum() > 0
    assert not taken


def test_fused_models_use_it_and_still_export(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = tsz.fcn_r50(num_classes=3, backbone="resnet18").eval()
    x = torch.randn(1, 3, 128, 256)
    with torch.inference_mode():
        wanted = model(x)
        model.fuse()
        taken = multiplied(monkeypatch)
        got = model(x)
    assert len(taken) >= 4
    assert (got - wanted).abs().max() < 1e-4 * wanted.std()
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not any("bmm" in name for name in called)
    torch.testing.assert_close(
        exported.module()(x), wanted, rtol=0, atol=1e-4 * float(wanted.std())
    )


def test_is_one_step_of_a_compiled_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = conv(128, 136, dilation=2)
    fast, x = WinogradConv2d(layer), torch.randn(2, 128, 47, 95)
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    with torch.inference_mode():
        taken = multiplied(monkeypatch)
        got = torch.compile(fast, backend=keep, fullgraph=True)(x)
        assert taken
        torch.testing.assert_close(got, layer(x), rtol=0, atol=3e-5)
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert called == ["torchseg_zoo.winograd_conv2d.default"], called


@pytest.mark.parametrize("bias", [True, False])
def test_the_step_says_what_it_returns(bias: bool) -> None:
    fast = WinogradConv2d(conv(128, 136, bias=bias))
    x = torch.randn(1, 128, 47, 95)
    bias_ = None if fast.bias is None else fast.bias.detach()
    step = torch.ops.torchseg_zoo.winograd_conv2d
    torch.library.opcheck(
        step, (x, fast.kernel, bias_, 1), test_utils=("test_schema", "test_faketensor")
    )
