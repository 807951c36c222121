"""``instancersr plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app
from .messages import needs, one_line_errors
from .options import a_number


@app.command(epilog="Example:  instancersr plan configs/paper.yaml --gpus 8 --gpu H100 sharded=true")
def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of a diffusion run; see the folder configs.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    gpu: Annotated[str, typer.Option(help="Which: H100, H200, A100, RTX4090, ...")] = "H100",
    mfu: Annotated[
        float,
        typer.Option(min=0.01, max=1, callback=a_number,
                     help="Share of the GPU's bf16 peak at which the run computes."),
    ] = 0.45,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images in one forward pass of a GPU; else the file's, or as many as fit."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers for a program instead of tables.")] = False,
) -> None:
    """Say what a training run costs before it is begun: FLOPs, memory, images/s, days, energy."""
    with one_line_errors():
        with needs("train"):
            from instancersr.lab.evaluation import plan as planning
            from instancersr.lab.evaluation import plan_tables as tables
            from instancersr.lab.training.config import load_config

        run = load_config(config, overrides or [])
        setup = planning.setup_of(run, planning.find_gpu(gpu), gpus, mfu)
        answer = planning.make_plan(run, setup, micro_batch or run.micro_batch)
        if as_json:
            typer.echo(tables.as_json(answer))
        else:
            Console().print(*tables.as_tables(answer), sep="\n")
