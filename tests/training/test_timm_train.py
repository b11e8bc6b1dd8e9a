"""``tools/timm_train.py``: a script of timm's kind finds Xception39; its weights fit a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.network import build_network

LAUNCHER = Path(__file__).parents[2] / "tools" / "timm_train.py"
SCRIPT = """
import sys, beside, torch, timm
from safetensors.torch import save_file
assert __name__ == "__main__" and sys.argv[1:] == ["--model", "xception39"], sys.argv
model = timm.create_model(sys.argv[2], num_classes=7)
assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
save_file(model.state_dict(), beside.OUT)
"""


def test_a_script_trains_xception39_and_its_weights_start_a_run(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    (tmp_path / "beside.py").write_text(f"OUT = {str(weights)!r}\n")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(LAUNCHER), str(script), "--model", "xception39"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = build_network(TrainConfig(backbone_weights=str(weights)), 5)
    assert isinstance(model.backbone.body, torch.nn.Module)
    again = build_network(TrainConfig(backbone_weights=str(weights)), 5)
    for one, other in zip(model.backbone.parameters(), again.backbone.parameters(), strict=True):
        assert torch.equal(one, other)
