"""One computation at a time: the others wait in line, and work for someone who has left is stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

POLL = 0.2
"""Seconds between two looks at a task: so long may its end, or its owner's leaving, stay unnoticed."""


class Stopped(Exception):
    """The task was cancelled, or nobody waits for it any more."""


@dataclass(frozen=True)
class Progress:
    """Where a task stands: tasks ahead of it in line, share done (0 to 1), seconds left as far as one can say."""

    ahead: int
    share: float
    seconds_left: float | None


class Task:
    """What a computation reports to, and what tells it to stop.

    Args:
        owner: whose it is.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.share = 0.0
        self._began = self._ends = 0.0
        self._stop = threading.Event()

    def report(self, share: float) -> None:
        """Notes the share done, 0 to 1.

        Raises:
            Stopped: nobody waits for the result.
        """
        self.check()
        now = time.monotonic()
        self._began = self._began or now
        if share > 0:
            self._ends = now + (now - self._began) * (1 - share) / share
        self.share = share

    def check(self) -> None:
        """Raises `Stopped` once the task is to stop."""
        if self._stop.is_set():
            raise Stopped

    def stop(self) -> None:
        """The next report and the next check raise."""
        self._stop.set()

    def seconds_left(self) -> float | None:
        """As if it went on at the pace so far; None before there is one."""
        return max(0.0, self._ends - time.monotonic()) if self.share else None


class Worker:
    """Does tasks one by one in a thread of its own, in the order in which they came."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "upscale")
        self._line: list[Task] = []

    async def run(self, owner: str, work: Callable[[Task], Any]) -> AsyncGenerator[Any, None]:
        """Yields a `Progress` again and again, and at last what `work` returns.

        Closing the iterator, or cancelling what reads it, stops the task at its next report.

        Raises:
            Stopped: the owner has cancelled it.
            Exception: what `work` raises.
        """
        task = Task(owner)
        self._line.append(task)
        future: Future = self._pool.submit(_begin, work, task)
        try:
            while not future.done():
                task.check()
                yield Progress(self._line.index(task), task.share, task.seconds_left())
                await asyncio.sleep(POLL)
            yield future.result()
        finally:
            task.stop()
            future.cancel()
            self._line.remove(task)

    def cancel(self, owner: str) -> None:
        """Stops what the owner has asked for, waiting or running."""
        for task in self._line:
            if task.owner == owner:
                task.stop()

    def close(self) -> None:
        """Stops the running task and forgets the waiting ones."""
        for task in self._line:
            task.stop()
        self._pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[Task], Any], task: Task) -> Any:
    task.report(0)
    return work(task)
