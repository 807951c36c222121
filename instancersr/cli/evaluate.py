"""``instancersr evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from instancersr.errors import UserError

from .app import app
from .messages import as_line, needs, one_line_errors
from .progress import CountProgress


@app.command(epilog="Example:  instancersr evaluate --lr LR --hr HR --method ours=builtin -o OUT")
def evaluate(
    config: Annotated[Path | None, typer.Argument(help="YAML file, instead of the options.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
    lr: Annotated[Path | None, typer.Option(help="Folder of inputs.")] = None,
    hr: Annotated[Path | None, typer.Option(help="Folder of truths; names may differ by _LR4, _HR or _x4.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SPEC; SPEC: bicubic, builtin, realesrgan-ncnn, a model folder or hub id, a folder of "
                     "outputs, a model file, a JSON file of published scores."),
    ] = None,
    metrics: Annotated[str, typer.Option(help="Names with commas between.")] = "psnr,ssim,lpips,dists,niqe",
    weights: Annotated[Path | None, typer.Option(help="Folder with the metrics' weights in torch_home.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for records, tables, report.")] = None,
) -> None:
    """Compare methods on pictures by metrics; the same command goes on where a stopped one ended."""
    with one_line_errors():
        with needs("eval"):
            from instancersr.lab.evaluation import evaluate as evaluation
            from instancersr.lab.training.config import load_section

        if config:
            if lr or hr or method or output or weights:
                raise UserError(f"{config}: a file takes KEY=VALUE pairs, not options")
            settings = load_section(evaluation.EvaluationConfig, config, overrides or [])
        else:
            if not (lr and method and output):
                raise UserError("give a YAML file, or --lr, --method NAME=SPEC and -o")
            for each in method:
                if not all(each.partition("=")):
                    raise UserError(f"--method {each}: expected NAME=SPEC, such as cubic=bicubic")
            names = [each.partition("=")[0] for each in method]
            if len(set(names)) < len(names):
                raise UserError(f"--method: two methods have one name ({', '.join(names)})")
            settings = evaluation.EvaluationConfig(
                output=output, benchmarks={lr.parent.name or "benchmark": evaluation.BenchmarkConfig(lr=lr, hr=hr)},
                methods={name: spec for name, _, spec in (each.partition("=") for each in method)},
                metrics=metrics.split(","), weights=weights)
        errors = Console(stderr=True)
        with CountProgress(errors, "images") as progress:
            folder = evaluation.evaluate(settings, lambda line: errors.print(as_line(line), soft_wrap=True),
                                         progress.show)
        typer.echo((folder / "table.md").read_text())
