"""`doctor`: what is there, what is broken, and what could be better."""

import hashlib
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from instancersr import doctor
from instancersr.cli import app


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_it_tries_the_model(tiny_model):
    result = CliRunner().invoke(app, ["doctor", "--model", str(tiny_model), "--device", "cpu"])
    for name in ("python", "torch", "diffusers", "device", "processor", "threads", "weights", "memory"):
        assert name in result.stdout
    assert "16x16 -> 64x64" in result.stdout and "float32" in result.stdout and "megapixels" in result.stdout


def test_it_reports_what_is_broken(tmp_path):
    result = CliRunner().invoke(app, ["doctor", "--model", str(tmp_path)])
    assert result.exit_code == 1 and "BROKEN" in result.stdout and "Traceback" not in result.output
    assert "1 of" in result.stderr and "checks failed" in result.stderr


def test_the_weights_in_the_package_are_those_recorded():
    """With sha256sum itself, where the system has it."""
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not here")
    done = subprocess.run(["sha256sum", "--check", "--quiet", doctor.CHECKSUMS.name], cwd=doctor.WEIGHTS)
    assert done.returncode == 0
    whole = hashlib.sha256(doctor.CHECKSUMS.read_bytes()).hexdigest()
    assert whole[:16] in by_name([doctor._done("weights", doctor._weights)])["weights"].found


def test_a_damaged_or_missing_file_of_weights_is_named(tmp_path, monkeypatch):
    (tmp_path / "transformer").mkdir()
    file = tmp_path / "transformer" / "model.safetensors"
    file.write_bytes(b"weights")
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(b'weights').hexdigest()}  transformer/model.safetensors\n")
    monkeypatch.setattr(doctor, "WEIGHTS", tmp_path)
    monkeypatch.setattr(doctor, "CHECKSUMS", sums)
    assert doctor._done("weights", doctor._weights).ok
    for damage in (lambda: file.write_bytes(b"weight?"), file.unlink):
        damage()
        check = doctor._done("weights", doctor._weights)
        assert not check.ok and "transformer/model.safetensors" in check.found and "install the package" in check.found


def test_more_memory_allows_a_larger_picture_and_none_allows_none():
    assert doctor.largest_picture(1e8) == 0
    assert doctor.largest_picture(16e9) > 1.5 * doctor.largest_picture(8e9) > 1e8


def test_advice_is_a_line_under_the_table(tiny_model, monkeypatch):
    monkeypatch.setattr(doctor, "LOW_MEMORY", float("inf"))
    result = CliRunner().invoke(app, ["doctor", "--model", str(tiny_model), "--device", "cpu"])
    assert result.exit_code == 0 and "memory: close other programs, or use --tile 64" in result.stdout.splitlines()
