"""Label pictures with an exported file, on a box without torch.

pip install numpy pillow onnxruntime
pip install --no-deps .
python without_torch.py bisenet.onnx PICTURE_OR_FOLDER [-o out]

OUT gets an overlay and the class indices of each picture; what a picture shows is printed.
"""

import argparse
import sys
import time
from pathlib import Path

from torchseg_zoo import runtime
from torchseg_zoo.errors import ZooError
from torchseg_zoo.inference.jobs import find_pictures, label_job, plan_jobs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="what `torchseg-zoo export` wrote")
    parser.add_argument("pictures")
    parser.add_argument("-o", "--output", default="out", metavar="DIR")
    options = parser.parse_args()
    try:
        model = runtime.load(options.model)
        jobs = plan_jobs(find_pictures([options.pictures]), options.output, labels=True)
    except ZooError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    failed = 0
    for job in jobs:
        start = time.perf_counter()
        done = label_job(model.predict, job)
        if isinstance(done, ZooError):  # of one picture, and the others are not concerned
            print(done, file=sys.stderr)
            failed += 1
            continue
        shares = ", ".join(f"{name} {share:.0%}" for name, share in done.summary["shares"].items())
        milliseconds = 1000 * (time.perf_counter() - start)
        print(f"{Path(job.source).name}: {shares} ({milliseconds:.0f} ms, files included)")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
