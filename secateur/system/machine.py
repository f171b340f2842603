"""What machine this is, for people who compare times. Says nothing of whose it is."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from secateur.system.resources import cores, total_memory

_CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """Processor, cores and bytes of memory that this process may use, and operating system."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": total_memory(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        for line in _CPUINFO.read_text("utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
