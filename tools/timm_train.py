"""Runs a training script of timm with Xception39 among timm's models.

    python tools/timm_train.py pytorch-image-models/train.py --model xception39 ...

timm's scripts are in its repository, not in its package. docs/recipes.md has the whole command.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from torchseg_zoo.backbones.xception39 import register_with_timm


def main() -> None:
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit("usage: timm_train.py PATH/TO/train.py [its arguments]")
    register_with_timm()
    script = sys.argv[1]
    sys.argv = sys.argv[1:]
    # What the script imports from beside itself must be found, as if it had been started alone.
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
