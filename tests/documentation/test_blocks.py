"""Every command and every piece of Python that the documentation prints, run as it stands there.

A block that cannot run here has a comment above it, `<!-- needs: ... -->`, which says what it needs; its commands are
then checked against the options that exist. The two that CI runs in new environments are marked `run` and `test`;
those that go on until Ctrl-C are marked so, and are stopped by it.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from skimage import data
from transformers import Dinov2Config, Dinov2Model

from instancersr.cli.app import app

from . import fork_server
from .markdown import Block, blocks_of, commands_of

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
IN_CI = ("run", "test")
ENDLESS = "until Ctrl-C"
LANGUAGES = ("sh", "python")
NEEDS = re.compile(r"needs: \w.*")


def code(document: Path) -> list[Block]:
    return [block for block in blocks_of(document) if block.language in LANGUAGES and block.marker not in IN_CI]


def runs(block: Block) -> bool:
    return block.marker != ENDLESS and not NEEDS.fullmatch(block.marker)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A folder with an `instancersr` that starts at once."""
    folder = tmp_path_factory.mktemp("bin")
    address = str(folder / "socket")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    server = subprocess.Popen([sys.executable, fork_server.__file__, address], env=environment,
                              stdout=subprocess.PIPE, text=True)
    assert server.stdout.readline() == "ready\n"
    script = folder / "instancersr"
    script.write_text(fork_server.CLIENT.format(python=sys.executable, address=address))
    script.chmod(0o755)
    yield folder
    server.terminate()
    server.wait()


@pytest.fixture
def shell(tmp_path, photo_folder, command):
    """Runs a block in a folder with a reader's pictures and a clone's own files."""
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=56,
                             patch_size=14)).save_pretrained(tmp_path / "dino")
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    put_pictures(tmp_path)
    path = os.pathsep.join([str(command), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "PHOTOS": str(photo_folder), "DINO": str(tmp_path / "dino"), "CUDA_VISIBLE_DEVICES": ""}

    def run(block: Block) -> None:
        done = subprocess.run(["sh", "-ec", block.text], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=300)
        assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout[-4000:]}"

    return run


def put_pictures(folder: Path) -> None:
    """What the examples speak of, small."""
    picture = Image.fromarray(data.astronaut()[60:84, 200:232])  # 24 x 32
    for name in ("holiday.jpg", "face.jpg", "photo.jpg", "old.png"):
        picture.save(folder / name)
    two = np.full((24, 32, 3), (30, 60, 160), np.uint8)  # objects
    two[:, 16:] = 240, 150, 40
    Image.fromarray(two).save(folder / "photo.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 6:20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    (folder / "scans" / "1999").mkdir(parents=True)
    picture.crop((0, 0, 16, 16)).save(folder / "scans" / "a.png")
    picture.crop((8, 8, 24, 24)).save(folder / "scans" / "1999" / "b.png")


def until_ctrl_c(command: str, folder: Path, seen: Callable[[], bool]) -> tuple[int, str]:
    """Runs a command until something is seen, then presses Ctrl-C: its exit code, and what it printed."""
    program, *arguments = shlex.split(command)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen([Path(sys.executable).parent / program, *arguments], cwd=folder, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        end = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end and not seen():
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, printed


def endless(name: str) -> Block:
    [block] = [block for block in code(ROOT / "docs" / name) if block.marker == ENDLESS]
    return block


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_watched_folder_until_ctrl_c(tmp_path):
    (tmp_path / "inbox").mkdir()
    Image.fromarray(data.astronaut()[60:84, 200:232]).save(tmp_path / "inbox" / "a.png")
    result = tmp_path / "outbox" / "a_x4.png"
    code, printed = until_ctrl_c(endless("bulk.md").text, tmp_path, result.exists)
    assert code == 0 and printed.endswith("1 done\n"), printed
    assert Image.open(result).size == (128, 96)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_page_until_ctrl_c(tmp_path):
    pytest.importorskip("gradio", reason="needs the page's packages: pip install '.[web]'")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 7860)) == 0:
            pytest.skip("port 7860 is taken")
    answers: list[str] = []

    def seen() -> bool:
        try:
            with urllib.request.urlopen("http://127.0.0.1:7860/", timeout=60) as answer:
                answers.append(answer.read().decode())
        except OSError:
            return False
        return True

    code, printed = until_ctrl_c(endless("web.md").text, tmp_path, seen)
    assert code == 130 and printed.splitlines() == ["http://127.0.0.1:7860  (Ctrl-C ends it)", "interrupted"], printed
    assert "InstanceRSR" in answers[0]


TRAINING = ROOT / "docs" / "training.md"


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d != TRAINING and any(map(runs, code(d)))],
                         ids=lambda d: d.name)
def test_blocks_run_in_their_order(document, shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in filter(runs, code(document)):
        if block.language == "sh":
            shell(block)
        else:
            exec(compile(block.text, str(block), "exec"), names)


def test_training_ends_with_a_picture(shell, tmp_path):
    for block in filter(runs, code(TRAINING)):
        shell(block)
    small = Image.open(ROOT / "examples" / "cat.jpg").size
    assert Image.open(tmp_path / "tried.png").size == tuple(4 * side for side in small)
    assert (tmp_path / "runs" / "try" / "two" / "model" / "model_index.json").exists()


def commands(block: Block) -> list[list[str]]:
    """The arguments of each call of `instancersr` in a shell block."""
    found = []
    for line in commands_of(block.text):
        for part in re.split(r"\s(?:&&|\||;|>|#)\s?|;\s", line):
            call = re.search(r"(?:^|\s)(?:-m )?instancersr\s+(\S.*)", part)
            if call and "pip install" not in part:
                found.append(shlex.split(call[1]))
    return found


@pytest.mark.parametrize("block", [b for d in DOCUMENTS for b in code(d) if NEEDS.fullmatch(b.marker)], ids=str)
def test_what_cannot_run_here_has_options_that_exist(block):
    if block.language == "python":
        compile(block.text, str(block), "exec")
        return
    group = typer.main.get_command(app)
    for arguments in commands(block):
        name, subcommand, rest = group.resolve_command(group.make_context("instancersr", ["doctor"]), arguments)
        subcommand.make_context(name, rest)  # raises on an option or a value that is none
        for argument in rest:
            if argument.startswith("configs/") and "$" not in argument and "*" not in argument:
                assert (ROOT / argument).is_file(), argument
