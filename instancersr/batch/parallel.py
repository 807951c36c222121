"""Worker processes that end with their parent, and tasks on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from ..errors import MissingPackage, UserError, first_line

AHEAD = 4
"""Tasks that wait for each core: enough to keep it busy, few enough to hold their results in memory."""
RETRIES = 10
"""How often a task is done again whose worker or machine died."""

Item = TypeVar("Item")


def start_worker() -> None:
    """For the beginning of a worker process: Ctrl-C is its parent's affair, and it does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # an exception: half a file is deleted
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run_on_cluster(function: Callable[..., Any], items: Iterable[Item], address: str, *arguments: Any, cpus: int = 1,
                   gpus: int = 0) -> Iterator[tuple[Item, Any]]:
    """Calls `function(item, *arguments)` for each item on a Ray cluster, as many as it has room for.

    Gives items with what was returned, in the order they are done.

    Args:
        address: of a cluster; `auto` finds one that runs on this machine, `local` starts one for this run.
        cpus, gpus: that a task takes.

    Raises:
        MissingPackage: Ray is not installed.
        UserError: there is no cluster, or a task died too often. What `function` raises comes through.
    """
    with connect(address) as ray:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(function)
        waiting: dict = {}
        todo = iter(items)
        while True:
            # one by one: the cluster may grow meanwhile, and all tasks at once would fill its memory
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus) - len(waiting)
            waiting |= {task.remote(item, *arguments): item for item in islice(todo, max(0, room))}
            if not waiting:
                return
            [done], _ = ray.wait(list(waiting), num_returns=1)
            result = ray.get(done)
            yield waiting.pop(done), result


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """The module `ray`, with a cluster behind it while the context lasts.

    Raises:
        MissingPackage: Ray is not installed.
        UserError: there is no cluster, or it failed. What a task raised comes through.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackage(error, "scale") from error
    started = not ray.is_initialized()
    if started:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError) as error:
            raise UserError(f"--ray {address}: no cluster answers; start one with: ray start --head "
                            f"({first_line(error)})") from error
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        raise UserError(f"--ray {address}: {first_line(error)}; the same command goes on") from error
    finally:
        if started:
            ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries for minutes. Raises OSError or ValueError where nobody answers at `HOST:PORT`."""
    if address not in ("auto", "local"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()
