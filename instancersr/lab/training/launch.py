"""`train --processes N`: the processes of a run on one machine, forked from one that has imported everything.

`torchrun` starts N interpreters that import torch N times over; on a machine with few cores that is most of a start. It
is still the way for several machines.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
import torch.multiprocessing
from torch.multiprocessing import ProcessContext, ProcessExitedException, ProcessRaisedException, start_processes

from instancersr.errors import MissingPackage, UserError, is_out_of_memory
from instancersr.imports import without_collecting

from ..data.sources import DataError
from .checkpoint import MODEL
from .config import AnyTrainConfig, ConfigError, DiffusionConfig, load_config
from .stages import stage
from .trainer import check_share, train_from_config

TOLD = (UserError, OSError, KeyboardInterrupt)
"""Errors that a process hands to the one that started it, which tells the first of them. Others are bugs."""


def train_together(path: Path, overrides: list[str], processes: int) -> Path:
    """As `train_from_config`, in so many processes of this machine, which end together.

    Ctrl-C and SIGTERM reach all of them. When one fails the others are ended.

    Raises:
        ConfigError: as `train_from_config`, or torchrun has started this process already.
        UserError, OSError: the first that a process ran into.
        KeyboardInterrupt: the run was stopped, and has saved a checkpoint.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("--processes is instead of torchrun or accelerate launch; leave one of them out")
    config = load_config(path, overrides)
    check_share(config, processes)
    _import_all(config)
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # else it says whom it ends
    method = "fork" if sys.platform == "linux" else "spawn"  # elsewhere a fork of libraries that have threads may hang
    reports = torch.multiprocessing.get_context(method).SimpleQueue()
    together = start_processes(_train, (path, overrides, processes, _free_port(), reports), processes, join=False,
                               start_method=method)
    with _handing_on_signals(together.pids()) as received:
        failure = _wait(together)
    if not reports.empty():
        raise reports.get()
    if received:
        signal.raise_signal(received[0])
    if failure is not None:
        raise failure
    return config.output / MODEL


def _wait(together: ProcessContext) -> Exception | None:
    """For the end of all processes, which is forced when one fails; what it failed of."""
    try:
        while not together.join():
            pass
    except ProcessExitedException as error:  # without a word: killed, for want of memory as a rule
        return UserError(f"{error}; the same command goes on from the run's last checkpoint")
    except ProcessRaisedException as error:
        return error
    return None


def _train(number: int, path: Path, overrides: list[str], count: int, port: int, reports: SimpleQueue) -> None:
    """One of the processes."""
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if "OMP_NUM_THREADS" not in os.environ:  # else each would take all cores
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        train_from_config(path, overrides)
    except TOLD as error:
        reports.put(_plain(error))
        sys.exit(0 if isinstance(error, KeyboardInterrupt) else 1)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reports.put(MemoryError())
        sys.exit(1)


def _plain(error: BaseException) -> BaseException:
    """The same words as an error of one of our kinds: not every library's exception survives the way."""
    kind = next(kind for kind in TOLD if isinstance(error, kind))
    return kind(str(error))


def _import_all(config: AnyTrainConfig) -> None:
    """What a run will need. No device is touched: a forked process could not use it any more."""
    with without_collecting():
        stage(config)
        try:
            import accelerate  # noqa: F401
        except ImportError as error:
            raise MissingPackage(error, "train") from error
        if isinstance(config, DiffusionConfig):
            from .stages.paper import running_teacher

            with suppress(DataError, ImportError):  # the processes say it
                if running_teacher(config) is not None:
                    from transformers import Dinov2Model  # noqa: F401


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _handing_on_signals(pids: list[int]) -> Iterator[list[int]]:
    """SIGTERM and SIGINT go to the processes; the list holds those that came."""
    received: list[int] = []

    def hand_on(number: int, _frame: object) -> None:
        received.append(number)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
