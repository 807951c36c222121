"""The same work on the cores and GPUs of one machine or of a Ray cluster; the shards come out the same.

CPU workers read, decode and cut; where models run on GPUs, each GPU has one process of its own, which gets what they
have cut. Without GPUs the workers run the models themselves.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from instancersr.batch.parallel import AHEAD, connect, run_on_cluster, start_worker
from instancersr.errors import UserError

from ..sources import PhotoFiles, Skipped
from .photos import Shard
from .sample import CHUNK, Sample, SampleSettings, finish_drafts, make_drafts, make_samples
from .shards import ShardRecord, write_shard

WAVE = 256
"""Shards that Ray Data is given at once: their list stays small, and the pause between two waves is nothing."""

Done = list[Sample | Skipped]


def run_local(shards: Sequence[Shard], out: Path, settings: SampleSettings, devices: Sequence[str], workers: int,
              advance: Callable[[int], None]) -> Iterator[ShardRecord]:
    """Photos on `workers` CPU processes, models on one process for each of `devices`; this one writes the shards.

    Args:
        devices: of the models, such as `cuda:0` and `cuda:1`; none: the CPU workers run them.
        advance: called with the number of photos done since the last call.

    Raises:
        UserError: a worker was killed, or a model cannot be loaded.
    """
    # spawn: a fork would copy locks that torch's threads hold
    pools = [ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), start_worker)
             for count in (workers, *(1 for _ in devices))]
    try:
        def submit(photos: Sequence[PhotoFiles]) -> Future[Done]:
            return gpus.submit(photos) if devices else pools[0].submit(make_samples, photos, settings, "cpu")

        gpus = _GpuStage(pools[0], dict(zip(devices, pools[1:], strict=True)), settings)
        samples = _in_order(submit, chain.from_iterable(map(_chunks, shards)), AHEAD * workers, advance)
        for shard in shards:
            yield write_shard(shard.name, out, islice(samples, len(shard.photos)))
    except BrokenProcessPool:
        raise UserError("a worker process was killed, perhaps for want of memory; the same command goes on where "
                        "this one stopped, fewer --workers need less memory") from None
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _chunks(shard: Shard) -> Iterator[tuple[PhotoFiles, ...]]:
    for start in range(0, len(shard.photos), CHUNK):
        yield shard.photos[start : start + CHUNK]


def _in_order(submit: Callable[[Sequence[PhotoFiles]], Future[Done]], chunks: Iterable[Sequence[PhotoFiles]],
              ahead: int, advance: Callable[[int], None]) -> Iterator[Sample | Skipped]:
    waiting: deque[Future[Done]] = deque()
    chunks = iter(chunks)
    while True:
        waiting.extend(submit(chunk) for chunk in islice(chunks, ahead - len(waiting)))
        if not waiting:
            return
        done = waiting.popleft().result()
        yield from done
        advance(len(done))


class _GpuStage:
    """What the CPU workers have cut goes to the GPU with the least to do."""

    def __init__(self, workers: ProcessPoolExecutor, pools: dict[str, ProcessPoolExecutor], settings: SampleSettings):
        self.workers, self.pools, self.settings = workers, pools, settings
        self.busy = dict.fromkeys(pools, 0)

    def submit(self, photos: Sequence[PhotoFiles]) -> Future[Done]:
        """The samples of a chunk, once both stages are done."""
        result: Future[Done] = Future()
        self.workers.submit(make_drafts, photos, self.settings).add_done_callback(partial(self._pass_on, result))
        return result

    def _pass_on(self, result: Future[Done], cut: Future) -> None:
        try:
            device = min(self.busy, key=lambda name: self.busy[name])
            finishing = self.pools[device].submit(finish_drafts, cut.result(), self.settings, device)
        except BaseException as error:  # of a worker, or the pools are closing: whoever waits is told
            result.set_exception(error)
            return
        self.busy[device] += 1
        finishing.add_done_callback(partial(self._finish, result, device))

    def _finish(self, result: Future[Done], device: str, finished: Future[Done]) -> None:
        self.busy[device] -= 1
        try:
            result.set_result(finished.result())
        except BaseException as error:
            result.set_exception(error)


# -------------------------------------------------------------------------------------------------------- Ray


def run_ray(shards: Sequence[Shard], out: Path, settings: SampleSettings, device: str, gpus: int | None, address: str,
            advance: Callable[[int], None]) -> Iterator[ShardRecord]:
    """The same on a Ray cluster.

    Without models a shard is a task of one core. With models, Ray Data lets cores decode while GPU actors, one a GPU,
    encode what they have cut; this process writes the shards. Photos and `out` must be under the same paths on every
    machine. What was lost with a machine is done again.

    Args:
        device: of the models: `cpu`, `cuda`, or `auto`, which is `cuda` where the cluster has GPUs.
        gpus: that are used; None for all.
        address: of a cluster; `auto` finds one that runs on this machine, `local` starts one for this run.

    Raises:
        UserError: there is no cluster, a model cannot be loaded, or work failed too often.
    """
    if not settings.needs_models:
        for shard, record in run_on_cluster(_make_shard, shards, address, out, settings):
            advance(len(shard.photos))
            yield record
        return
    with connect(address) as ray:
        there = int(ray.cluster_resources().get("GPU", 0))
        on_gpu = device == "cuda" or (device == "auto" and there > 0)
        if on_gpu and not there:
            raise UserError(f"--ray {address}: the cluster has no GPU; try --device cpu")
        for start in range(0, len(shards), WAVE):
            wave = shards[start : start + WAVE]
            samples = _on_ray_data(ray, wave, settings, min(gpus or there, there) if on_gpu else 0, advance)
            for shard in wave:
                yield write_shard(shard.name, out, islice(samples, len(shard.photos)))


def _make_shard(shard: Shard, out: Path, settings: SampleSettings) -> ShardRecord:
    return write_shard(shard.name, out, make_samples(shard.photos, settings, "cpu"))


def _on_ray_data(ray: Any, shards: Sequence[Shard], settings: SampleSettings, gpus: int,
                 advance: Callable[[int], None]) -> Iterator[Sample | Skipped]:
    """The samples of the shards' photos, in their order. gpus: actors with one each; 0: a core each instead."""
    from ray import data

    context = data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    work = [{"work": pickle.dumps(chunk)} for shard in shards for chunk in _chunks(shard)]
    cut = data.from_items(work, override_num_blocks=len(work)).map(
        _draft_row, fn_kwargs={"settings": settings}, num_cpus=1)
    resources: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    actors = gpus or max(1, int(ray.cluster_resources().get("CPU", 1)) // 2)
    done = cut.map_batches(_FinishRows, fn_constructor_args=(settings, "cuda" if gpus else "cpu"), batch_size=1,
                           batch_format="numpy", concurrency=actors, **resources)
    for row in done.iter_rows():
        samples = pickle.loads(row["work"])
        yield from samples
        advance(len(samples))


def _draft_row(row: dict, settings: SampleSettings) -> dict:
    return {"work": pickle.dumps(make_drafts(pickle.loads(row["work"]), settings))}


class _FinishRows:
    """An actor that holds the models."""

    def __init__(self, settings: SampleSettings, device: str):
        self.settings, self.device = settings, device

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"work": [pickle.dumps(finish_drafts(pickle.loads(cut), self.settings, self.device))
                         for cut in batch["work"]]}
