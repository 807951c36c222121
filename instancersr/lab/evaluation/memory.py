"""The peak memory of a method that runs in this process."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import torch

MIB = 2**20


class PeakMemory:
    """Peak memory above what the process held when this object was made, so that a model made after it counts.

    On a GPU it is what torch allocated there. Elsewhere it is resident memory as Linux counts it, where that can be
    reset (/proc/self/clear_refs); other systems give None. What the process had freed but kept is handed back when
    this object is made, as it would not be seen when it is used again.
    """

    def __init__(self) -> None:
        _hand_back()
        self._baseline = torch.cuda.memory_allocated() if torch.cuda.is_available() else _resident("VmRSS")

    def reset(self) -> None:
        """Begins a new peak."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
        except OSError:
            self._baseline = None

    def peak(self) -> float | None:
        """The peak since `reset`, in MiB."""
        if torch.cuda.is_available():
            now: int | None = torch.cuda.max_memory_allocated()
        else:
            now = _resident("VmHWM")
        return None if now is None or self._baseline is None else max(now - self._baseline, 0) / MIB


def _hand_back() -> None:
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # glibc's; other systems keep what they keep
        ctypes.CDLL(None).malloc_trim(0)


def _resident(key: str) -> int | None:
    """VmRSS or VmHWM of this process in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
