"""The border losses: the one TorchSeg trained DFN with, and the one it meant."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import procedural
from golden.reading import arrays_of, record_of
from torchvision.ops import sigmoid_focal_loss

from torchseg_zoo.training.border import (
    binary_focal_loss,
    border_loss,
    border_targets,
    cropped_border_targets,
    legacy_border_loss,
)
from torchseg_zoo.training.losses import after_resize, total_loss
from torchseg_zoo.types import SegOutput


def golden_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.from_numpy(procedural.uniform("focal/logits", (2, 1, 24, 30), -3, 3)).float()
    edges = np.stack([procedural.label_map(24, 30, 2, f"focal/label{i}") for i in range(2)])
    return logits.requires_grad_(), torch.from_numpy(edges)


@pytest.mark.parametrize("case", record_of("torchseg/losses_metrics")["focal"])
def test_legacy_loss_equals_the_original(case: dict[str, float]) -> None:
    logits, edges = golden_inputs()
    loss = legacy_border_loss(logits, edges, alpha=case["alpha"], gamma=case["gamma"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.sum().item() == pytest.approx(case["grad_sum"], rel=1e-5)
    assert logits.grad.abs().sum().item() == pytest.approx(case["grad_abs_sum"], rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 2.0), (0.25, 0.0)])
def test_focal_loss_equals_torchvision(alpha: float, gamma: float) -> None:
    logits, edges = golden_inputs()
    kept = edges != 255
    expected = sigmoid_focal_loss(
        logits[:, 0][kept], edges[kept].float(), alpha=alpha, gamma=gamma, reduction="mean"
    )
    loss = binary_focal_loss(logits, edges, alpha=alpha, gamma=gamma)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_loss_pushes_edges_up_and_the_rest_down() -> None:
    logits, edges = golden_inputs()
    binary_focal_loss(logits, edges).backward()
    assert logits.grad is not None
    gradient = logits.grad[:, 0]
    assert (gradient[edges == 1] < 0).all()
    assert (gradient[edges == 0] > 0).all()
    assert (gradient[edges == 255] == 0).all()


def test_focal_loss_of_certain_and_of_no_pixels_is_finite() -> None:
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0]).view(1, 1, 1, 4).requires_grad_()
    edges = torch.tensor([[[1, 0, 0, 1]]])
    loss = binary_focal_loss(logits, edges)
    loss.backward()
    assert loss.item() == pytest.approx((0.75 * 200 + 0.25 * 200) / 4)
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert binary_focal_loss(logits, torch.full_like(edges, 255)).item() == 0


def test_border_heads_are_compared_with_edges_and_class_heads_with_labels() -> None:
    edges = torch.zeros(1, 8, 8, dtype=torch.int64)
    classes = torch.zeros(1, 3, 4, 4)
    aux = {"stride8": classes, "border4": torch.ones(1, 1, 2, 2), "border8": torch.ones(1, 1, 4, 4)}
    output = SegOutput(classes, aux)

    def mean(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        assert logits.shape[-2:] == target.shape[-2:]
        return logits.mean()

    assert border_loss(output, edges, mean, align_corners=True).item() == 2
    assert total_loss(output, edges, after_resize(mean), aux_weight=1.0, align_corners=True) == 0


# Targets


@pytest.mark.parametrize("index", range(3))
def test_targets_equal_the_originals(index: int) -> None:
    arrays = arrays_of("torchseg/pipeline")
    labels, want = arrays[f"edge{index}_gt"], arrays[f"edge{index}_out"]
    both = torch.from_numpy(np.stack([labels, np.zeros_like(labels)]))
    got = border_targets(both)
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got[0].numpy(), want)
    assert not got[1].any()  # one class has no border


def test_padding_has_no_target_and_causes_none() -> None:
    labels = torch.full((3, 40, 50), 255, dtype=torch.uint8)
    labels[0, 10:30, 5:45] = 7
    labels[0, 10:30, 25:45] = 3
    labels[1] = 2
    labels[1, 15:25, 20:30] = 255  # not labelled, but inside: class 0 to the detector
    edges = cropped_border_targets(labels)
    inside = torch.zeros(40, 50, dtype=torch.bool)
    inside[10:30, 5:45] = True
    assert (edges[0][~inside] == 255).all()
    assert (edges[0][inside] != 255).all()
    columns = edges[0][10:30].eq(1).all(0).nonzero().flatten().tolist()
    assert columns == list(range(min(columns), max(columns) + 1)) and 25 in columns
    assert (edges[0][10:30] == 1).any(0).sum() == len(columns)  # only where 7 meets 3
    assert (edges[1] == 1).any() and (edges[1] != 255).all()
    assert (edges[2] == 255).all()
