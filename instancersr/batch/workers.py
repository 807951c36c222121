"""The jobs of a batch on several processes, or on the machines of a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..cores import usable_cores
from ..errors import UserError
from ..loading import load_segmenter, load_upscaler
from ..presets import Device, EngineName
from .jobs import Job, Result, explain, run_jobs
from .parallel import run_on_cluster, start_worker

if TYPE_CHECKING:
    from ..edits import Edit

GRACE = 1.0
"""Seconds that a worker has to delete half a file."""


@dataclass(frozen=True)
class Call:
    """How pictures are upscaled, in a form that another process understands.

    Args:
        model, device, threads, engine, shared: as for `load_upscaler`.
        scale: enlargement.
        seed: of each picture's noise: the result depends neither on the batch nor on the process.
        options: the upscaler's other arguments.
        edits: gives those of a job, where there are some; for this process only.
        segmenter: as for `load_segmenter`, or None for the model's own map.
    """

    model: str = "builtin"
    device: Device = "auto"
    threads: int | None = None
    engine: EngineName = "auto"
    shared: bool = False
    scale: float = 4
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    edits: Callable[[Job], list[Edit]] | None = None
    segmenter: str | None = None

    def load(self) -> Any:
        """The upscaler; this process loads it once."""
        return _load(self.model, self.device, self.threads, self.engine, self.shared)

    def arguments(self, job: Job) -> dict[str, Any]:
        """Of the upscaler's call, for one picture."""
        own: dict[str, Any] = {"seed": self.seed}
        if self.edits:
            own["edits"] = self.edits(job)
        if self.segmenter:
            own["segmenter"] = load_segmenter(self.segmenter, self.device)
        return self.options | own


_load = lru_cache(maxsize=1)(load_upscaler)


def run_here(jobs: list[Job], call: Call, begin: Callable[[str], None],
             tiles: Callable[[int, int], None]) -> Generator[Result, None, None]:
    """The jobs one by one in this process; `begin` and `tiles` as `run_jobs` and the upscaler call them."""
    return run_jobs(jobs, call.load, call.scale, lambda job: call.arguments(job) | {"progress": tiles}, begin)


def run_local(jobs: list[Job], call: Call, workers: int,
              tell: Callable[[str], None] = lambda _: None) -> Generator[Result, None, None]:
    """The jobs on up to `workers` processes, in the order they are done.

    They share the cores, unless the call says how many threads each has. Where a worker was killed, each picture that
    was in work is tried again alone, so that one that kills its worker is known, and the others go on. After a
    KeyboardInterrupt, here or thrown in, pictures in work are finished and given before it goes on; a second one gives
    them up.

    Args:
        tell: called with a line where pictures in work let a person wait.

    Raises:
        ModelError: the model cannot be loaded.
    """
    workers = min(workers, len(jobs))
    call = replace(call, threads=call.threads or max(1, usable_cores() // workers), shared=True)
    todo = dict(enumerate(jobs))
    while todo:
        try:
            yield from _run_pool(todo, call, workers, tell)
        except BrokenProcessPool:
            for job in todo.values():  # a result may have been written, and its worker killed before it said so
                job.overwrite = True
            # pictures are begun in their order, so that those in work were the first that are not done
            for number in list(todo)[:workers]:
                yield from _run_alone(todo.pop(number), call, tell)


def _run_alone(job: Job, call: Call, tell: Callable[[str], None]) -> Generator[Result, None, None]:
    """One job in a process of its own; if that is killed, it is the job's error."""
    try:
        yield from _run_pool({0: job}, call, 1, tell)
    except BrokenProcessPool:
        yield Result(job, explain(job.source, UserError("its process was killed twice, perhaps for want of memory; "
                                                        "fewer --jobs or a smaller --tile need less")))


def _run_pool(jobs: dict[int, Job], call: Call, workers: int,
              tell: Callable[[str], None]) -> Generator[Result, None, None]:
    """Takes out of `jobs` what is done."""
    # spawn: a fork would copy locks that the engine's threads hold
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    numbers: dict[Future, int] = {}
    try:
        numbers = _submit(pool, jobs, call)
        yield from _results(numbers, jobs)
    except KeyboardInterrupt:
        for future, number in numbers.items():
            if future.cancel():
                jobs.pop(number, None)
        try:
            tell("pictures in work are finished first; Ctrl-C again gives them up")
            yield from _results(numbers, jobs)
        except BrokenProcessPool:
            pass  # nothing is begun again after Ctrl-C
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            _end_workers()
            raise
        raise
    except (SystemExit, GeneratorExit):
        _end_workers()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_workers() -> None:
    """Ends all workers in the middle of what they do; no half-written file is left."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()  # an exception there, after which it would begin the next picture
    for worker in workers:
        worker.join(GRACE)
        worker.kill()


def _results(numbers: dict[Future, int], jobs: dict[int, Job]) -> Generator[Result, None, None]:
    """What becomes of those of the jobs that are in `jobs` still.

    Raises:
        BrokenProcessPool: a worker was killed; all that was done is given before.
    """
    killed = False
    for future in as_completed([future for future, number in numbers.items() if number in jobs]):
        if isinstance(future.exception(), (BrokenProcessPool, SystemExit)):  # SystemExit: by SIGTERM
            killed = True
        else:
            result = future.result()
            del jobs[numbers[future]]
            yield result
    if killed:
        raise BrokenProcessPool


def _submit(pool: ProcessPoolExecutor, jobs: dict[int, Job], call: Call) -> dict[Future, int]:
    try:
        return {pool.submit(do_job, job, call): number for number, job in jobs.items()}
    except OSError as error:  # a worker was killed while the next one was being started
        raise BrokenProcessPool(str(error)) from error


def run_cluster(jobs: list[Job], call: Call, address: str) -> Generator[Result, None, None]:
    """The jobs as Ray tasks of `call.threads` cores each, or one; a GPU each where the device is cuda.

    Inputs and outputs must be under the same paths on every machine. A picture whose machine dies is done again.

    Raises:
        ModelError, UserError: as `run_local`; or there is no cluster.
    """
    # a task that is done again finds the result of its first time
    absolute = [replace(job, source=job.source.absolute(), output=job.output.absolute(), overwrite=True,
                        instances=job.instances and job.instances.absolute()) for job in jobs]
    given = {id(job): as_given for job, as_given in zip(absolute, jobs, strict=True)}
    threads = call.threads or 1
    tasks = run_on_cluster(do_job, absolute, address, replace(call, threads=threads, shared=True), cpus=threads,
                           gpus=int(call.device == "cuda"))
    return (replace(result, job=given[id(job)]) for job, result in tasks)


def do_job(job: Job, call: Call) -> Result:
    """One job, in a worker."""
    [result] = run_jobs([job], call.load, call.scale, call.arguments, lambda _: None)
    return result
