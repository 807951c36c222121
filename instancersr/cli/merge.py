"""``instancersr merge``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .app import app
from .messages import as_line, needs, one_line_errors
from .options import split_number


@app.command(epilog="Example:  instancersr merge merged/ runs/a/model=0.5 runs/b/model=0.7 builtin=-0.2")
def merge(
    output: Annotated[Path, typer.Argument(help="Folder for the merged model; it must not exist.")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL=SHARE", help="Each 'builtin', a folder with a model, "
                                  "or a hub id; shares sum to 1, some may be negative.")
    ],
) -> None:
    """Add up the weights of models of one ancestry, each times its share: a mean, or a step beyond one of them."""
    shares = [split_number(text, math.isfinite, "MODEL=SHARE, such as runs/a/model=0.5", "MODEL") for text in models]
    with one_line_errors():
        with needs("torch"):
            from instancersr.lab.merging import merge_models

        merge_models(shares, output)
        Console().print(as_line(f"done: {output}"), soft_wrap=True)
