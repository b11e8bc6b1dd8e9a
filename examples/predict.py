"""Label a picture with the embedded checkpoint and look at the result.

python examples/predict.py [IMAGE]
"""

import sys
from pathlib import Path

import torchseg_zoo as tsz

image = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("street.png")

model = tsz.bisenet_x39(pretrained="camvid")
print(model.preprocess.describe())

result = tsz.predict(model, image)
for name, share in result.shares.items():
    print(f"{name:<12} {100 * share:5.1f} %")
print(f"mean confidence {result.confidence.mean():.2f}")
print("overlay written to", result.save("street_overlay.png"))
