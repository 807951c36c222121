"""The same work on the cores of one machine or on a Ray cluster; the shards come out the same."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path

from instancersr.batch.parallel import AHEAD, run_on_cluster, start_worker
from instancersr.errors import UserError

from .photos import Photo, Shard, Skipped
from .sample import Sample, Settings, make_sample
from .shards import ShardRecord, write_shard


def run_local(shards: Sequence[Shard], out: Path, settings: Settings, device: str, workers: int,
              advance: Callable[[int], None]) -> Iterator[ShardRecord]:
    """Photos on `workers` processes; this one writes the shards, in their order.

    Args:
        advance: called with the number of photos done since the last call.

    Raises:
        UserError: a worker was killed, or a model cannot be loaded.
    """
    # spawn: a fork would copy locks that torch's threads hold
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
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


def run_ray(shards: Sequence[Shard], out: Path, settings: Settings, device: str, address: str,
            advance: Callable[[int], None]) -> Iterator[ShardRecord]:
    """Shards as Ray tasks, one core each, and one GPU each where `device` is cuda, in the order they are done.

    Photos and `out` must be under the same paths on every machine. A shard whose machine dies is done again.

    Args:
        address: of a cluster; `auto` finds one that runs on this machine, `local` starts one for this run.

    Raises:
        UserError: there is no cluster, a model cannot be loaded, or a shard failed too often.
    """
    gpus = int(device == "cuda" and settings.needs_models)
    for shard, record in run_on_cluster(_make_shard, shards, address, out, settings, device, gpus=gpus):
        advance(len(shard.photos))
        yield record


def _make_shard(shard: Shard, out: Path, settings: Settings, device: str) -> ShardRecord:
    return write_shard(shard.name, out, (make_sample(photo, settings, device) for photo in shard.photos))
