"""Score several models on the same labelled pictures, side by side.

python examples/compare.py DATA MODEL [MODEL ...] [--split val] [-o reports]

A MODEL is a name such as bisenet_x39.camvid, or a file of your own. With -o, each gets a report.
"""

import argparse
import sys
import time
from pathlib import Path

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.errors import ZooError
from torchseg_zoo.evaluation.report import write_report


def score(name: str, data: str, split: str, folder: Path | None) -> dict[str, float]:
    """IoU of each class, means, and how many pictures are scored in a second here."""
    model = tsz.load_model(name) if Path(name).is_file() else tsz.create_model(name)
    pictures = open_dataset(data, split, model.labels)
    start = time.perf_counter()
    scores = tsz.evaluate(model, pictures, progress=False)
    rate = len(pictures) / (time.perf_counter() - start)
    if folder:
        write_report(scores, model, pictures, folder)
    return dict(zip(model.labels.classes, scores.iou_percent, strict=True)) | {
        "mean IoU %": scores.miou_percent,
        "pixel accuracy %": scores.pixel_accuracy_percent,
        "pictures/s": rate,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", help="labelled pictures, as `torchseg-zoo evaluate` takes them")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--split", default="val")
    parser.add_argument("-o", "--output", metavar="DIR", help="folder for the reports")
    options = parser.parse_args()
    columns = []
    try:
        for number, name in enumerate(options.models, 1):
            folder = Path(options.output, str(number)) if options.output else None
            columns.append(score(name, options.data, options.split, folder))
            print(f"{number}  {name}", flush=True)
    except ZooError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    width = max(map(len, columns[0]))
    print(" " * width, *(f"{number:7}" for number in range(1, len(columns) + 1)))
    for row in columns[0]:
        print(row.ljust(width), *(f"{column[row]:7.2f}" for column in columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
