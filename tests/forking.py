"""A Python that has imported torch once, and forks for every program that it is asked to run.

The Python of another environment runs it, so it imports nothing of the tests. Requests come in as
JSON, line by line; each is answered with the exit code, when the program has ended.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

# What optimizers and exports need; its import takes longer than most commands.
import torch._dynamo  # noqa: F401

from torchseg_zoo import cli


def main() -> int:
    """Answers until nothing more comes in; in a child: the program's exit code."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return program(request)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(code), file=answers, flush=True)
    return 0


def program(request: dict[str, Any]) -> int:
    """Becomes ``torchseg-zoo ...`` or ``python FILE ...``, with its folder, variables and files."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["variables"])
    for number, path in enumerate((os.devnull, request["out"], request["err"])):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, number)
    name, *rest = request["words"]
    try:
        if name == "torchseg-zoo":
            sys.argv = [name, *rest]
            return cli.main()
        sys.argv, sys.path[0] = rest, str(Path(rest[0]).resolve().parent)
        runpy.run_path(rest[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


sys.exit(main())
