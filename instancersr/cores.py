"""The processor's cores: how many this process may use, and whether others keep them busy."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows a container its limits."""


def usable_cores() -> int:
    """Cores that this process may use: a scheduler's or a container's share of the machine."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, cpu_quota())))


def cpu_quota(cgroups: Path = CGROUPS) -> float:
    """Cores' worth of time that a container gets, as by `docker run --cpus`; infinite without a limit."""
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()  # cgroups v2
    except OSError:
        try:  # v1
            quota, period = ((cgroups / f"cpu/cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def cores_are_busy() -> bool:
    """Whether other programs have used half of the cores or more over the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] >= usable_cores() / 2
