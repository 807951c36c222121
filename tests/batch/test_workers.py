"""A batch on several processes or a cluster: the same pictures, and a bad file or a dead worker stops nothing."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data

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
