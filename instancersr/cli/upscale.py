"""``instancersr upscale``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from instancersr.errors import UserError
from instancersr.geometry import SMALLEST
from instancersr.presets import Device, EngineName, Quality

from .app import app
from .messages import one_line_errors, own_words_only
from .options import split_number
from .pipes import PIPE, piped
from .progress import PictureProgress

if TYPE_CHECKING:
    from instancersr.batch.jobs import Job
    from instancersr.batch.workers import Call


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
    denoise: Annotated[
        str,
        typer.Option(metavar="auto|0..1", help="How much noise and grain is taken off: 0 keeps it, 1 takes off as much "
                     "as can be; auto: the model decides."),
    ] = "auto",
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
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="ID,ID", help="Objects of the map that are one, named by their ids; all become the first. "
                     "For --instances, --instance and --resample. May be repeated."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A Segment Anything model, hub id or folder, that finds the objects in the "
                     "finished picture, instead of the map that comes with it; needs torch and transformers."),
    ] = None,
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
        str | None,
        typer.Option(help="File type of the results: png, jpg, webp, tiff, bmp or avif. Without it: png, or the "
                     "source's own where it has several pages or frames."),
    ] = None,
    file_quality: Annotated[
        int, typer.Option(min=1, max=100, help="How closely JPEG, WebP and AVIF files keep the result; less is "
                     "smaller.")
    ] = 95,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="WebP without loss, AVIF as good as without; with another format it "
                           "changes nothing.")
    ] = False,
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
    include_results: Annotated[
        bool, typer.Option("--include-results", help="Enlarge pictures that this program wrote, too; folders are "
                           "searched without them.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with pictures that come into the folders, until Ctrl-C.")
    ] = False,
) -> None:
    """Upscale pictures: read, restore, enlarge, and keep EXIF, colour profile and transparency.

    "-" is a picture on stdin, "-o -" writes it to stdout.
    """
    _check_tile(tile)
    denoised = _denoise(denoise)
    if watch and not all(path.is_dir() for path in inputs):
        raise typer.BadParameter("folders are watched, not files", param_hint="--watch")
    strengths = [split_number(text, lambda strength: 0 <= strength <= 1,
                              "TARGET=STRENGTH with a strength of 0 to 1, such as 7=0.3", "--instance")
                 for text in instance or []]
    groups = [_group(text) for text in merge or []]
    if (groups or segmenter) and not (instances or strengths or resample):
        raise typer.BadParameter("objects are looked for with --instances, --instance or --resample only",
                                 param_hint="--merge" if groups else "--segmenter")
    if resample and seed == 0:
        raise typer.BadParameter("give the new noise a --seed other than 0, which is the rest's",
                                 param_hint="--resample")
    to_stdout = output == PIPE
    suffix = _suffix(format)
    with (own_words_only(), one_line_errors(),
          piped(inputs, output, suffix or ".png", as_json or instances) as (files, output)):
        from instancersr.batch.planning import Plan, plan_jobs
        from instancersr.batch.watching import watch as watch_folders
        from instancersr.batch.workers import Call
        from instancersr.images.writing import Compression

        plans: list[Plan] = []

        def plan() -> list[Job]:
            found = plan_jobs(files, output, f"_x{scale:g}", suffix, instances, include_results)
            for job in found.jobs:
                job.compression = Compression(file_quality, lossless)
            plans[:] = [found.skip_finished() if skip_existing or watch else found]
            return plans[0].jobs

        options = {"num_inference_steps": steps, "start_from": start_from, "fidelity": fidelity,
                   "strength": strength, "color_fix": color_fix, "tile": tile or None, "quality": quality,
                   "denoise": denoised, "merge": groups}
        call = Call(model, device, threads, engine, scale=scale, seed=0 if resample else seed, options=options,
                    segmenter=segmenter)
        if strengths or resample or groups:
            _check_single(plan(), watch)
        if strengths or resample:
            call = replace(call, edits=lambda job: _edits(job.source, scale, strengths, resample or [], seed))
        batches = watch_folders(plan) if watch else iter([plan()])
        with PictureProgress(Console(stderr=True), {"seed": seed, "model": model} if as_json else None,
                             silent=to_stdout, names={str(files[0]): "stdin"} if inputs == [PIPE] else {}) as progress:
            _run_batches(batches, call, jobs, ray, overwrite, progress, ends_with_interrupt=watch)
        progress.conclude(plans[0].left_out, plans[0].skipped if skip_existing else 0)
        if progress.failed:
            raise typer.Exit(1)


def _run_batches(batches: Iterator[list[Job]], call: Call, workers: int, ray: str | None, overwrite: bool,
                 progress: PictureProgress, ends_with_interrupt: bool) -> None:
    """Does the batches and shows what became of each picture; Ctrl-C is the end, or an interruption."""
    from instancersr.batch.planning import find_problems
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


def _check_tile(tile: int) -> None:
    if 0 < tile < SMALLEST:
        raise typer.BadParameter(f"a tile has at least {SMALLEST} pixels a side (0: automatic)",
                                 param_hint="--tile")


def _denoise(text: str) -> float | None:
    """The upscaler's argument for what was written."""
    if text == "auto":
        return None
    try:
        value = float(text)
        if not 0 <= value <= 1:
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither 'auto' nor a number of 0 to 1", param_hint="--denoise") from None
    return value


def _group(text: str) -> list[int]:
    """The objects that an argument makes one."""
    if not re.fullmatch(r"\d+(,\d+)+", text):
        raise typer.BadParameter(f"{text!r} is not two or more ids of objects, such as 3,7", param_hint="--merge")
    return [int(number) for number in text.split(",")]


def _check_single(jobs: list[Job], watch: bool) -> None:
    if watch or len(jobs) != 1:
        number = "a folder that is watched" if watch else str(len(jobs))
        raise UserError(f"--instance, --resample and --merge are for a single picture; here are {number}")


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


def _suffix(format: str | None) -> str | None:
    from instancersr.images.formats import WRITABLE

    suffix = None if format is None else f".{format.lower().lstrip('.')}"
    if suffix is not None and suffix not in WRITABLE:
        raise typer.BadParameter(f"{format!r} cannot be written; choose {', '.join(s[1:] for s in WRITABLE)}",
                                 param_hint="--format")
    return suffix
