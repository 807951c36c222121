"""Which file becomes which: each source has a result of its own, the same in every run; what is left out is told."""

import errno
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instancersr.batch.planning import RESULTS, find_problems, plan_jobs
from instancersr.images.folders import counted, search
from instancersr.images.writing import write_image


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(*paths: str) -> None:
    for path in paths:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (len(path), 0, 0)).save(path, "JPEG" if Path(path).suffix.startswith(".j") else None)


def targets(*inputs: str, output: str | None = None, **options) -> dict[str, str]:
    jobs = plan_jobs([Path(each) for each in inputs], output and Path(output), "_x4", ".png", False, **options).jobs
    return {str(job.source): str(job.output) for job in jobs if job.problem is None}


def test_results_that_would_collide_carry_the_sources_suffix_whatever_is_asked_for_and_in_which_order():
    save("m/a.jpg", "m/a.png", "m/b.jpg")
    expected = {"m/a.jpg": "m/a_jpg_x4.png", "m/a.png": "m/a_png_x4.png", "m/b.jpg": "m/b_x4.png"}
    assert targets("m") == expected
    assert targets("m/a.png", "m/a.jpg") == {key: expected[key] for key in ("m/a.png", "m/a.jpg")}
    for path, result in expected.items():
        assert targets(path) == {path: result}


def test_results_of_an_earlier_run_change_no_name():
    save("m/a.jpg", "m/a.png")
    before = targets("m")
    for result in before.values():
        write_image(result, np.zeros((8, 8, 3), np.uint8))
    assert targets("m") == before


def test_files_of_one_name_in_two_folders_that_go_into_one():
    save("x/a.png", "y/a.png", "x/p/b.png", "y/p/b.png", "x/a_png.jpg")
    inputs = ["x/a.png", "y/a.png", "x/p/b.png", "y/p/b.png", "x/a_png.jpg"]
    found = targets(*inputs, output="out")
    assert found["x/a.png"] == "out/x_a_png_x4.png" and found["y/a.png"] == "out/y_a_png_x4.png"
    assert len(set(found.values())) == 5  # two p/b.png differ further up only
    assert targets(*reversed(inputs), output="out") == found


def test_a_result_never_takes_the_place_of_a_source():
    save("a.png", "a_x4.png")
    found = targets("a.png", "a_x4.png")
    assert found == {"a.png": "a_png_x4.png", "a_x4.png": "a_x4_x4.png"}


def test_a_file_that_cannot_be_read_owns_no_name():
    save("m/a.png")
    Path("m/a.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    Path("m/a.heic").write_bytes(b"\0\0\0\x18ftypfake" + bytes(64))
    plan = plan_jobs([Path("m")], None, "_x4", ".png", False)
    assert {job.source.name for job in plan.jobs if job.problem} == {"a.jpg", "a.heic"}
    assert targets("m") == {"m/a.png": "m/a_x4.png"}
    Image.new("RGB", (8, 8)).save("m/a_x4.png")
    assert plan_jobs([Path("m")], None, "_x4", ".png", False).skip_finished().skipped == 1


def test_a_name_too_long_for_a_file_is_shortened_and_stays_different():
    names = [f"{'ä' * 120}{letter}.png" for letter in "xy"]
    save(*names)
    found = targets(".", output="out")
    assert len(set(found.values())) == 2
    assert all(len(os.fsencode(Path(path).name)) <= 255 and Path(path).suffix == ".png" for path in found.values())


def test_a_file_named_twice_is_one_job():
    save("m/a.png")
    plan = plan_jobs([Path("m/a.png"), Path("m"), Path("m/../m/a.png")], None, "_x4", ".png", False)
    assert [str(job.source) for job in plan.jobs] == ["m/a.png"] and plan.left_out == {"named twice": 2}


def test_results_are_no_inputs_unless_asked_for_or_named():
    save("m/a.png")
    for path in ("m/a_x4.png", "m/old/whatever.jpg", "m/b.bmp", "m/c.webp", "m/d.tif"):
        Path(path).parent.mkdir(exist_ok=True)
        write_image(path, np.zeros((8, 8, 3), np.uint8))
    assert set(targets("m")) == {"m/a.png"}
    assert plan_jobs([Path("m")], None, "_x2", ".jpg", False).left_out == {RESULTS: 5}
    assert len(targets("m", include_results=True)) == 6
    assert set(targets("m/c.webp")) == {"m/c.webp"}


def test_nothing_in_a_folder_is_left_out_without_a_word():
    save("m/a.jfif", "m/b.jpe", "m/c.jpg", "m/d.PNG", "m/e.gif")
    Image.new("RGB", (9, 9)).save("m/f.mpo", "MPO")
    for name in ("a.mp4", "b.mp4", "notes.txt", "README", ".hidden"):
        Path("m", name).touch()
    os.symlink("nowhere.png", "m/broken.png")
    os.mkfifo("m/pipe.png")
    plan = plan_jobs([Path("m")], None, "_x4", ".png", False)
    assert len(plan.jobs) == 6 and not any(job.problem for job in plan.jobs)
    assert plan.left_out == {".mp4": 2, ".txt": 1, "without suffix": 1, "hidden": 1, "broken link": 1,
                             "special file": 1}
    assert counted(plan.left_out).startswith("7 files left out: 2 .mp4, 1 ")


def test_linked_folders_are_followed_once_and_loops_end():
    save("far/p.png", "m/sub/a.png")
    os.symlink("../far", "m/0link")
    os.symlink("..", "m/sub/loop")
    os.symlink("sub", "m/again")
    found = search("m")
    assert [str(path) for path in found.pictures] == ["m/0link/p.png", "m/sub/a.png"]
    assert found.left_out == {"link to a folder that is searched already": 2}


def test_an_odd_path_is_a_problem_of_its_own_and_the_others_are_planned(monkeypatch):
    """Such as a folder whose names may be listed, but nothing in it reached; it is mimicked, as root reaches all."""
    def closed(path, *_, real, **options) -> os.stat_result:
        if "barred/" in os.fspath(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, **options)

    save("m/a.png", "m/barred/b.png")
    os.symlink("loop.png", "m/loop.png")
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, partial(closed, real=getattr(os, name)))
    inputs = ["m", "m/loop.png", f"{'n' * 300}.png", "m/barred/b.png"]
    plan = plan_jobs([Path(each) for each in inputs], Path("out"), "_x4", ".png", True)
    find_problems(plan.jobs, overwrite=False)
    problems = {str(job.source): job.problem for job in plan.jobs if job.problem}
    assert set(problems) == {"m/barred", *inputs[1:]}
    assert "cannot be read; check its permissions" in problems["m/barred"]
    assert [str(job.source) for job in plan.skip_finished().jobs if not job.problem] == ["m/a.png"]
    assert plan.left_out == {"broken link": 1}


def test_a_folder_is_listed_once_however_many_of_its_files_are_named(monkeypatch):
    for number in range(5):
        save(f"m/{number}.png", f"m/{number}.jpg")
    listed = []
    for function in (os.scandir, os.listdir):
        monkeypatch.setattr(os, function.__name__, lambda path, real=function: listed.append(str(path)) or real(path))
    assert len(targets(*(f"m/{number}.png" for number in range(5)))) == 5
    assert listed == ["m"]


def test_maps_of_pictures_whose_results_differ_by_their_suffix_alone_do_not_collide():
    frames = [Image.new("RGB", (20, 16), color) for color in ("red", "blue")]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    save("a.png", "b.png", "b.jpg", "c.png")
    plan = plan_jobs([Path(".")], None, "_x4", None, True)
    find_problems(plan.jobs, overwrite=False)
    assert not [job.problem for job in plan.jobs if job.problem]
    assert {str(job.source): (job.output.name, job.instances.name) for job in plan.jobs} == {
        "a.gif": ("a_x4.gif", "a_gif_instances.png"), "a.png": ("a_x4.png", "a_png_instances.png"),
        "b.jpg": ("b_jpg_x4.png", "b_jpg_instances.png"), "b.png": ("b_png_x4.png", "b_png_instances.png"),
        "c.png": ("c_x4.png", "c_instances.png")}
    [alone] = plan_jobs([Path("a.png")], None, "_x4", None, True).jobs
    assert alone.instances.name == "a_png_instances.png"


def test_a_source_of_several_pages_keeps_its_format_unless_another_is_asked_for():
    frames = [Image.new("RGB", (20, 16), color) for color in ("red", "blue")]
    for name in ("a.tif", "b.gif", "c.webp"):
        frames[0].save(name, save_all=True, append_images=frames[1:])
    frames[0].save("d.tif")
    jobs = plan_jobs([Path(".")], None, "_x4", None, False).jobs
    assert [job.output.name for job in jobs] == ["a_x4.tif", "b_x4.gif", "c_x4.webp", "d_x4.png"]
    assert all(result.endswith(".png") for result in targets(".").values())
