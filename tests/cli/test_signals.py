"""Ctrl-C and SIGTERM: what is in work, what is written, and what is said."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import picture, save, written


def test_ctrl_c_in_the_first_look_at_a_watched_folder_ends_it(upscale, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    Path("in").mkdir()
    monkeypatch.setattr("instancersr.batch.planning.search", interrupt)
    assert upscale("in", "--watch") == (0, [], ["0 done"])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_quietly_with_130_and_no_partial_output(tiny_model, tmp_path):
    picture(16, 16).save(tmp_path / "first.png")
    picture(16, 6000).save(tmp_path / "long.png")
    command = [sys.executable, "-m", "instancersr", "upscale", "first.png", "long.png", "--tile", "16",
               "--steps", "20", "--model", str(tiny_model)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # a job in a script's background ignores SIGINT, and so would the processes that it starts
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    while not (tmp_path / "first_x4.png").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines() == ["interrupted: 1 done"]
    assert written(tmp_path) == ["first.png", "first_x4.png", "long.png"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_with_several_jobs_counts_all_that_is_written_and_the_second_gives_up_the_rest(tiny_model, tmp_path):
    for name in ("1.png", "2.png", "3.png"):
        picture(16, 16).save(tmp_path / name)
    for name in ("4long.png", "5long.png", "6long.png"):
        picture(16, 30_000).save(tmp_path / name)
    command = [sys.executable, "-m", "instancersr", "upscale", ".", "--tile", "16", "--steps", "50", "--json",
               "--model", str(tiny_model), "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                               start_new_session=True)
    shown = [process.stdout.readline() for _ in range(3)]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    while "Ctrl-C again gives them up" not in process.stderr.readline():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted: 3 done"
    assert not out and sorted(json.loads(line)["output"] for line in shown) == ["1_x4.png", "2_x4.png", "3_x4.png"]
    assert written(tmp_path) == ["1.png", "1_x4.png", "2.png", "2_x4.png", "3.png", "3_x4.png",
                                 "4long.png", "5long.png", "6long.png"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_with_several_jobs_ends_by_itself_when_pictures_still_wait(tiny_model, tmp_path):
    for number in range(40):
        picture(16, 600).save(tmp_path / f"{number:02d}.png")
    command = [sys.executable, "-m", "instancersr", "upscale", ".", "--tile", "16", "--steps", "20", "--json",
               "--model", str(tiny_model), "--jobs", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    first = process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    done = [json.loads(line)["output"] for line in [first, *out.splitlines()]]
    assert process.returncode == 130 and err.splitlines()[-1] == f"interrupted: {len(done)} done"
    assert 0 < len(done) < 40
    assert sorted(done) == [name for name in written(tmp_path) if name.endswith("_x4.png")]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_ends_with_143_and_leaves_no_half_file_and_no_copy_of_stdin(tiny_model, tmp_path):
    """It comes while the result is written, after which a line says where it went."""
    (tmp_path / "temporary").mkdir()
    code = ("import os, signal, sys\n"
            "def during(event, arguments):\n"
            "    if event == 'os.rename' and str(arguments[0]).endswith('.part'):\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "from instancersr.cli import main\n"
            "sys.addaudithook(during)\n"
            "main()\n")
    done = subprocess.run([sys.executable, "-c", code, "upscale", "-", "-o", str(tmp_path / "b.png"), "--model",
                           str(tiny_model), "--steps", "1"], input=save(str(tmp_path / "a.png")).read_bytes(),
                          capture_output=True, timeout=120, cwd=Path(__file__).parents[2],
                          env=os.environ | {"TMPDIR": str(tmp_path / "temporary")})
    assert (done.returncode, done.stdout, done.stderr) == (143, b"", b"")
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != ".ses"]  # ONNX Runtime's own
    assert left == ["a.png"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("arguments", [["export", "{}", "mine"], ["merge", "mine", "{}=0.5", "{}=0.5"]])
def test_sigterm_leaves_no_half_model(tiny_model, tmp_path, arguments):
    """It comes when the model is about to get its name."""
    code = ("import os, signal, sys\n"
            "def during(event, arguments):\n"
            "    if event == 'os.rename' and str(arguments[1]).endswith('mine'):\n"
            "        assert os.listdir('.')\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "from instancersr.cli import main\n"
            "sys.addaudithook(during)\n"
            "main()\n")
    command = [sys.executable, "-c", code, *(each.format(tiny_model) for each in arguments)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 143, done.stderr
    assert not any(tmp_path.iterdir())
