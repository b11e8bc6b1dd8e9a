"""Build a TensorRT engine of an exported file on this machine, and compare its labels.

pip install 'torchseg-zoo[tensorrt]'
python examples/tensorrt_engine.py bisenet.onnx PICTURES [--sizes MIN,USUAL,MAX] [-o FILE]

PICTURES, a file or folder, are labelled by the engine and, on the CPU, by ONNX Runtime, which the
file was proven with. Ends with 1 if fewer than --tolerance of the pixels have the same label.
"""

import argparse
import sys
import time

import numpy as np

from torchseg_zoo import runtime
from torchseg_zoo.errors import ZooError
from torchseg_zoo.export import tensorrt
from torchseg_zoo.inference.jobs import find_pictures


def size_range(text: str) -> tensorrt.SizeRange:
    """``128x128,360x480,1080x1920`` → the sizes, each height and width, that the engine takes."""
    sizes = [tuple(map(int, part.split("x"))) for part in text.split(",")]
    return tensorrt.SizeRange(*sizes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="what `torchseg-zoo export` wrote")
    parser.add_argument("pictures")
    parser.add_argument("--sizes", type=size_range, help="for a file that takes any size")
    parser.add_argument("--tolerance", type=float, default=0.99, metavar="SHARE")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the engine there (.engine)")
    options = parser.parse_args()
    try:
        pictures = find_pictures([options.pictures])
        reference = runtime.load(options.model, device="cpu")
        engine = tensorrt.compile_onnx(options.model, size=options.sizes)
        for binding in engine.bindings:
            print(binding.describe())
        shares = []
        for picture in pictures:
            engine.labels(picture)  # a size is prepared when it first comes
            start = time.perf_counter()
            labels = engine.labels(picture)
            milliseconds = 1000 * (time.perf_counter() - start)
            shares.append(float(np.mean(labels == reference.labels(picture))))
            print(f"{picture.name}: {shares[-1]:.3%} equal, {milliseconds:.1f} ms")
        if options.output:
            print(f"{engine.save(options.output)}  sha256 {engine.sha256}")
    except ZooError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if min(shares) >= options.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
