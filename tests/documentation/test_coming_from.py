"""What docs/coming-from.md promises to users of other programs, and to readers of the paper."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from instancersr.cli.app import app
from instancersr.lab.training.config import load_config
from instancersr.loading import load_upscaler

from .markdown import blocks_of

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "coming-from.md"
PAPER = PAGE.read_text(encoding="utf-8").split("## The paper")[1]


def test_the_single_onnx_file_computes_what_fast_draws(tmp_path, monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in blocks_of(PAGE) if "merge_models" in block.text]
    exec(compile(block.text, str(block), "exec"), {})
    photo = data.astronaut()[60:92, 200:240]
    session = ort.InferenceSession("instancersr.onnx", providers=["CPUExecutionProvider"])
    assert [len(session.get_inputs()), len(session.get_outputs())] == [1, 1]
    y = (photo.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    large = session.run(["photo"], {"y": y})[0][0].transpose(1, 2, 0).clip(0, 1) * 255
    upscaler = load_upscaler("builtin", engine="onnx")
    ours = upscaler(photo, quality="fast", denoise=1, fidelity=0, color_fix="none", cleaning=0.0).images[0]
    np.testing.assert_allclose(large.round(), np.asarray(ours), atol=1)


def test_its_options_exist():
    import typer

    known = {option for parameter in typer.main.get_command(app).commands["upscale"].params
             for option in parameter.opts if not getattr(parameter, "hidden", False)}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `-")]
    assert len(rows) > 8
    named = {option for row in rows for option in re.findall(r"--[a-z][a-z-]+", row.split("|")[3])}
    assert named and named <= known


@pytest.mark.parametrize("name", re.findall(r"`((?:lab|instances|sampling)\.[\w.]+)`", PAPER))
def test_functions_of_the_equations_exist(name):
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(f"instancersr.{module}"), function))


def test_keys_of_the_equations_exist():
    cells = [row.split("|")[3] for row in PAPER.splitlines() if row.startswith("| ")]
    keys = {key for cell in cells for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)`", cell)}
    assert len(keys) > 15
    config = load_config(ROOT / "configs" / "paper.yaml", [])
    for key in keys:
        section = config
        for part in key.split("."):
            assert hasattr(section, part), key
            section = getattr(section, part)
