"""A folder that is watched: pictures are jobs as soon as they are whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .jobs import Job

PAUSE = 1.0
"""Seconds between two looks. Polling sees network drives too, which tell nobody of new files."""

State = tuple[int, int]
"""Size and time of change."""


def watch(plan: Callable[[], list[Job]], pause: float = PAUSE) -> Iterator[list[Job]]:
    """New jobs, whenever there are some; for ever.

    A picture is new if its result is missing and it has not been given out as it is. It is whole once two looks
    find the same size and time of change: a copy in progress grows.

    Args:
        plan: all jobs as of now, as `plan_jobs` finds them.
        pause: seconds between two looks.
    """
    seen: dict[Path, State] = {}
    given: dict[Path, State] = {}
    while True:
        now = {job.source: (state, job) for job in plan()
               if os.path.isfile(job.source) and (state := _state(job.source)) and not job.is_finished}
        ready = [job for source, (state, job) in now.items()
                 if seen.get(source) == state and given.get(source) != state]
        seen = {source: state for source, (state, _) in now.items()}
        if ready:
            given |= {job.source: seen[job.source] for job in ready}
            yield ready
        time.sleep(pause)


def _state(path: Path) -> State | None:
    try:
        status = path.stat()
    except OSError:  # gone again
        return None
    return status.st_size, status.st_mtime_ns
