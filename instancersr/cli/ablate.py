"""``instancersr ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app
from .messages import as_line, needs, one_line_errors


@app.command(epilog="Example:  instancersr ablate configs/ablations/mini.yaml seeds=[0]")
def ablate(
    config: Annotated[Path, typer.Argument(help="YAML file; see the folder configs/ablations.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
) -> None:
    """Train the paper's cases, measure them, and write its Table 2 and Figures 1 and 4; resumes if stopped."""
    with one_line_errors():
        with needs("eval"):
            import matplotlib  # noqa: F401
            import sklearn  # noqa: F401

            from instancersr.lab.evaluation.ablation import run_ablation
        errors = Console(stderr=True)
        folder = run_ablation(config, overrides or [], lambda line: errors.print(as_line(line), soft_wrap=True))
        typer.echo((folder / "table.md").read_text())
        Console().print(as_line(f"done: {folder}"), soft_wrap=True)
