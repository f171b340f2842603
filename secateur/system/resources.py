"""What this process may use of the machine: cores, memory, and a folder to keep things in.

In a container the machine has more cores and memory than the process may take: the affinity mask
(taskset, Slurm) and the limits of the control group (Docker, Kubernetes, systemd) are honoured,
in version 2 (cpu.max, memory.max) and version 1 (cpu.cfs_quota_us, memory.limit_in_bytes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 1 << 60
"""Version 1 writes a number near 2**63 where there is no limit."""


def cores() -> int:
    """Cores that this process may keep busy, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for folder in _cgroup_folders() if (quota := _cpu_quota(folder)) is not None]
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def total_memory() -> int:
    """Bytes of memory that this process may use at most."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [limit for folder in _cgroup_folders() if (limit := _memory_limit(folder)) is not None]
    return min([physical, *limits])


def free_memory() -> int:
    """Bytes of memory that this process may still take: free, or freed at once (file caches)."""
    left = [free for folder in _cgroup_folders() if (free := _left_in_cgroup(folder)) is not None]
    return min([_available(), *left])


def cache_folder() -> Path:
    """Where secateur keeps what it may need again: $XDG_CACHE_HOME or ~/.cache, and /secateur."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "secateur"


def log_folder() -> Path:
    """Where logs of servers lie: $XDG_STATE_HOME or ~/.local/state, and /secateur."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "secateur"


def config_folder() -> Path:
    """Where the user's own settings lie: $XDG_CONFIG_HOME or ~/.config, and /secateur."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "secateur"


def _available() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_folders() -> Iterator[Path]:
    """The folders of this process's control groups and of those around them, innermost first."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        named = [name for name in controllers.split(",") if name in ("cpu", "memory")]
        for root in [_CGROUPS / name for name in named] if controllers else [_CGROUPS]:
            inner = root / path.lstrip("/")
            yield from [inner, *inner.parents][: len(inner.parts) - len(root.parts) + 1]


def _cpu_quota(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    if not words:
        words = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    if len(words) != 2 or not words[0].isdecimal() or not int(words[1]):
        return None  # "max", or -1: no limit
    return int(words[0]) / int(words[1])


def _memory_limit(folder: Path) -> int | None:
    words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
    if not words or not words[0].isdecimal() or int(words[0]) >= _NO_LIMIT:
        return None
    return int(words[0])


def _left_in_cgroup(folder: Path) -> int | None:
    """Bytes under a control group's limit; cached pages of files count as free."""
    limit = _memory_limit(folder)
    used = _words(folder / "memory.current") or _words(folder / "memory.usage_in_bytes")
    if limit is None or not used:
        return None
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        lines = []
    stat = dict(line.split()[:2] for line in lines if len(line.split()) == 2)
    cached = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
    return max(0, limit - int(used[0]) + cached)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
