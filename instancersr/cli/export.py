"""``instancersr export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app
from .messages import as_line, needs, one_line_errors


@app.command(
    epilog="Example:  instancersr export runs/compact/sampler mine && instancersr upscale photo.jpg --model mine"
)
def export(
    model: Annotated[
        str, typer.Argument(help="Folder of a training run (finished or stopped), of a checkpoint, or of a pipeline, "
                            "'builtin', or a hub id.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder for the model; it must not exist.")],
    base: Annotated[
        str, typer.Option(help="For a run that trains one network alone: the model it is put into.")
    ] = "builtin",
    grain: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model, or a run, of the same ancestry that leaves noise and "
                                 "grain in: with it, the new model has the control --denoise.")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Store the weights in half precision, and large matrices of transformer "
                           "and control branch in 8 bits: a third of a run's size.")
    ] = False,
) -> None:
    """Make a model that `upscale --model` runs without torch: weights, settings, and graphs for ONNX Runtime."""
    with one_line_errors():
        with needs("train"):
            from instancersr.lab.export import export as export_model

        export_model(model, output, base, grain, compact)
        Console().print(as_line(f"done: {output}"), soft_wrap=True)
