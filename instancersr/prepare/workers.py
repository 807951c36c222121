"""The same work on the cores of one machine or on a Ray cluster; the shards come out the same."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path

from ..errors import MissingPackage, UserError
from .photos import Photo, Shard, Skipped
from .sample import Sample, Settings, make_sample
from .shards import ShardRecord, write_shard

AHEAD = 4
"""Tasks that wait for each worker: enough to keep it busy, few enough to hold their results in memory."""
RETRIES = 10
"""How often Ray does a shard again whose worker or machine died."""


def run_local(shards: Sequence[Shard], out: Path, settings: Settings, device: str, workers: int,
              advance: Callable[[int], None]) -> Iterator[ShardRecord]:
    """Photos on `workers` processes; this one writes the shards, in their order.

    Args:
        advance: called with the number of photos done since the last call.

    Raises:
        UserError: a worker was killed, or a model cannot be loaded.
    """
    # spawn: a fork would copy locks that torch's threads hold
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        photos = chain.from_iterable(shard.photos for shard in shards)
        samples = _in_order(pool, photos, settings, device, AHEAD * workers, advance)
        for shard in shards:
            yield write_shard(shard.name, out, islice(samples, len(shard.photos)))
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps for want of memory; the same command goes on where "
                        "this one stopped, fewer --workers need less memory") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, photos: Iterable[Photo], settings: Settings, device: str, ahead: int,
              advance: Callable[[int], None]) -> Iterator[Sample | Skipped]:
    waiting: deque[Future] = deque()
    photos = iter(photos)
    while True:
        waiting.extend(pool.submit(make_sample, photo, settings, device)
                       for photo in islice(photos, ahead - len(waiting)))
        if not waiting:
            return
        yield waiting.popleft().result()
        advance(1)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run_ray(shards: Sequence[Shard], out: Path, settings: Settings, device: str, address: str,
            advance: Callable[[int], None]) -> Iterator[ShardRecord]:
    """Shards as Ray tasks, one core each, and one GPU each where `device` is cuda, in the order they are done.

    Photos and `out` must be under the same paths on every machine. A shard whose machine dies is done again.

    Args:
        address: of a cluster; `auto` finds one that runs on this machine, `local` starts one for this run.

    Raises:
        UserError: there is no cluster, a model cannot be loaded, or a shard failed too often.
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
                            f"({str(error).splitlines()[0]})") from error
    try:
        gpus = int(device == "cuda" and settings.needs_models)
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_make_shard)
        waiting: dict = {}
        todo = iter(shards)
        while True:
            # one by one: the cluster may grow meanwhile, and the photo lists of all shards would fill its memory
            room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(waiting)
            waiting |= {task.remote(shard, out, settings, device): shard for shard in islice(todo, max(0, room))}
            if not waiting:
                return
            [done], _ = ray.wait(list(waiting), num_returns=1)
            record = ray.get(done)
            advance(len(waiting.pop(done).photos))
            yield record
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        raise UserError(f"--ray {address}: {str(error).splitlines()[0]}; the same command goes on") from error
    finally:
        if started:
            ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries for minutes. Raises OSError or ValueError where nobody answers at `HOST:PORT`."""
    if address not in ("auto", "local"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def _make_shard(shard: Shard, out: Path, settings: Settings, device: str) -> ShardRecord:
    return write_shard(shard.name, out, (make_sample(photo, settings, device) for photo in shard.photos))
