"""Processes that do tasks and can be stopped at any time: what they have written is known, and no file is cut short."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import UserError

RESTARTS = 3
"""How many workers that were killed are replaced."""
PATIENCE = 1.0
"""Seconds after which it is said what is waited for."""


def run_in_processes(function: Callable[..., Any], items: Iterable[Any], count: int, *arguments: Any,
                     tell: Callable[[str], None] = lambda _: None) -> Generator[Any, None, None]:
    """Calls `function(item, *arguments, writing)` for each item on `count` processes.

    Gives what was returned, in the order it is done. An item whose worker was killed is done again. After a
    KeyboardInterrupt, here or thrown in, what is computed is given up; what is being written is finished, and its
    results are given before the interrupt goes on. A second one stops the writing, too.

    Args:
        function: it must call `writing` before it writes anything. From then on its process is left to end it.
        tell: called with a line where finished files let a person wait.

    Raises:
        UserError: workers were killed again and again. A `UserError` of `function` comes through.
        RuntimeError: `function` raised anything else, whose traceback this is.
    """
    pool = _Pool(function, arguments, items, count)
    try:
        while pool.is_busy:
            pool.work()
            yield from pool.take()
    except KeyboardInterrupt:
        pool.give_up(tell)
        yield from pool.take()
        raise
    finally:
        pool.close()


class _Worker:
    """A process and its ends of two pipes. item: what it is at work on, or None."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]):
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that the engine's threads hold
        self.line, theirs = context.Pipe()
        watched, self._alive = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, watched, function, arguments))
        self.process.start()
        theirs.close()  # else its end would stay open when it is killed
        watched.close()
        self.item: Any = None

    def release(self) -> None:
        """Lets it end itself, at once or when it has written what it is writing."""
        self.item = None
        self._alive.close()


class _Pool:
    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], items: Iterable[Any], count: int):
        self._function, self._arguments, self._count = function, arguments, count
        self._todo, self._done = deque(items), deque[Any]()
        self._workers: list[_Worker] = []
        self._killed = 0

    @property
    def is_busy(self) -> bool:
        return bool(self._todo) or any(worker.item is not None for worker in self._workers)

    def work(self) -> None:
        """Hands out what is to be done, and waits until something is done."""
        while self._todo and len(self._workers) < self._count:
            try:
                self._workers.append(_Worker(self._function, self._arguments))
            except OSError:  # no memory for it, or it was killed while it was being started
                self._count_killed()
        for worker in [worker for worker in self._workers if worker.item is None][: len(self._todo)]:
            worker.item = self._todo.popleft()
            try:
                worker.line.send(worker.item)
            except OSError:
                self._lose(worker)
        self._receive()

    def take(self) -> Iterator[Any]:
        """What is done and was not taken yet."""
        while self._done:
            yield self._done.popleft()

    def give_up(self, tell: Callable[[str], None]) -> None:
        """Ends the workers; results of what they were writing can be taken then."""
        self._todo.clear()
        for worker in self._workers:
            worker.release()
        try:
            if not self._receive_last(PATIENCE):
                tell("files that are being written are finished; Ctrl-C again leaves them out")
                self._receive_last(None)
        except KeyboardInterrupt:
            for worker in self._workers:
                worker.process.terminate()
            raise

    def close(self) -> None:
        for worker in self._workers:
            worker.release()
        for worker in self._workers:
            worker.process.join()

    def _receive_last(self, timeout: float | None) -> bool:
        """Whether all workers have ended; False where none said anything for so many seconds."""
        while self._workers:
            if not self._receive(timeout):
                return False
        return True

    def _receive(self, timeout: float | None = None) -> bool:
        """Takes in what workers send, or their ends; whether there was any in so many seconds."""
        lines = {worker.line: worker for worker in self._workers}
        ready = wait(list(lines), timeout)
        for line in ready:
            worker = lines[line]  # type: ignore[index]
            try:
                result, error = worker.line.recv()
            except (EOFError, OSError):
                self._lose(worker)
                continue
            worker.item = None
            if error is not None:
                raise error
            self._done.append(result)
        return bool(ready)

    def _lose(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join()
        if worker.item is not None:
            self._todo.appendleft(worker.item)
            self._count_killed()

    def _count_killed(self) -> None:
        self._killed += 1
        if self._killed > RESTARTS:
            left = len(self._todo) + sum(worker.item is not None for worker in self._workers)
            raise UserError(f"worker processes were killed {self._killed} times, perhaps for want of memory; "
                            f"{left} pictures are left; fewer --jobs or a smaller --tile need less")


# ------------------------------------------------------------------------------------------------ in a worker


def _work(line: Connection, alive: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Does what comes through `line` and sends back what became of it, until the other end of `alive` is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception: half a file is deleted
    giving = threading.Lock()  # held from the first byte that is written until the parent knows of it
    threading.Thread(target=_end_with, args=(alive, giving), daemon=True).start()
    with suppress(EOFError, OSError):  # the parent is gone
        while True:
            line.send(_call(function, line.recv(), *arguments, giving.acquire))
            if giving.locked():
                giving.release()


def _call(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Exception | None]:
    try:
        return function(*arguments), None
    except UserError as error:
        return None, error
    except Exception:  # a bug: not every exception can be sent, but its traceback can
        return None, RuntimeError(traceback.format_exc())


def _end_with(alive: Connection, giving: threading.Lock) -> None:
    """Ends this process in the middle of any computation, but not of writing, once the parent is done with it or gone.

    The parent never sends anything through `alive`.
    """
    with suppress(EOFError, OSError):
        alive.recv()
    giving.acquire()
    os._exit(0)
