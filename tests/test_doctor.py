"""``instancersr doctor``: what it finds, and that damage shows."""

import shutil

import pytest
from typer.testing import CliRunner

from instancersr import doctor
from instancersr.cli.app import app
from instancersr.model import BUILTIN


def run(*arguments):
    result = CliRunner().invoke(app, ["doctor", "--device", "cpu", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


def test_all_that_is_asked_for_is_there(tiny_model):
    result = run("--model", tiny_model)
    assert result.exit_code == 0
    for word in ("instancersr", "onnx: ONNX Runtime", "CPUExecutionProvider", "float32 on onnx/cpu",
                 "threads", "SHA-256", "as recorded", "none recorded", "16x16 -> 64x64"):
        assert word in result.stdout, word


def test_a_damaged_file_of_weights_is_named(tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(BUILTIN, folder)
    assert doctor._weights(folder).works
    file = folder / "restoration" / "diffusion_pytorch_model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1  # one bit, in the last weight: it loads as well as before
    file.write_bytes(damaged)
    result = run("--model", folder)
    assert result.exit_code == 1 and "restoration/diffusion_pytorch_model.safetensors" in result.stdout
    assert "controlnet" not in result.stdout and result.stderr == "1 of 17 checks failed\n"


def test_a_model_that_is_not_there_is_broken_in_three_lines(tmp_path):
    result = run("--model", tmp_path)
    assert result.exit_code == 1 and result.stdout.count("BROKEN") == 3


def test_the_largest_picture_grows_with_memory_and_too_little_is_broken(monkeypatch):
    small, large = (doctor.largest_result(gib * 2**30) for gib in (4, 8))
    assert large - small == pytest.approx(4 * 2**30 / doctor.BYTES_PER_PIXEL)
    monkeypatch.setattr(doctor, "free_memory", lambda: 300_000_000)
    finding = doctor._memory()
    assert not finding.works and "close other programs" in finding.advice


def test_the_torch_engine_is_named(tiny_model):
    result = run("--model", tiny_model, "--engine", "torch")
    assert result.exit_code == 0 and "float32 on torch/cpu" in result.stdout


def test_a_processor_without_vectors_is_advice(monkeypatch):
    monkeypatch.setattr(doctor, "VECTORS", ("no_such_flag",))
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor.Path, "is_file", lambda _: True)
    monkeypatch.setattr(doctor.Path, "read_text", lambda *_, **__: "flags: fpu sse2")
    assert "AVX2" in doctor._cpu().advice
