"""``training.objective``: what the settings ask for is what is computed; DFN learns its borders."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.errors import ArgumentError
from torchseg_zoo.models.dfn import DFN, DFNConfig
from torchseg_zoo.training import build
from torchseg_zoo.training.border import (
    binary_focal_loss,
    border_loss,
    cropped_border_targets,
    legacy_border_loss,
)
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.loop import train
from torchseg_zoo.training.objective import Objective
from torchseg_zoo.training.overlap_losses import dice_loss, focal_loss, lovasz_softmax
from torchseg_zoo.types import SegOutput

K = 4


def output_and_labels() -> tuple[SegOutput, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    main, aux = (torch.randn(2, K, side, side, generator=random) for side in (6, 3))
    labels = torch.randint(0, K, (2, 24, 24), generator=random).to(torch.uint8)
    labels[:, :3] = 255
    return SegOutput(main, {"stage3": aux}), labels


def full(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, (24, 24), mode="bilinear", align_corners=False)


def plain_ce(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.cross_entropy(full(logits), labels.long(), ignore_index=255, **options)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ce", plain_ce),
        ("focal", lambda z, y: focal_loss(full(z), y)),
        ("dice", lambda z, y: dice_loss(full(z), y)),
        ("lovasz", lambda z, y: lovasz_softmax(full(z), y)),
        ("ce+dice", lambda z, y: plain_ce(z, y) + dice_loss(full(z), y)),
        ("ce+lovasz", lambda z, y: plain_ce(z, y) + lovasz_softmax(full(z), y)),
    ],
)
def test_criteria_by_name(name: Any, loss: Any) -> None:
    output, labels = output_and_labels()
    for aux_criterion in ("same", "ce"):
        config = TrainConfig(criterion=name, aux_criterion=aux_criterion, aux_weight=0.4)  # type: ignore[arg-type]
        got = Objective(config, align_corners=False)(output, labels)
        aux = (loss if aux_criterion == "same" else plain_ce)(output.aux["stage3"], labels)
        want = loss(output.logits, labels) + 0.4 * aux
        assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_weights_smoothing_and_ohem_reach_the_loss() -> None:
    output, labels = output_and_labels()
    alone = SegOutput(output.logits, {})
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    config = TrainConfig(label_smoothing=0.2)
    got = Objective(config, weight=weight, align_corners=False)(alone, labels)
    want = plain_ce(output.logits, labels, weight=weight, label_smoothing=0.2)
    assert got.item() == pytest.approx(want.item(), rel=1e-5)
    ohem = TrainConfig(criterion="ohem", ohem_threshold=0.0, ohem_min_kept=0.25)
    hard = Objective(ohem, align_corners=False)(alone, labels)
    costs = F.cross_entropy(full(output.logits), labels.long(), ignore_index=255, reduction="none")
    hardest = costs.flatten().topk(labels.numel() // 4).values.mean()
    assert hard.item() == pytest.approx(hardest.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "loss"), [("focal", binary_focal_loss), ("legacy", legacy_border_loss)]
)
def test_border_losses_are_added_by_their_weight(kind: Any, loss: Any) -> None:
    output, labels = output_and_labels()
    output.aux["border4"] = torch.randn(2, 1, 6, 6)
    config = TrainConfig(border_weight=0.1, border_criterion=kind)
    objective = Objective(config, align_corners=False)
    without = Objective(dataclasses.replace(config, border_weight=0), align_corners=False)
    edges = cropped_border_targets(labels)
    want = 0.1 * border_loss(output, edges, loss, align_corners=False)
    added = objective(output, labels) - without(output, labels)
    assert added.item() == pytest.approx(want.item(), rel=1e-4)
    with pytest.raises(ArgumentError, match="border_weight: bisenet_x39 has no border heads"):
        objective(SegOutput(output.logits, {}), labels)


def test_a_dfn_learns_where_classes_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(config: TrainConfig, num_classes: int) -> DFN:
        return DFN(
            DFNConfig(
                "dfn_r101", "resnet18", num_classes=num_classes, smooth_channels=16,
                head_channels=16,
            )
        )  # fmt: skip

    monkeypatch.setattr(build, "build_network", narrow)
    scenes = DrawnStreets(2, seed=5, size=(64, 64))
    config = TrainConfig(
        model="dfn_r101", data="drawn", out=str(tmp_path), epochs=2,
        steps_per_epoch=1, batch_size=2, crop=(64, 64), optimizer="sgd", lr=1e-3,
        criterion="ce", border_weight=1.0, brightness=0, scales=(1.0,), mirror=False,
        eval_every=2, device="cpu",
    )  # fmt: skip
    result = train(config, train_set=scenes, val_set=scenes, progress=False)
    with result.log.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    model = tsz.load_model(result.best).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    images = torch.cat([model.preprocess.tensor(scenes[index].image) for index in range(2)])
    labels = torch.stack([torch.from_numpy(scenes[index].label) for index in range(2)])
    edges = cropped_border_targets(labels)
    assert 0.05 < (edges == 1).float().mean() < 0.95
    losses = []
    for _ in range(3):
        output = model(images, with_aux=True, upsample=False)
        loss = border_loss(output, edges, binary_focal_loss, align_corners=True)
        optimizer.zero_grad()
        loss.backward()
        heads = model.get_submodule("aux_heads.border.heads")
        assert all(value.grad is not None and value.grad.any() for value in heads.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
