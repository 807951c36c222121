"""The ``instancersr`` command. Heavy imports wait until a command runs: ``--help`` answers at once."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from instancersr.errors import MissingPackage, UserError

if TYPE_CHECKING:
    from instancersr.inference.batch import Job, Result
    from instancersr.inference.workers import Call

app = typer.Typer(
    name="instancersr",
    help="Sharp, natural enlargements of bad photos, and the map of the objects in them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

SMALLEST_TILE = 16

PIPE = Path("-")
"""Stands for stdin as an input, and for stdout as the output."""


Device = Literal["auto", "cpu", "cuda", "mps"]
Quality = Literal["fast", "balanced", "best"]


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"instancersr {version('instancersr')}")
        except PackageNotFoundError:
            typer.echo("instancersr, not installed")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# ---------------------------------------------------------------------------------------------------- upscale


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
        Quality, typer.Option(help="What large photos are given: tiles that overlap less, as usual, or more.")
    ] = "balanced",
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
    model: Annotated[
        str, typer.Option(help="'builtin', a folder saved by save_pretrained, or a hub id.")
    ] = "builtin",
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
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, what torch chooses.")
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
    strengths = [_split_number(text, lambda strength: 0 <= strength <= 1,
                               "TARGET=STRENGTH with a strength of 0 to 1, such as 7=0.3", "--instance")
                 for text in instance or []]
    if resample and seed == 0:
        raise typer.BadParameter("give the new noise a --seed other than 0, which is the rest's",
                                 param_hint="--resample")
    to_stdout = output == PIPE
    with _one_line_errors(), _piped(inputs, output, _suffix(format), as_json or instances) as (files, output):
        from instancersr.inference.batch import plan_jobs
        from instancersr.inference.presets import QUALITY
        from instancersr.inference.watch import watch as watch_folders
        from instancersr.inference.workers import Call

        def plan() -> list[Job]:
            found = plan_jobs(files, output, f"_x{scale:g}", _suffix(format), instances)
            return [job for job in found if not job.output.exists()] if skip_existing or watch else found

        options = {"num_inference_steps": steps, "start_from": start_from, "fidelity": fidelity,
                   "strength": strength, "color_fix": color_fix, "tile": tile or None, **QUALITY[quality]}
        call = Call(model, device, threads or _threads_each(jobs), scale, 0 if resample else seed, options)
        if strengths or resample:
            _check_single(plan(), watch)
            call = replace(call, edits=lambda job: _edits(job.source, scale, strengths, resample or [], seed))
        batches = watch_folders(plan) if watch else iter([plan()])
        with _Progress(Console(stderr=True), {"seed": seed, "model": model} if as_json else None, silent=to_stdout,
                       names={str(files[0]): "stdin"} if inputs == [PIPE] else {}) as progress:
            _run_batches(batches, call, jobs, ray, overwrite, progress, ends_with_interrupt=watch)
        Console(stderr=True).print(Text(progress.summary), soft_wrap=True)
        if progress.failed:
            raise typer.Exit(1)


def _run_batches(batches: Iterator[list[Job]], call: Call, workers: int, ray: str | None, overwrite: bool,
                 progress: _Progress, ends_with_interrupt: bool) -> None:
    """Does the batches and shows what became of each picture; Ctrl-C is the end, or an interruption."""
    from instancersr.inference.batch import find_problems
    from instancersr.inference.workers import run_cluster, run_here, run_local

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
    """CPU threads of each of several processes; None leaves the choice to torch where there is one."""
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
    if 0 < tile < SMALLEST_TILE:
        raise typer.BadParameter(f"a tile has at least {SMALLEST_TILE} pixels a side (0: automatic)",
                                 param_hint="--tile")


def _split_number(text: str, allowed: Callable[[float], bool], expected: str, option: str) -> tuple[str, float]:
    """What an argument NAME=NUMBER says; `expected` is the rest of "is not ..." where it is none or not allowed."""
    name, _, value = text.rpartition("=")
    try:
        number = float(value)
        if not (name and allowed(number)):
            raise ValueError
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not {expected}", param_hint=option) from None
    return name, number


def _check_single(jobs: list[Job], watch: bool) -> None:
    if watch or len(jobs) != 1:
        number = "a folder that is watched" if watch else str(len(jobs))
        raise UserError(f"--instance and --resample are for a single picture; here are {number}")


def _edits(source: Path, scale: float, strengths: list[tuple[str, float]], resample: list[str],
           seed: int) -> list[Any]:
    """The `Edit`s of a single picture; their targets may be masks, which have its size."""
    if not (strengths or resample):
        return []
    from instancersr.inference.images import read_image
    from instancersr.inference.objects import Edit, read_target

    height, width = read_image(source).rgb.shape[:2]
    sizes = (height, width), (round(height * scale), round(width * scale))
    return ([Edit(read_target(target, *sizes), seed=seed) for target in resample]
            + [Edit(read_target(target, *sizes), strength=value) for target, value in strengths])


def _suffix(format: str) -> str:
    from instancersr.inference.images import WRITABLE

    suffix = f".{format.lower().lstrip('.')}"
    if suffix not in WRITABLE:
        raise typer.BadParameter(f"{format!r} cannot be written; choose {', '.join(s[1:] for s in WRITABLE)}",
                                 param_hint="--format")
    return suffix


class _Progress:
    """Bars for files and tiles on a terminal, plain lines elsewhere; results on stdout, errors on stderr.

    Args:
        record: with it, results are JSON records with these values in them, errors too.
        silent: no lines on stdout, which belongs to a picture.
        names: of files, in place of their paths.
    """

    def __init__(self, errors: Console, record: dict[str, Any] | None = None, silent: bool = False,
                 names: dict[str, str] | None = None):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._errors, self._record, self._silent, self._names = errors, record, silent, names or {}
        self.done = self.failed = self._expected = 0
        self._out = Console()
        self._bars: Progress | None = None
        if errors.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                       TimeRemainingColumn())
            self._bars = Progress(*columns, console=errors, transient=True)
            self._files = self._bars.add_task("files", total=0)
            self._tiles = self._bars.add_task("", total=None)

    def __enter__(self) -> _Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    @property
    def summary(self) -> str:
        """How many pictures were done, and failed, so far."""
        return f"{self.done} done, {self.failed} failed" if self.failed else f"{self.done} done"

    def expect(self, files: int) -> None:
        """So many more are to be done."""
        self._expected += files
        if self._bars:
            self._bars.update(self._files, total=self._expected)

    def begin(self, name: str) -> None:
        if self._bars:
            self._bars.reset(self._tiles, description=_printable(name)[:40], total=None)

    def tiles(self, done: int, total: int) -> None:
        if self._bars:
            self._bars.update(self._tiles, completed=done, total=total)

    def show(self, result: Result) -> None:
        """What became of a picture."""
        job = result.job
        self.done += result.error is None
        self.failed += result.error is not None
        if self._record is not None:
            source = str(job.source)
            record = _as_record(result) | self._record | {"input": self._names.get(source, source)}
            typer.echo(json.dumps(record))
        elif result.error is not None:
            self._print(_line(self._named(result.error)), style="red")
        else:
            for note in result.notes:
                self._print(_line(f"note: {self._named(note)}"), style="yellow")
            if not self._silent:
                sizes = "{}x{} -> {}x{}".format(*result.input_size, *result.output_size)
                self._print(_line(f"{job.source} -> {job.output} ({sizes}, {result.seconds:.1f} s)"))
        if self._bars:
            self._bars.advance(self._files)

    def _named(self, line: str) -> str:
        for path, name in self._names.items():
            line = line.replace(path, name)
        return line

    def _print(self, line: Text, style: str | None = None) -> None:
        """A styled line is for stderr. On a terminal all go through the console that draws the bars."""
        console = self._errors if style or self._bars else self._out
        console.print(line, style=style, soft_wrap=True)


def _as_record(result: Result) -> dict[str, Any]:
    """What became of a picture, for a program; `output` and sizes are null where there is an error."""
    job, done = result.job, result.error is None
    return {"input": str(job.source), "output": str(job.output) if done else None,
            "instances": str(job.instances) if done and job.instances else None,
            "input_size": result.input_size if done else None, "output_size": result.output_size if done else None,
            "seconds": round(result.seconds, 3), "notes": result.notes, "error": result.error}


# ----------------------------------------------------------------------------------------------------- train


@app.command(
    epilog="Example:  instancersr train configs/compact/2_restoration.yaml batch=16 images=100000"
)
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see the folder configs.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
) -> None:
    """Train a model as a configuration says; the same command resumes a run that was stopped."""
    with _one_line_errors():
        try:
            from instancersr.training.trainer import train_from_config
        except ImportError as error:
            raise MissingPackage(error, "train") from error
        folder = train_from_config(config, overrides or [])
        Console().print(_line(f"done: {folder}"), soft_wrap=True)


# ----------------------------------------------------------------------------------------------------- ablate


@app.command(epilog="Example:  instancersr ablate configs/ablations/mini.yaml seeds=[0]")
def ablate(
    config: Annotated[Path, typer.Argument(help="YAML file; see the folder configs/ablations.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
) -> None:
    """Train the paper's cases, measure them, and write its Table 2 and Figures 1 and 4; resumes if stopped."""
    with _one_line_errors():
        try:
            import matplotlib  # noqa: F401
            import sklearn  # noqa: F401

            from instancersr.evaluation.ablation import run_ablation
        except ImportError as error:
            raise MissingPackage(error, "eval") from error
        folder = run_ablation(config, overrides or [])
        typer.echo((folder / "table.md").read_text())
        Console().print(_line(f"done: {folder}"), soft_wrap=True)


# ---------------------------------------------------------------------------------------------------- merge


@app.command(epilog="Example:  instancersr merge merged/ runs/a/model=0.5 runs/b/model=0.7 builtin=-0.2")
def merge(
    output: Annotated[Path, typer.Argument(help="Folder for the merged model; it must not exist.")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL=SHARE", help="Each 'builtin', a folder saved by save_pretrained, "
                                  "or a hub id; shares sum to 1, some may be negative.")
    ],
) -> None:
    """Add up the weights of models of one ancestry, each times its share: a mean, or a step beyond one of them."""
    shares = [_split_number(text, math.isfinite, "MODEL=SHARE, such as runs/a/model=0.5", "MODEL") for text in models]
    with _one_line_errors():
        from instancersr.merging import merge as merge_models

        merge_models(shares, output)
        Console().print(_line(f"done: {output}"), soft_wrap=True)


# ----------------------------------------------------------------------------------------------------- plan


@app.command(epilog="Example:  instancersr plan configs/paper.yaml --gpus 8 --gpu H100 sharded=true")
def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of a diffusion run; see the folder configs.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE pairs that replace values of the file.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many.")] = 1,
    gpu: Annotated[str, typer.Option(help="Which: H100, H200, A100, RTX4090, ...")] = "H100",
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the GPU's bf16 peak at which the run computes.")
    ] = 0.45,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images in one forward pass of a GPU; else the file's, or as many as fit."),
    ] = None,
    cached_latents: Annotated[bool, typer.Option(help="Those of photos and maps are in the shards.")] = False,
    cached_teacher: Annotated[bool, typer.Option(help="The teacher's features are in the shards.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers for a program instead of tables.")] = False,
) -> None:
    """Say what a training run costs before it is begun: FLOPs, memory, images/s, days, energy."""
    with _one_line_errors():
        from instancersr.training import plan as planning
        from instancersr.training.config import load_config

        run = load_config(config, overrides or [])
        setup = planning.Setup(planning.find_gpu(gpu), gpus, mfu, 1, run.sharded, planning.checkpointing(run),
                               cached_latents, cached_teacher)
        answer = planning.make_plan(run, setup, micro_batch or run.micro_batch)
        if as_json:
            typer.echo(planning.as_json(answer))
        else:
            Console().print(*planning.as_tables(answer), sep="\n")


# --------------------------------------------------------------------------------------------------- prepare


@app.command(epilog="Example:  instancersr prepare photos/ shards/ --size 512 --sam facebook/sam-vit-huge")
def prepare(
    photos: Annotated[str, typer.Argument(help="A folder of photos, a tar, a pattern of tars, or a folder of tars.")],
    output: Annotated[Path, typer.Argument(help="Folder for the shards; on a cluster, one that all machines see.")],
    size: Annotated[
        int | None,
        typer.Option(min=16, help="Cut the centre square of photos and masks and resize it to this many pixels a "
                     "side; without it, files keep their bytes."),
    ] = None,
    sam: Annotated[
        str | None, typer.Option(help="SAM, hub name or folder, that makes the masks where no JSON is beside a photo.")
    ] = None,
    latents: Annotated[
        str | None, typer.Option(help="Also store the latents of this autoencoder, hub name or folder.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Also store the features of this DINOv2, hub name or folder.")
    ] = None,
    shard_photos: Annotated[int, typer.Option(min=1, help="Most photos of a shard.")] = 1000,
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Most megabytes of a shard's source files.")] = 1000,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; without it, one a core.")] = None,
    ray: Annotated[
        str | None, typer.Option(help="Work on a Ray cluster instead: its address, or 'auto'.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the models compute.")] = "auto",
) -> None:
    """Make WebDataset shards of photos, with instance masks; the same command goes on where a stopped one ended.

    Bad photos are left out and listed in OUTPUT/skipped.jsonl; OUTPUT/manifest.json has counts and checksums.
    """
    errors = Console(stderr=True)
    with _one_line_errors():
        from instancersr.inference.loading import pick_device
        from instancersr.prepare.run import prepare_photos
        from instancersr.prepare.sample import Settings

        with _CountProgress(errors, "photos") as progress:
            try:
                manifest = prepare_photos(photos, output, Settings(size, sam, latents, features), shard_photos,
                                          shard_mb, workers, ray, pick_device(device), progress.show)
            except KeyboardInterrupt:
                raise KeyboardInterrupt("the same command goes on with what is left") from None
        without = manifest["photos"] - manifest["with_masks"]
        if without:
            errors.print(_line(f"note: {without} photos have no masks; --sam makes them"), style="yellow")
        if manifest["skipped"]:
            errors.print(_line(f"note: {manifest['skipped']} photos left out; the reasons are in "
                               f"{output / 'skipped.jsonl'}"), style="yellow", soft_wrap=True)
        Console().print(_line(f"{manifest['photos']} photos, {len(manifest['shards'])} shards, "
                              f"{manifest['bytes'] / 1e6:.1f} MB in {output}"), soft_wrap=True)


class _CountProgress:
    """A bar with pieces a second and the time left; off a terminal, a line a minute.

    Args:
        unit: what is counted, as a plural.
    """

    def __init__(self, errors: Console, unit: str):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._errors, self._unit = errors, unit
        self._first: int | None = None
        self._started = self._told = 0.0
        self._bar = Progress(TextColumn(unit), BarColumn(), MofNCompleteColumn(),
                             TextColumn("{task.fields[rate]:.1f} " + f"{unit}/s"), TimeRemainingColumn(),
                             console=errors, transient=True, disable=not errors.is_terminal)
        self._task = self._bar.add_task(unit, total=None, rate=0.0)

    def __enter__(self) -> _CountProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:  # what an earlier run has done says nothing about this one's speed
            self._first, self._started, self._told = done, now, now
        rate = (done - self._first) / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=done, total=total, rate=rate)
        if not self._errors.is_terminal and now - self._told >= 60:
            self._told = now
            left = (total - done) / rate / 60 if rate else float("inf")
            self._errors.print(_line(f"{done} of {total} {self._unit}, {rate:.1f} {self._unit}/s, "
                                     f"{left:.0f} minutes left"))


# -------------------------------------------------------------------------------------------------- evaluate


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
    with _one_line_errors():
        from instancersr.evaluation import evaluate as evaluation
        from instancersr.training.config import load_section

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
        with _CountProgress(errors, "images") as progress:
            folder = evaluation.evaluate(settings, lambda line: errors.print(_line(line), soft_wrap=True),
                                         progress.show)
        typer.echo((folder / "table.md").read_text())


# -------------------------------------------------------------------------------------------------------- web


@app.command(epilog="Example:  instancersr web --port 7860")
def web(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    auth: Annotated[
        str | None, typer.Option(metavar="USER:PASSWORD", envvar="INSTANCERSR_AUTH",
                                 help="Ask every visitor for these.")
    ] = None,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=80, help="Largest photo.")] = 16,
    model: Annotated[
        str, typer.Option(help="'builtin', a folder saved by save_pretrained, or a hub id.")
    ] = "builtin",
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; without it, what torch chooses.")
    ] = None,
) -> None:
    """Serve a page for the browser: upscale photos, compare, change single objects, download."""
    if auth is not None and not all(auth.partition(":")):
        raise typer.BadParameter("expected USER:PASSWORD", param_hint="--auth")
    with _one_line_errors():
        from instancersr.inference.loading import load_pipeline
        from instancersr.web.server import serve

        if find_spec("gradio") is None:  # imported later: it reads its settings at once
            raise MissingPackage(ImportError("No module named 'gradio'"), "web")
        serve(load_pipeline(model, device, threads), host, port, auth, round(max_megapixels * 1e6))


# ----------------------------------------------------------------------------------------------------- doctor


@app.command(epilog="Example:  instancersr doctor")
def doctor(
    model: Annotated[str, typer.Option(help="What to try: 'builtin', a folder, or a hub id.")] = "builtin",
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
) -> None:
    """Show what this installation consists of, try the model on a 16x16 picture, and say what could be better."""
    from rich.table import Table

    with _one_line_errors():
        try:
            from instancersr.doctor import examine
        except ImportError as error:
            raise UserError(f"a package is missing or broken ({error}); pip install --force-reinstall "
                            "instancersr") from error
        table = Table("", "what", "found")
        findings = list(examine(model, device))
        for finding in findings:
            mark = Text("ok", "green") if finding.works else Text("BROKEN", "red")
            table.add_row(mark, finding.name, _line(finding.found))
        out = Console()
        # Off a terminal a table of 80 columns would cut what has to be pasted into a report.
        out = out if out.is_terminal else Console(width=160)
        out.print(table)
        for finding in findings:
            if finding.advice:
                out.print(_line(f"{finding.name}: {finding.advice}"), soft_wrap=True)
        broken = sum(not finding.works for finding in findings)
        if broken:
            _fail(Console(stderr=True), f"{broken} of {len(findings)} checks failed", 1)


# ----------------------------------------------------------------------------------------------------- common


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What a command's work raises becomes one line and an exit code; a bug keeps its traceback."""
    errors = Console(stderr=True)
    try:
        yield
    except UserError as error:
        _fail(errors, f"error: {_first_line(error)}", 2)
    except OSError as error:
        _fail(errors, f"error: {_first_line(error)}", 1)
    except KeyboardInterrupt as interruption:
        _fail(errors, f"interrupted: {interruption}" if str(interruption) else "interrupted", INTERRUPTED)


def _fail(console: Console, message: str, code: int) -> None:
    console.print(_line(message), style="red", soft_wrap=True)
    raise typer.Exit(code)


def _line(text: str) -> Text:
    return Text(_printable(text))


def _printable(text: str) -> str:
    """One line, whatever a file name holds: line breaks, escape codes, undecodable bytes are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _first_line(error: BaseException | str) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def main() -> None:
    """Entry point of the command: Ctrl-C ends it quietly wherever it comes."""
    try:
        app()
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted", style="red")
        sys.exit(INTERRUPTED)
