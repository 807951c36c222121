"""``instancersr upscale``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from instancersr.errors import UserError
from instancersr.geometry import SMALLEST

from .app import app
from .messages import one_line_errors
from .options import Device, EngineName, Quality, split_number
from .progress import PictureProgress

if TYPE_CHECKING:
    from instancersr.batch.jobs import Job
    from instancersr.batch.workers import Call

PIPE = Path("-")
"""Stands for stdin as an input, and for stdout as the output."""


@app.command(epilog="Example:  instancersr upscale holiday.jpg scans/ -o sharp/ --fidelity 0.7 --instances")
def upscale(
    inputs: Annotated[list[Path], typer.Argument(help="Pictures or folders; sub-folders are included.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the results, or a file name for a single picture. "
                     "Without it: beside each input, as NAME_x4.png."),
    ] = None,
    scale: Annotated[float, typer.Option(min=1, max=16, help="Enlargement of each side.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Sampling steps; without it, the model's own number.")
    ] = None,
    fidelity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="1 stays closest to the input, 0 is richest in new detail; "
                     "without it, the model's own balance."),
    ] = None,
    quality: Annotated[
        Quality | None,
        typer.Option(help="fast: drawn without sampling. balanced: the model's own number of steps. best: four steps. "
                     "Without it, the model's own; --steps and edits of objects sample, whatever it says."),
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="How much of the restoration: 1 is all of it, 0 stays closest to the "
                            "input.")
    ] = 1.0,
    instance: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET=STRENGTH", help="Another strength for one object, named by its id (--instances "
                     "lists them; 0: what is no object's), by a point X,Y of the output, or by a black and white "
                     "picture, as large as the input or the output, that is white there. May be repeated."),
    ] = None,
    resample: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="Draw one object once more, with the noise of --seed; the rest is the "
                     "picture of seed 0. May be repeated."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same picture; with --resample, it is "
                          "that of the objects drawn once more.")
    ] = 0,
    start_from: Annotated[
        Literal["noise", "lr"], typer.Option(help="Begin from pure noise, or from the noised input.")
    ] = "noise",
    color_fix: Annotated[
        Literal["wavelet", "adain", "none"], typer.Option(help="How colours are kept true to the input.")
    ] = "wavelet",
    tile: Annotated[
        int, typer.Option(min=0, help="Side of a tile in input pixels; less needs less memory. 0: automatic.")
    ] = 0,
    model: Annotated[str, typer.Option(help="'builtin', a folder with a model, or a hub id.")] = "builtin",
    instances: Annotated[
        bool, typer.Option("--instances", help="Also write NAME_instances.png, one colour an object, and "
                           "NAME_instances.json, their ids and places.")
    ] = False,
    format: Annotated[
        str, typer.Option(help="File type of the results: png, jpg, webp, tiff, bmp or avif.")
    ] = "png",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that exist. An input is never replaced.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
    engine: Annotated[
        EngineName, typer.Option(help="What computes; auto: ONNX Runtime, and torch where only torch can.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, what the engine chooses.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON record a picture on stdout.")] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Pictures at once, each in a process of its own.")
    ] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Use a Ray cluster: its address; auto: one on this machine; local: start one.")
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out pictures that have a result already.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with pictures that come into the folders, until Ctrl-C.")
    ] = False,
) -> None:
    """Upscale pictures: read, restore, enlarge, and keep EXIF, colour profile and transparency.

    "-" is a picture on stdin, "-o -" writes it to stdout.
    """
    _check_tile(tile)
    if watch and not all(path.is_dir() for path in inputs):
        raise typer.BadParameter("folders are watched, not files", param_hint="--watch")
    strengths = [split_number(text, lambda strength: 0 <= strength <= 1,
                              "TARGET=STRENGTH with a strength of 0 to 1, such as 7=0.3", "--instance")
                 for text in instance or []]
    if resample and seed == 0:
        raise typer.BadParameter("give the new noise a --seed other than 0, which is the rest's",
                                 param_hint="--resample")
    to_stdout = output == PIPE
    with one_line_errors(), _piped(inputs, output, _suffix(format), as_json or instances) as (files, output):
        from instancersr.batch.jobs import plan_jobs
        from instancersr.batch.watching import watch as watch_folders
        from instancersr.batch.workers import Call

        def plan() -> list[Job]:
            found = plan_jobs(files, output, f"_x{scale:g}", _suffix(format), instances)
            return [job for job in found if not job.output.exists()] if skip_existing or watch else found

        options = {"num_inference_steps": steps, "start_from": start_from, "fidelity": fidelity,
                   "strength": strength, "color_fix": color_fix, "tile": tile or None, "quality": quality}
        call = Call(model, device, threads or _threads_each(jobs), engine, jobs > 1, scale, 0 if resample else seed,
                    options)
        if strengths or resample:
            _check_single(plan(), watch)
            call = replace(call, edits=lambda job: _edits(job.source, scale, strengths, resample or [], seed))
        batches = watch_folders(plan) if watch else iter([plan()])
        with PictureProgress(Console(stderr=True), {"seed": seed, "model": model} if as_json else None,
                             silent=to_stdout, names={str(files[0]): "stdin"} if inputs == [PIPE] else {}) as progress:
            _run_batches(batches, call, jobs, ray, overwrite, progress, ends_with_interrupt=watch)
        Console(stderr=True).print(Text(progress.summary), soft_wrap=True)
        if progress.failed:
            raise typer.Exit(1)


def _run_batches(batches: Iterator[list[Job]], call: Call, workers: int, ray: str | None, overwrite: bool,
                 progress: PictureProgress, ends_with_interrupt: bool) -> None:
    """Does the batches and shows what became of each picture; Ctrl-C is the end, or an interruption."""
    from instancersr.batch.jobs import find_problems
    from instancersr.batch.workers import run_cluster, run_here, run_local

    try:
        for batch in batches:
            find_problems(batch, overwrite)
            progress.expect(len(batch))
            if ray is not None:
                results = run_cluster(batch, call, ray)
            elif workers > 1 and len(batch) > 1:
                results = run_local(batch, call, workers)
            else:
                results = run_here(batch, call, progress.begin, progress.tiles)
            for result in results:
                progress.show(result)
    except KeyboardInterrupt:
        if not ends_with_interrupt:
            raise KeyboardInterrupt(progress.summary) from None


def _threads_each(workers: int) -> int | None:
    """CPU threads of each of several processes; None leaves the choice to the engine where there is one."""
    return max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None


@contextmanager
def _piped(inputs: list[Path], output: Path | None, suffix: str,
           writes_more: bool) -> Iterator[tuple[list[Path], Path | None]]:
    """Inputs and output with files in the place of stdin and stdout; at the end the file for stdout is written there.

    Args:
        suffix: of the picture's file type.
        writes_more: whether there is more to write than the picture.

    Raises:
        UserError: more than a single picture would go through the pipe.
    """
    if PIPE not in (*inputs, output):
        yield inputs, output
        return
    if len(inputs) != 1 or inputs[0].is_dir():
        raise UserError("-: a pipe takes one picture; give nothing else")
    if output is None:
        raise UserError("-: the picture from stdin needs an --output, such as -o -")
    if output == PIPE and writes_more:
        raise UserError("-o -: stdout takes the picture alone; leave out --json and --instances")
    with tempfile.TemporaryDirectory() as folder:
        source, target = inputs[0], output
        if source == PIPE:
            source = Path(folder, "stdin")
            source.write_bytes(sys.stdin.buffer.read())
        if output == PIPE:
            target = Path(folder, f"stdout{suffix}")
        yield [source], target
        if output == PIPE and target.exists():
            sys.stdout.buffer.write(target.read_bytes())
            sys.stdout.buffer.flush()


def _check_tile(tile: int) -> None:
    if 0 < tile < SMALLEST:
        raise typer.BadParameter(f"a tile has at least {SMALLEST} pixels a side (0: automatic)",
                                 param_hint="--tile")


def _check_single(jobs: list[Job], watch: bool) -> None:
    if watch or len(jobs) != 1:
        number = "a folder that is watched" if watch else str(len(jobs))
        raise UserError(f"--instance and --resample are for a single picture; here are {number}")


def _edits(source: Path, scale: float, strengths: list[tuple[str, float]], resample: list[str],
           seed: int) -> list[Any]:
    """The `Edit`s of a single picture; their targets may be masks, which have its size."""
    if not (strengths or resample):
        return []
    from instancersr.edits import Edit, read_target
    from instancersr.images.reading import read_image

    height, width = read_image(source).rgb.shape[:2]
    sizes = (height, width), (round(height * scale), round(width * scale))
    return ([Edit(read_target(target, *sizes), seed=seed) for target in resample]
            + [Edit(read_target(target, *sizes), strength=value) for target, value in strengths])


def _suffix(format: str) -> str:
    from instancersr.images.writing import WRITABLE

    suffix = f".{format.lower().lstrip('.')}"
    if suffix not in WRITABLE:
        raise typer.BadParameter(f"{format!r} cannot be written; choose {', '.join(s[1:] for s in WRITABLE)}",
                                 param_hint="--format")
    return suffix
