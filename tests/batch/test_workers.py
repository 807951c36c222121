"""A batch on several processes or a cluster: the same pictures, and a bad file or a dead worker stops nothing."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data

from instancersr.batch.jobs import Job
from instancersr.batch.planning import plan_jobs
from instancersr.batch.workers import Call, run_cluster, run_here, run_local
from instancersr.errors import MissingPackage, ModelError, UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three pictures and a text file that is called one."""
    for number, picture in enumerate((data.astronaut(), data.coffee(), data.chelsea())):
        Image.fromarray(picture[:16, :20]).save(tmp_path / f"{number}.png")
    (tmp_path / "text.jpg").write_text("no picture")
    return tmp_path


def jobs(folder: Path, output: str) -> list:
    return plan_jobs([folder], folder.parent / f"{folder.name}-{output}", "_x4", ".png", False).jobs


def pixels(folder: Path, output: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(job.output)) for job in jobs(folder, output) if job.output.exists()]


@pytest.fixture
def call(tiny_model) -> Call:
    return Call(str(tiny_model), "cpu", threads=1, seed=3, options={"num_inference_steps": 1})


@pytest.fixture
def expected(folder, call) -> list[np.ndarray]:
    results = list(run_here(jobs(folder, "here"), call, lambda _: None, lambda *_: None))
    assert [result.error is None for result in results] == [True, True, True, False]
    return pixels(folder, "here")


def test_processes_make_the_same_pictures_and_one_that_is_killed_is_replaced(folder, call, expected):
    def kill_one() -> None:
        while not (workers := [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]):
            time.sleep(0.02)
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    results = list(run_local(jobs(folder, "local"), call, 2))
    killer.join()
    assert sorted(result.job.source.name for result in results if result.error) == ["text.jpg"]
    assert len(results) == 4
    for ours, theirs in zip(expected, pixels(folder, "local"), strict=True):
        assert np.array_equal(ours, theirs)


@dataclass(frozen=True)
class Deadly(Call):
    """Kills the process that does 1.png, as the system does for want of memory."""

    signal: int = signal.SIGKILL

    def arguments(self, job: Job) -> dict:
        if job.source.name == "1.png":
            os.kill(os.getpid(), self.signal)
        return super().arguments(job)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_picture_whose_processes_are_killed_is_its_own_error_and_the_others_are_made(folder, call, expected, number):
    deadly = Deadly(call.model, "cpu", threads=1, seed=3, options=call.options, signal=number)
    errors = {result.job.source.name: result.error for result in run_local(jobs(folder, "local"), deadly, 2)}
    assert len(errors) == 4
    assert [name for name, error in sorted(errors.items()) if error] == ["1.png", "text.jpg"]
    assert errors["1.png"].startswith(f"error: {folder / '1.png'}: ") and "killed" in errors["1.png"]
    assert "--jobs" in errors["1.png"]
    for ours, theirs in zip(expected[::2], pixels(folder, "local"), strict=True):
        assert np.array_equal(ours, theirs)


@dataclass(frozen=True)
class Unheard(Call):
    """Is killed once, after the result of 1.png was written and before anybody heard of it."""

    def arguments(self, job: Job) -> dict:
        if job.source.name == "1.png" and not job.output.exists():
            job.output.parent.mkdir(exist_ok=True)
            job.output.write_bytes(b"its result")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().arguments(job)


def test_a_result_whose_worker_was_killed_before_it_said_so_is_no_strangers(folder, call, expected):
    unheard = Unheard(call.model, "cpu", threads=1, seed=3, options=call.options)
    results = list(run_local(jobs(folder, "local"), unheard, 2))
    assert [result.job.source.name for result in results if result.error] == ["text.jpg"]
    for ours, theirs in zip(expected, pixels(folder, "local"), strict=True):
        assert np.array_equal(ours, theirs)


def test_workers_end_with_a_batch_that_is_given_up(folder, call):
    """As where SIGTERM raises an exception between two results; those in work are not waited for."""
    slow = replace(call, options={"num_inference_steps": 1000})
    for name in ("1.png", "2.png"):
        Image.new("RGB", (400, 400)).save(folder / name)
    results = run_local(jobs(folder, "local")[-1:] + jobs(folder, "local")[1:3], slow, 2)
    assert next(results).job.source.name == "text.jpg"
    results.close()
    assert not multiprocessing.active_children() and pixels(folder, "local") == []


def test_a_model_that_cannot_be_loaded_ends_the_batch(folder, tmp_path):
    with pytest.raises(ModelError, match="cannot load the model"):
        list(run_here(jobs(folder, "none"), Call(str(tmp_path / "no-model"), "cpu"), lambda _: None, lambda *_: None))


def test_a_cluster_makes_the_same_pictures(folder, call, expected):
    pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    results = list(run_cluster(jobs(folder, "ray"), call, "local"))
    assert sum(result.error is not None for result in results) == 1
    for ours, theirs in zip(expected, pixels(folder, "ray"), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_cluster_that_is_not_there_is_one_line(folder, call):
    pytest.importorskip("ray", reason="the extra 'scale' is not installed")
    with pytest.raises(UserError, match="--ray 127.0.0.1:1: no cluster answers"):
        list(run_cluster(jobs(folder, "ray"), call, "127.0.0.1:1"))


def test_a_package_that_workers_miss_is_the_same_line():
    sent = pickle.loads(pickle.dumps(MissingPackage(ImportError("No module named 'x'"), "torch")))
    assert isinstance(sent, ModelError) and "No module named 'x'" in str(sent)
