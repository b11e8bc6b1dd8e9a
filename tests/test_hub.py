"""``torch.hub`` on a checkout: the list, the help, and a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from released import TAG, declare

import torchseg_zoo as tsz

CHECKOUT = str(Path(__file__).parents[1])


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository that the hub has fetched already: its list and help know no local source."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: CHECKOUT)
    return "owner/torchseg-zoo"


def test_the_hub_lists_every_factory(fetched: str) -> None:
    assert set(tsz.list_models()) <= set(torch.hub.list(fetched))


def test_the_hub_shows_a_factorys_help(fetched: str) -> None:
    text = torch.hub.help(fetched, "bisenet_x39")
    assert text == tsz.bisenet_x39.__doc__ and "Xception39" in text


def test_the_hub_builds_a_model() -> None:
    model = torch.hub.load(CHECKOUT, "bisenet_x39", source="local", num_classes=4)
    assert type(model) is tsz.models.bisenet.BiSeNet and model.num_classes == 4


def test_the_hub_passes_the_checkpoint_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tsz.bisenet_x39(num_classes=5)
    with declare(source, tmp_path, monkeypatch):
        model = torch.hub.load(CHECKOUT, "bisenet_x39", TAG, source="local")
    assert torch.equal(model.head.classifier.weight, source.head.classifier.weight)
