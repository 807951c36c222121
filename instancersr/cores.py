"""The processor's cores: how many this process may use, and whether others keep them busy."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use: a container's or a scheduler's share of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_are_busy() -> bool:
    """Whether other programs have used half of the cores or more over the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] >= usable_cores() / 2
