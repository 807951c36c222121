"""What a configuration's `data` section says, opened: photos, and crops of them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from ..data.auxiliary import AuxiliaryCrops
from ..data.cache import CachedPhotos, PhotoCache, WholePhotos, build_cache
from ..data.dataset import BatchNumbers, CropDataset, PhotoSource, collate
from ..data.index import ShardIndex, open_index, shard_sources
from ..data.sources import find_sources
from ..data.stream import ShardPhotos
from .config import DataConfig, MapConfig, TrainConfig

Photos = PhotoCache | ShardIndex

PREFETCH = 4
"""Batches that wait for a process, one for each of its workers at least: a sample of 512x512 takes 9 MB of /dev/shm."""
LOST_WORKER = "DataLoader worker"
"""How torch's errors about a killed worker begin; they have no class of their own."""
WORKER_SAYS = "in DataLoader worker process"
"""What torch puts into an error that a worker raised itself."""
HEARD = 2.0
"""Seconds after which the kernel has told this process of the end of another."""


def open_photos(data: DataConfig) -> Photos:
    """The index of the shards, or the cache of decoded photos, made if need be.

    To be called before the process group is joined: its timeout would not keep an index of millions of photos, which
    all processes of a node build together.

    Raises:
        DataError: there are no photos that can be used.
    """
    if data.stream:
        place = (int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)))
        return open_index(shard_sources(data.photos), data.cache, *place)
    return build_cache(find_sources(data.photos), data.cache, data.crop)


def crops(config: TrainConfig, photos: Photos, held_out: bool, masks: bool, seed: int | None = None,
          colored: bool = True) -> CropDataset:
    """The run's crops.

    Args:
        held_out: of the validation photos instead of the training ones.
        masks: whether to give the instance maps.
        seed: of everything random; None for the run's.
        colored: see `CropDataset`.

    Raises:
        DataError: no photo is left.
    """
    data, seed = config.data, config.seed if seed is None else seed
    auxiliary = None if held_out or data.auxiliary is None else AuxiliaryCrops(data.auxiliary, data.crop)
    return CropDataset(_source(config, photos, held_out, seed), data.crop, data.presets, seed, masks,
                       data.downscale_prob, data.max_offset, data.lightness, data.downscale_max, data.truth_blur,
                       data.truth_sharpen, data.twin_prob, data.gray_prob, colored, auxiliary, data.auxiliary_share)


def _source(config: TrainConfig, photos: Photos, held_out: bool, seed: int) -> PhotoSource:
    data = config.data
    if isinstance(photos, ShardIndex):
        return ShardPhotos(photos, held_out, data.crop, seed, data.stored)
    if isinstance(config, MapConfig) and config.whole:
        return WholePhotos(photos, held_out, data.crop, data.keys, config.whole)
    return CachedPhotos(photos, held_out, data.crop, data.keys)


def batches(dataset: CropDataset, numbers: BatchNumbers, workers: int, device: torch.device) -> Iterator[dict]:
    """The batches of these images, made by so many processes ahead of time.

    Raises:
        RuntimeError: a process was killed. It begins with LOST_WORKER, and any line of the main thread may raise it.
    """
    loader = DataLoader(
        dataset, batch_sampler=numbers, collate_fn=collate, num_workers=workers, worker_init_fn=_prepare_worker,
        pin_memory=device.type == "cuda", persistent_workers=workers > 0,
        prefetch_factor=max(1, PREFETCH // workers) if workers else None,
        multiprocessing_context=start_method() if workers else None)
    try:
        yield from loader
    except (ConnectionError, EOFError) as error:
        if WORKER_SAYS in str(error):
            raise
        # It died while it handed a batch over. Torch raises its own error once it hears of it: better here than later.
        time.sleep(HEARD)
        raise RuntimeError(f"{LOST_WORKER} was lost") from error


def start_method() -> str:
    """How worker processes begin: as a copy of this one where that is safe, which is on Linux."""
    can_fork = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    return "fork" if can_fork else "spawn"


@atexit.register
def _kill_workers() -> None:
    """The workers of an error that nobody caught: Python ends its children by a signal that they ignore, and waits."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an error there
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _prepare_worker(_number: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and many schedulers signal the whole process group; workers must live until the last step is saved.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
