"""The commands that the documentation prints, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

ROOT = Path(__file__).parent.parent


def blocks_marked_tested(document: Path) -> list[str]:
    """Shell blocks that follow the comment `tested`."""
    return re.findall(r"<!-- tested -->\n```sh\n(.*?)```", document.read_text(), re.DOTALL)


@pytest.fixture
def shell(tmp_path, photo_folder):
    """Runs a block where a clone's own files are, with a small random teacher and a folder of six photos."""
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(hidden_size=16, num_hidden_layers=12, num_attention_heads=2, image_size=56,
                             patch_size=14)).save_pretrained(tmp_path / "dino")
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "instancersr"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m instancersr \"$@\"\n")
    command.chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                   "PHOTOS": str(photo_folder), "DINO": str(tmp_path / "dino"), "CUDA_VISIBLE_DEVICES": ""}

    def run(block: str) -> None:
        done = subprocess.run(["sh", "-ec", block], cwd=tmp_path, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=300)
        assert done.returncode == 0, f"{block}\n{done.stdout[-4000:]}"

    return run


def test_training_from_photos_to_a_picture(shell, tmp_path):
    blocks = blocks_marked_tested(ROOT / "docs" / "training.md")
    assert len(blocks) == 6
    for block in blocks:
        shell(block)
    small = Image.open(ROOT / "examples" / "cat.jpg").size
    assert Image.open(tmp_path / "tried.png").size == tuple(4 * side for side in small)
    assert (tmp_path / "runs" / "try" / "two" / "model" / "model_index.json").exists()
