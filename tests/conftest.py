"""What tests may rely on, wherever they are started from."""

from __future__ import annotations

import os
import signal

# Rounding then depends on no machine's cores. Before anything imports torch; a value of one's own
# stays.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them and their processes ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
