"""Runs exported models. Free of torch and timm: numpy, pillow and the runtime itself are enough.

from torchseg_zoo import runtime

model = runtime.load("model.onnx")
model.predict("street.png").save("street_overlay.png")
"""

from __future__ import annotations

from torchseg_zoo.runtime.load import load
from torchseg_zoo.runtime.runner import Runner

__all__ = ["Runner", "load"]
