"""Pictures through pipes, streams that are closed or full, and records for programs."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import animation, save, written
from PIL import Image


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp"])
def test_several_pages_or_frames_go_through_a_pipe_in_their_own_format(upscale, tiny_model, name):
    given = animation(name)
    for source in ("-", str(Path(name).absolute())):
        done = pipe(tiny_model, given, source, "-o", "-")
        assert done.returncode == 0, done.stderr
        with Image.open(io.BytesIO(done.stdout)) as result, Image.open(name) as before:
            assert (result.format, result.n_frames, result.size) == (before.format, 3, (80, 64))


@pytest.mark.skipif(os.name == "nt", reason="a shell's syntax")
@pytest.mark.parametrize(("closed", "said"), [("<&-", "stdin is closed"), (">&-", "stdout is closed")])
def test_a_closed_pipe_is_one_line(tmp_path, closed, said):
    source = "-" if closed == "<&-" else save(str(tmp_path / "a.png"))
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m instancersr upscale {source} -o - {closed}"], text=True,
                          capture_output=True, timeout=120, cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and said in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell's syntax")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full device")
@pytest.mark.parametrize("output", ["-", "b.png"])
def test_a_full_stdout_is_named(tiny_model, tmp_path, output):
    save(str(tmp_path / "a.png"))
    command = [sys.executable, "-m", "instancersr", "upscale", "a.png", "-o", output, "--model", str(tiny_model)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, text=True, stdout=full, stderr=subprocess.PIPE, timeout=120, cwd=tmp_path,
                              env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: stdout cannot be written (No space left on device)"]


def test_a_picture_is_made_though_stderr_is_closed(tiny_model, tmp_path):
    save(str(tmp_path / "a.png"))
    script = f"{sys.executable} -m instancersr upscale {tmp_path} --model {tiny_model} --steps 1 2>&-"
    done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and b"a_x4.png" in done.stdout and (tmp_path / "a_x4.png").exists()


def test_a_name_that_the_terminal_cannot_show_is_spelled_out(tiny_model, tmp_path):
    source = save(str(tmp_path / "日本.png"))
    command = [sys.executable, "-m", "instancersr", "upscale", str(source), str(tmp_path / "無.png"), "--model",
               str(tiny_model), "--steps", "1"]
    done = subprocess.run(command, capture_output=True, timeout=120, cwd=Path(__file__).parents[2],
                          env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 1 and b"\\u65e5\\u672c.png -> " in done.stdout
    assert b"\\u7121.png: no such file" in done.stderr and b"1 done, 1 failed" in done.stderr
    assert written(tmp_path) == ["日本.png", "日本_x4.png"]


def pipe(tiny_model, given: bytes, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "instancersr", "upscale", *arguments, "--model", str(tiny_model), "--steps", "1"]
    return subprocess.run(command, input=given, capture_output=True, timeout=120, cwd=Path(__file__).parents[2])


def test_a_picture_goes_through_a_pipe(tiny_model, upscale):
    source = save("a.png")
    assert upscale(source)[0] == 0
    done = pipe(tiny_model, source.read_bytes(), "-", "-o", "-")
    assert done.returncode == 0 and done.stdout == Path("a_x4.png").read_bytes()
    assert done.stderr.splitlines() == [b"1 done"]


def test_a_pipe_without_a_picture_is_one_line(tiny_model, tmp_path):
    done = pipe(tiny_model, b"no picture", "-", "-o", "-")
    assert done.returncode == 1 and done.stdout == b"" and b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2  # what is wrong with it, and the sum


@pytest.mark.parametrize("arguments,message", [
    (["-"], "needs an --output"), (["-", "a.png", "-o", "out"], "takes one picture"),
    (["-", "-o", "-", "--json"], "leave out --json")])
def test_a_pipe_that_cannot_work_is_named(upscale, arguments, message):
    code, out, errors = upscale(*arguments)
    assert code == 2 and out == [] and len(errors) == 1 and message in errors[0]


def test_json_has_a_record_for_every_picture_the_bad_one_too(upscale):
    save("in/a.png")
    Path("in/b.jpg").write_text("no picture")
    code, out, errors = upscale("in", "-o", "out", "--json", "--instances", "--seed", 5)
    good, bad = map(json.loads, out)
    assert code == 1 and good["seed"] == bad["seed"] == 5
    assert good["error"] is None and good["seconds"] > 0 and good["input_size"] == [20, 16]
    assert Image.open(good["output"]).size == tuple(good["output_size"]) and Path(good["instances"]).exists()
    assert bad["output"] is None and "b.jpg" in bad["error"] and errors == ["1 done, 1 failed"]
