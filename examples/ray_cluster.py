"""Label a folder of pictures on a Ray cluster.

    pip install 'torchseg-zoo[ray]'
    python examples/ray_cluster.py PICTURES OUT [--actors 2] [--gpus 0]

Started on a machine of a running cluster (`ray start ...`), it uses the whole cluster; anywhere
else it starts one on this machine. Killed workers are replaced. Run it again to go on where it
stopped: what OUT/predict.jsonl says is done is left out.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torchseg_zoo as tsz
from torchseg_zoo.errors import ZooError
from torchseg_zoo.inference.jobs import find_pictures
from torchseg_zoo.inference.ray import predict_files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", help="folder that all machines see")
    parser.add_argument("out", help="folder for the results, likewise")
    parser.add_argument("--model", default="bisenet_x39.camvid", metavar="MODEL.TAG")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--gpus", type=float, default=0, help="per actor")
    options = parser.parse_args()
    try:
        report = predict_files(
            partial(tsz.create_model, options.model),
            find_pictures([options.pictures]),
            options.out,
            actors=options.actors,
            gpus_per_actor=options.gpus,
            resume=True,
        )
    except ZooError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{len(report.done)} labelled, {report.resumed} of them before; {len(report.failed)} failed"
    )
    for error in report.failed:
        print(f"  {error}")
    return 3 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
