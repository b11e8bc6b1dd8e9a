"""A notebook's kernel: blocks of Python come in as JSON, line by line, and share their names.

The Python of another environment runs it, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any


def run(block: dict[str, Any], names: dict[str, Any]) -> dict[str, str]:
    """What a block printed, and its traceback if it failed."""
    printed, error = io.StringIO(), ""
    try:
        # Empty lines first, so that a traceback names the page's own lines.
        code = compile("\n" * (block["line"] - 1) + block["text"], block["page"], "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
    except BaseException:
        error = traceback.format_exc()
    return {"printed": printed.getvalue(), "error": error}


def main() -> None:
    """Answers until nothing more comes in."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print by themselves is no answer
    names: dict[str, Any] = {"__name__": "__main__"}
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line), names)), file=answers, flush=True)


main()
