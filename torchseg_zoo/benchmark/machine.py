"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torchseg_zoo._version import __version__

__all__ = ["describe_machine", "describe_software", "usable_cores"]

_LIBRARIES = ("torch", "numpy", "pillow")
_GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm")


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """CPU, cores, clocks in MHz now, memory in MiB, load, GPUs; what cannot be read is left out."""
    record: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name() or platform.processor() or platform.machine(),
        "cores": usable_cores(),
    }
    if clocks := _clocks_mhz():
        record["clocks_mhz"] = clocks
    with suppress(OSError, ValueError, AttributeError):
        record["memory_mib"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)
    with suppress(OSError, AttributeError):
        record["load_1_min"] = round(os.getloadavg()[0], 2)
    if gpus := _gpus():
        record["gpus"] = gpus
    return record


def describe_software(libraries: Iterable[str]) -> dict[str, str]:
    """Versions of Python, this package, what it always needs, and these libraries."""
    found = {"python": platform.python_version(), "torchseg_zoo": __version__}
    for name in dict.fromkeys((*_LIBRARIES, *libraries)):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu_info(field: str) -> list[str]:
    """Values of a field of ``/proc/cpuinfo``, one per core."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return []
    return re.findall(rf"^{field}\s*: (.*)$", text, re.MULTILINE)


def _cpu_name() -> str:
    return next(iter(_cpu_info("model name")), "").strip()


def _clocks_mhz() -> list[int]:
    """Of each core, now."""
    files = sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    with suppress(OSError, ValueError):
        if files:
            return [round(int(file.read_text()) / 1000) for file in files]
    return [round(float(text)) for text in _cpu_info("cpu MHz")]


def _gpus() -> list[dict[str, str]]:
    """Name, driver and clocks of NVIDIA's GPUs, as their own tool tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [
        dict(zip(_GPU_FIELDS, map(str.strip, line.split(",")), strict=False))
        for line in done.stdout.splitlines()
    ]
