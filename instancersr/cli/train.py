"""``instancersr train``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app
from .messages import as_line, needs, one_line_errors


@app.command(
    epilog="Example:  instancersr train configs/compact/2_restoration.yaml batch=16 images=100000"
)
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see the folder configs.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes on this machine: GPUs, or shares of the CPU; the batch is their sum.")
    ] = 1,
) -> None:
    """Train a model as a configuration says; the same command resumes a run that was stopped."""
    # diffusers imports it wherever it is installed, as it is with pyiqa, for nothing that is trained here: .8 seconds
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    with one_line_errors():
        with needs("train"):
            from instancersr.lab.training.launch import train_together
            from instancersr.lab.training.trainer import train_from_config
        if processes > 1:
            folder = train_together(config, overrides or [], processes)
        else:
            folder = train_from_config(config, overrides or [])
        Console().print(as_line(f"done: {folder}"), soft_wrap=True)
