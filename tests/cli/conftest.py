"""The command, run as a user would."""

import pytest
from typer.testing import CliRunner

from instancersr.cli.app import app


@pytest.fixture
def upscale(tiny_model, tmp_path, monkeypatch):
    """Run ``instancersr upscale`` in tmp_path -> (exit code, lines of stdout, lines of stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_model):
        arguments = ["upscale", *map(str, arguments), "--model", str(model), "--steps", "1"]
        result = CliRunner().invoke(app, arguments)
        assert "Traceback" not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert not list(tmp_path.rglob("*.part")), "an unfinished file was left"
        return result.exit_code, result.stdout.splitlines(), result.stderr.splitlines()

    return run
