"""``instancersr upscale``."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
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
from .options import a_number, path, split_number
from .pipes import PIPE, piped
from .progress import PictureProgress

if TYPE_CHECKING:
    from instancersr.batch.jobs import Job, Result
    from instancersr.batch.workers import Call

RESULT = "What comes out"
METHOD = "How it is restored"
MACHINE = "Where it is computed"
PROGRAMS = "For many files and programs"
EXAMPLES = """Example:  instancersr upscale holiday.jpg scans/ -o sharp/ --format webp  # what comes out

Example:  instancersr upscale face.jpg --fidelity 0.7 --denoise 0  # how

Example:  instancersr upscale large.tif --device cuda --tile 128  # where

Example:  instancersr upscale scans/ -o sharp/ --jobs 2 --json > done.jsonl  # for programs
"""


@app.command(epilog=EXAMPLES)
def upscale(
    inputs: Annotated[
        list[Path], typer.Argument(parser=path, help="Pictures or folders; sub-folders are included.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=path, rich_help_panel=RESULT, help="Folder for the results, "
                     "or the file name of a single one. Without it, results are written beside the inputs, as "
                     "NAME_x4.png; the number is that of --scale."),
    ] = None,
    scale: Annotated[
        float, typer.Option(min=1, max=16, callback=a_number, rich_help_panel=RESULT, help="How many times as wide "
                            "and as high.")
    ] = 4,
    format: Annotated[
        str | None,
        typer.Option(rich_help_panel=RESULT, help="File type of the results: png, jpg, webp, tiff, bmp or avif. "
                     "Without it, png, or the input's own type if it has several pages or frames."),
    ] = None,
    file_quality: Annotated[
        int, typer.Option(min=1, max=100, rich_help_panel=RESULT, help="Quality of JPEG, WebP and AVIF files. A lower "
                          "number gives smaller files.")
    ] = 95,
    lossless: Annotated[
        bool, typer.Option("--lossless", rich_help_panel=RESULT, help="Write WebP without loss, and AVIF nearly so. "
                           "It changes no other format.")
    ] = False,
    instances: Annotated[
        bool, typer.Option("--instances", rich_help_panel=RESULT, help="Also write the map of objects: "
                           "NAME_instances.png has one colour an object, NAME_instances.json has their ids and places.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=RESULT, help="Replace results that exist. An input is never "
                           "replaced.")
    ] = False,
    fidelity: Annotated[
        float | None,
        typer.Option(min=0, max=1, callback=a_number, rich_help_panel=METHOD, help="How close the result stays to the "
                     "photo: 1 is closest, 0 has the most new detail. Without it, the model's own value."),
    ] = None,
    denoise: Annotated[
        str,
        typer.Option(metavar="auto|0..1", rich_help_panel=METHOD, help="How much noise and grain is taken off: 0 keeps "
                     "it, 1 takes off the most. With auto, the damage of the photo decides. A noisy photo is cleaned "
                     "before it is drawn, which takes longer."),
    ] = "auto",
    quality: Annotated[
        Quality | None,
        typer.Option(rich_help_panel=METHOD, help="How many sampling steps are taken: none with fast, the model's own "
                     "number with balanced, four with best. Without it, the model's own choice; the built-in one "
                     "takes fast, and two steps with balanced. With --steps, --instance and --resample, fast samples "
                     "too; with --instances, for the map alone."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, rich_help_panel=METHOD, help="An exact number of sampling steps, in "
                                 "place of --quality. The built-in model was trained for 1 to 10; from 5 on "
                                 "it draws grain.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, rich_help_panel=METHOD, help="The same seed gives the same picture. "
                          "With --resample, it is the seed of the objects that are drawn once more.")
    ] = 0,
    instance: Annotated[
        list[str] | None,
        typer.Option(metavar="OBJECT=STRENGTH", rich_help_panel=METHOD, help="Restore one object by another strength: "
                     "0 leaves it closest to the photo, 1 restores it fully. OBJECT is its id (--instances lists them; "
                     "0 is the background, which is no object), a point X,Y of the result, or a black and white "
                     "picture that is white there, as large as the input or the result. May be repeated."),
    ] = None,
    resample: Annotated[
        list[str] | None,
        typer.Option(metavar="OBJECT", rich_help_panel=METHOD, help="Draw one object once more, with the noise of "
                     "--seed, which must not be 0. The rest of the picture is that of seed 0. May be repeated."),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(metavar="ID,ID", rich_help_panel=METHOD, help="Make several objects one, by their ids; all become "
                     "the first. It is for --instances, --instance and --resample. May be repeated."),
    ] = None,
    segmenter: Annotated[
        str | None,
        typer.Option(metavar="MODEL", rich_help_panel=METHOD, help="A Segment Anything model, hub id or folder, that "
                     "finds the objects in the finished picture, instead of the model's own map. It needs the extra "
                     "torch, transformers and torchvision."),
    ] = None,
    start_from: Annotated[
        Literal["noise", "lr"], typer.Option(rich_help_panel=METHOD, help="Sampling begins from pure noise, or from "
                                             "the input with noise added (lr).")
    ] = "noise",
    color_fix: Annotated[
        Literal["wavelet", "adain", "none"], typer.Option(rich_help_panel=METHOD, help="How colours are kept as in the "
                                                          "input.")
    ] = "wavelet",
    model: Annotated[
        str, typer.Option(rich_help_panel=METHOD, help="'builtin', a folder with a model, or a hub id.")
    ] = "builtin",
    strength: Annotated[
        float | None, typer.Option(min=0, max=1, callback=a_number, hidden=True, help="Deprecated: 1 less --fidelity.")
    ] = None,
    device: Annotated[
        Device, typer.Option(rich_help_panel=MACHINE, help="The processor or GPU that computes.")
    ] = "auto",
    engine: Annotated[
        EngineName, typer.Option(rich_help_panel=MACHINE, help="The library that computes. auto takes ONNX Runtime, or "
                                 "PyTorch where only that reaches the GPU or runs the model.")
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=MACHINE, help="CPU threads. Without it, the engine chooses.")
    ] = None,
    tile: Annotated[
        int, typer.Option(min=0, rich_help_panel=MACHINE, help="Side of a tile in pixels of the input. A smaller tile "
                          "needs less memory. With 0, the program chooses.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, rich_help_panel=PROGRAMS, help="Pictures that are worked on at the "
                          "same time, each in a process of its own.")
    ] = 1,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", rich_help_panel=PROGRAMS, help="Leave out pictures whose result exists.")
    ] = False,
    include_results: Annotated[
        bool, typer.Option("--include-results", rich_help_panel=PROGRAMS, help="Also enlarge pictures that this "
                           "program wrote. Without it, they are left out of folders.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", rich_help_panel=PROGRAMS, help="Wait for new pictures in the folders, until "
                           "Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=PROGRAMS, help="Write one JSON record for each picture to stdout.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(rich_help_panel=PROGRAMS, help="Use a Ray cluster: its address, auto for one on this "
                                 "machine, or local to start one.")
    ] = None,
) -> None:
    """Upscale pictures. EXIF, colour profile and transparency are kept.

    "-" stands for a picture on stdin, and "-o -" writes the result to stdout.
    """
    _check_tile(tile)
    denoised = _denoise(denoise)
    if watch and (missing := [folder for folder in inputs if not os.path.exists(folder)]):
        raise typer.BadParameter(f"no such folder: {missing[0]}", param_hint="--watch")
    if watch and not all(os.path.isdir(folder) for folder in inputs):
        raise typer.BadParameter("only folders can be watched; leave out the files", param_hint="--watch")
    if overwrite and (skip_existing or watch):
        raise typer.BadParameter("it leaves results that exist alone; leave out --overwrite",
                                 param_hint="--watch" if watch else "--skip-existing")
    strengths = [split_number(text, lambda strength: 0 <= strength <= 1,
                              "OBJECT=STRENGTH with a strength from 0 to 1, such as 7=0.3", "--instance")
                 for text in instance or []]
    groups = [_group(text) for text in merge or []]
    if (groups or segmenter) and not (instances or strengths or resample):
        raise typer.BadParameter("objects are looked for with --instances, --instance or --resample only",
                                 param_hint="--merge" if groups else "--segmenter")
    if strength is not None:
        fidelity = _replace_strength(strength, fidelity)
    if resample and seed == 0:
        raise typer.BadParameter("give a --seed other than 0; the rest of the picture has seed 0",
                                 param_hint="--resample")
    to_stdout = output == PIPE
    suffix = _suffix(format)
    with own_words_only(), one_line_errors():
        from instancersr.batch.planning import Plan, plan_jobs, refuse_several
        from instancersr.batch.watching import watch as watch_folders
        from instancersr.batch.workers import Call
        from instancersr.images.writing import Compression

        with piped(inputs, output, suffix, as_json or instances) as (files, output):
            plans = [Plan()]  # Ctrl-C may come before there is another
            edited = bool(strengths or resample or groups)

            def plan() -> list[Job]:
                found = plan_jobs(files, output, f"_x{scale:g}", suffix, instances, include_results)
                for job in found.jobs:
                    job.compression, job.whole = Compression(file_quality, lossless), watch
                    job.keep = skip_existing or watch
                plans[:] = [found.skip_finished() if skip_existing or watch else found]
                if edited:
                    refuse_several(plans[0].jobs)
                return plans[0].jobs

            options = {"num_inference_steps": steps, "start_from": start_from, "color_fix": color_fix,
                       "tile": tile or None, "quality": quality, "denoise": denoised, "merge": groups,
                       **_fidelity(fidelity, bool(strengths))}
            call = Call(model, device, threads, engine, scale=scale, seed=0 if resample else seed, options=options,
                        segmenter=segmenter)
            if edited:
                _check_single(plan(), watch)
            if strengths or resample:
                call = replace(call, edits=lambda job: _edits(job.source, scale, strengths, resample or [], seed))
            batches = watch_folders(plan) if watch else iter([plan()])
            names = {str(files[0]): "stdin"} if inputs == [PIPE] else {}
            with PictureProgress(Console(stderr=True), {"seed": seed, "model": model} if as_json else None,
                                 to_stdout, names) as progress:
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
                results = run_local(batch, call, workers, progress.say)
            else:
                results = run_here(batch, call, progress.begin, progress.tiles)
            _show(results, progress)
    except KeyboardInterrupt:
        if not ends_with_interrupt:
            raise KeyboardInterrupt(progress.summary) from None


def _show(results: Generator[Result, None, None], progress: PictureProgress) -> None:
    """Shows all results; after Ctrl-C those of pictures that were written meanwhile, and then it goes on."""
    try:
        for result in results:
            progress.show(result)
    except KeyboardInterrupt as interruption:
        progress.show(results.throw(interruption))  # raises it again where the results are at their end
        for result in results:
            progress.show(result)


def _replace_strength(strength: float, fidelity: float | None) -> float:
    """The fidelity that the option --strength of earlier versions asks for; says so."""
    if fidelity is not None:
        raise typer.BadParameter("it is --fidelity the other way round; give --fidelity alone", param_hint="--strength")
    typer.echo(f"--strength is deprecated; --fidelity {1 - strength:g} does the same", err=True)
    return 1 - strength


def _fidelity(fidelity: float | None, objects_differ: bool) -> dict[str, float | None]:
    """The upscaler's arguments; where objects have strengths of their own, 1 is full restoration for them."""
    if fidelity is None or not objects_differ:
        return {"fidelity": fidelity}
    return {"fidelity": 0.0, "strength": 1 - fidelity}


def _check_tile(tile: int) -> None:
    if 0 < tile < SMALLEST:
        raise typer.BadParameter(f"a tile needs at least {SMALLEST} pixels a side; 0 lets the program choose",
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
