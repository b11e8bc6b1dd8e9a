"""What an installed package must do: ``python -P tests/smoke.py PICTURE``.

Lists, labels the picture with the embedded checkpoint, exports that to ONNX, runs the file, and
compares. Takes nothing from the checkout but the picture; needs the extra ``onnx``.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from pathlib import Path


def call(*words: object) -> None:
    from torchseg_zoo.cli import main

    code = main([str(word) for word in words])
    assert code == 0, f"{words}: exit code {code}"


def smoke(picture: Path, folder: Path) -> None:
    import numpy as np
    from PIL import Image

    import torchseg_zoo as tsz
    from torchseg_zoo import runtime

    print(f"torchseg_zoo {tsz.__version__} in {tsz.__file__}, Python {platform.python_version()}")
    call("list", "bisenet_x39*")
    call("predict", picture, "-o", folder, "--labels")
    exported = folder / "bisenet.onnx"
    width, height = Image.open(picture).size
    call("export", "-m", "bisenet_x39.camvid", "--size", f"{height}x{width}", "-o", exported)
    (written,) = folder.glob("*_labels.png")
    expected = np.asarray(Image.open(written))
    equal = float(np.mean(runtime.load(exported).predict(picture).labels == expected))
    assert equal > 0.999, f"the exported file gives {equal:.4f} of the labels"
    print(f"{equal:.2%} of the exported file's labels are PyTorch's")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        smoke(Path(sys.argv[1]), Path(place))
