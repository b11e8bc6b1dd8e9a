"""One thread for every test and its processes: rounding then depends on no machine's cores.

Set before anything imports torch; a value of one's own stays.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
