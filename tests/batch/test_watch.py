"""A watched folder: whole pictures come out once, half-copied and finished ones do not."""

import os
from pathlib import Path

import pytest

from instancersr.batch.jobs import Job
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
