"""EncNet's semantic encoding loss against mmsegmentation's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import procedural
from golden.reading import record_of

from torchseg_zoo.training.losses import cross_entropy, presence_loss, total_loss
from torchseg_zoo.types import SegOutput

GOLDEN = record_of("mmseg/losses")["values"]["encnet_se_loss"]


def labels() -> torch.Tensor:
    maps = [
        procedural.label_map(37, 53, 7, name=f"mmseg.loss.label.{i}").astype(np.int64)
        for i in range(2)
    ]
    maps[0][maps[0] == 3] = 255
    maps[1][(maps[1] == 5) | (maps[1] == 6)] = 255
    return torch.from_numpy(np.stack(maps))


def test_equals_mmseg() -> None:
    logits = torch.from_numpy(procedural.uniform("mmseg.loss.se_logits", (2, 7), -2, 2)).float()
    loss = GOLDEN["loss_weight"] * presence_loss(logits, labels())
    assert loss.item() == pytest.approx(GOLDEN["value"], rel=1e-6)


def test_is_part_of_the_total() -> None:
    presence = torch.zeros(2, 7)
    main = torch.randn(2, 7, 10, 14)
    output = SegOutput(main, {"presence": presence})
    options = {"aux_weight": 0.2, "align_corners": True}
    total = total_loss(output, labels(), cross_entropy, **options)
    alone = total_loss(SegOutput(main, {}), labels(), cross_entropy, **options)
    assert (total - alone).item() == pytest.approx(0.2 * np.log(2), rel=1e-5)
