"""Measures a row of the published tables again: what was printed, and what comes out here.

python examples/reproduce.py --list
python examples/reproduce.py --row "bisenet_r18 cityscapes msf" -d cuda:0,cuda:1 -o out
python examples/reproduce.py --row "bisenet_x39 camvid whole" --data camvid:CAMVID
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext

from torchseg_zoo import load_model
from torchseg_zoo.errors import ZooError
from torchseg_zoo.evaluation import Workers
from torchseg_zoo.evaluation.reproduce import find_row, reproduce, rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print all rows")
    what.add_argument("--row", metavar="NAME", help="as the list has it")
    parser.add_argument("--data", metavar="NAME:PATH", help="where the row's data are")
    parser.add_argument("-c", "--checkpoint", metavar="FILE", help="measure this model instead")
    parser.add_argument(
        "-d", "--devices", default="cpu", help="one process for each: cuda:0,cuda:1"
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="folder of a record to resume from")
    parser.add_argument("--resume", action="store_true", help="go on from that record")
    options = parser.parse_args()
    if options.list:
        print("\n\n".join(row.describe() for row in rows()))
        return 0
    devices = options.devices.split(",")
    try:
        row = find_row(options.row)
        with Workers(devices) if len(devices) > 1 else nullcontext() as workers:
            found = reproduce(
                row,
                data=options.data,
                model=load_model(options.checkpoint) if options.checkpoint else None,
                device=devices[0],
                workers=workers,
                record=options.out,
                resume=options.resume,
            )
    except ZooError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(found.report())
    return 0 if found.holds else 1


if __name__ == "__main__":
    sys.exit(main())
