"""A watched folder: whole pictures come out once, half-copied and finished ones do not."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instancersr.batch.jobs import Job, run_jobs
from instancersr.batch.watching import watch


@pytest.fixture
def looks(tmp_path, monkeypatch):
    """Steps through the looks of a watch: what is done between two of them, and the names of the jobs that came."""
    def plan() -> list[Job]:
        return [Job(path, path.with_suffix(".out"), None) for path in sorted(tmp_path.glob("*.png"))]

    def run(*actions) -> list[list[str]]:
        came: list[list[str]] = [[] for _ in actions]
        todo = iter(enumerate(actions))

        def act(_seconds: float) -> None:
            nonlocal number
            try:
                number, action = next(todo)
            except StopIteration:
                raise KeyboardInterrupt from None
            action()

        number = 0
        monkeypatch.setattr("instancersr.batch.watching.time.sleep", act)
        with pytest.raises(KeyboardInterrupt):
            for jobs in watch(plan):
                came[number] += [job.source.name for job in jobs]
        return came

    return run


def nothing() -> None:
    pass


def write(path: Path, text: str):
    return lambda: path.write_text(text)


def test_a_picture_comes_out_once_it_is_whole_and_only_once(looks, tmp_path):
    copying = tmp_path / "a.png"
    assert looks(write(copying, "1"), write(copying, "12"), nothing, nothing) == [[], [], ["a.png"], []]


def test_finished_ones_are_left_and_changed_ones_come_again(looks, tmp_path):
    (tmp_path / "done.png").write_text("x")
    (tmp_path / "done.out").write_text("y")
    failed = tmp_path / "failed.png"
    failed.write_text("x")

    def replace() -> None:
        failed.write_text("good")
        os.utime(failed, ns=(1, 1))

    assert looks(nothing, replace, nothing, nothing) == [["failed.png"], [], ["failed.png"], []]


def test_a_file_that_is_gone_again_is_no_job(looks, tmp_path):
    (tmp_path / "a.png").write_text("x")
    assert looks((tmp_path / "a.png").unlink, nothing) == [[], []]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_whose_copy_pauses_is_not_taken_before_it_is_whole(tmp_path, progressive):
    """It decodes in part; a progressive one even in all places, coarsely. Without --watch that is enough."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg", progressive=progressive)
    cut = tmp_path / "a.jpg"
    cut.write_bytes((tmp_path / "whole.jpg").read_bytes()[:-2000])

    def error(whole: bool) -> str | None:
        """Of a run that ends where the model would be loaded."""
        def load() -> None:
            raise ValueError("taken")

        [result] = run_jobs([Job(cut, tmp_path / "a.png", None, whole=whole)], load, 4, lambda _: {}, lambda _: None)
        return result.error

    assert "taken" in error(False)
    assert "cut off" in error(True) and "tried again when it has changed" in error(True)
    cut.write_bytes((tmp_path / "whole.jpg").read_bytes())
    assert "taken" in error(True)
