"""A Python that has imported torch once, and forks for every program that it is asked to run.

The Python of another environment runs it, so it imports nothing of the tests. Requests come in as
JSON, line by line. Each is answered with the exit code, when the program has ended; or, if it is
not to be waited for, with 0.
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
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if request["waits"] else 0
        print(json.dumps(code), file=answers, flush=True)
    return 0


def program(request: dict[str, Any]) -> int:
    """Becomes ``torchseg-zoo ...``, ``python FILE ...`` or ``python -c CODE``, and ends as it does.

    Args:
        request: its words, folder, variables, and the files of its input, output and errors.
    """
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["variables"])
    os.dup2(os.open(request["in"], os.O_RDONLY), 0)
    os.dup2(os.open(request["out"], os.O_WRONLY), 1)
    os.dup2(os.open(request["err"], os.O_WRONLY), 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the server's has read ahead
    name, *rest = request["words"]
    try:
        if name == "torchseg-zoo":
            sys.argv = [name, *rest]
            return cli.main()
        sys.argv = rest
        if rest[0] == "-c":
            exec(rest[1], {"__name__": "__main__"})
        else:
            sys.path[0] = str(Path(rest[0]).resolve().parent)
            runpy.run_path(rest[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


sys.exit(main())
