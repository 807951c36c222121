"""Many pictures, one after the other: which file becomes which, what must not be overwritten, and what went wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..edits import list_objects
from ..errors import ModelError, UserError
from ..images.reading import ImageError, Photo, image_files, read_image
from ..images.writing import WRITABLE, check_writable, write_image, write_text


@dataclass
class Job:
    """One picture to upscale.

    source: the input. output: where the picture goes. instances: where its map goes, or None; the list of the
    objects goes beside it.
    problem: why it cannot be done, known before any work.
    """

    source: Path
    output: Path
    instances: Path | None
    problem: str | None = None

    @property
    def writes(self) -> list[Path]:
        return [self.output, *self.maps]

    @property
    def maps(self) -> list[Path]:
        """The coloured map and the list of objects, or none."""
        return [self.instances, self.instances.with_suffix(".json")] if self.instances else []


@dataclass
class Result:
    """What became of a job: `error` is one line, or None; sizes are (width, height) in pixels."""

    job: Job
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    input_size: tuple[int, int] = (0, 0)
    output_size: tuple[int, int] = (0, 0)
    seconds: float = 0.0


# ------------------------------------------------------------------------------------------------ planning


def plan_jobs(inputs: list[Path], output: Path | None, mark: str, suffix: str, instances: bool) -> list[Job]:
    """Which file becomes which; folders are searched, and their sub-folders kept.

    Args:
        inputs: files and folders.
        output: a folder, or a file where there is a single input; None: beside each input.
        mark: put after the stem of a result, such as `_x4`.
        suffix: of the results, such as `.png`.
        instances: whether maps are written as well, as `NAME_instances.png` and `.json`.

    Raises:
        UserError: `output` cannot be what it is asked to be.
    """
    if output is not None and not output.is_dir() and output.suffix:
        single = len(inputs) == 1 and not inputs[0].is_dir()
        if output.suffix.lower() in WRITABLE:
            if not single:
                raise UserError(f"--output: {output} is one file, the inputs may be more; name a folder")
            return [Job(inputs[0], output, _map_beside(output, output.stem) if instances else None)]
        if single:
            raise UserError(f"--output: {output}: {output.suffix} cannot be written; "
                            f"choose {', '.join(WRITABLE)}, or name an existing folder")
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"--output: {output} is a file, not a folder")

    def job(source: Path, folder: Path) -> Job:
        target = folder / f"{source.stem}{mark}{suffix}"
        return Job(source, target, _map_beside(target, source.stem) if instances else None)

    jobs = []
    for path in inputs:
        if not path.is_dir():
            jobs.append(job(path, output or path.parent))
            continue
        found = image_files(path)
        if output is not None and path.resolve() in output.resolve().parents:
            found = [file for file in found if output.resolve() not in file.resolve().parents]
        in_folder = [job(file, (output or path) / file.relative_to(path).parent) for file in found]
        # A second run over a folder must not enlarge the results of the first.
        results = {target for j in in_folder for target in (j.output, _map_beside(j.output, j.source.stem))}
        in_folder = [j for j in in_folder if j.source not in results]
        if not in_folder:
            in_folder = [Job(path, path, None, "no pictures in this folder (PNG, JPEG, WebP, TIFF, BMP...)")]
        jobs.extend(in_folder)
    return jobs


def _map_beside(target: Path, stem: str) -> Path:
    return target.with_name(f"{stem}_instances.png")


def find_problems(jobs: list[Job], overwrite: bool) -> None:
    """Marks the jobs that would overwrite an input, each other's result or, unasked, an existing file."""
    sources = {job.source.resolve() for job in jobs}
    owners: dict[Path, Job] = {}
    for job in jobs:
        if job.problem:
            continue
        for path in job.writes:
            real = path.resolve()
            if real in sources:
                job.problem = f"{path} is an input and is never overwritten; choose another --output"
            elif real in owners:
                job.problem = f"{path} is the result of {owners[real].source} already; rename one of them"
            elif path.exists() and not path.is_dir() and not overwrite:
                job.problem = f"{path} exists, use --overwrite to replace it"
            if job.problem:
                break
            owners[real] = job


# ------------------------------------------------------------------------------------------------- working


def run_jobs(jobs: list[Job], load: Callable[[], Any], scale: float, options: Callable[[Job], dict[str, Any]],
             begin: Callable[[str], None]) -> Iterator[Result]:
    """Does the jobs one by one and says of each what became of it; a bad file does not stop the others.

    Args:
        load: gives the upscaler, once, when the first picture that can be read is there.
        scale: enlargement.
        options: the upscaler's other arguments for a job.
        begin: called with what is being done.

    Raises:
        ModelError: the model cannot be loaded.
    """
    upscaler = None
    for job in jobs:
        try:
            if job.problem:
                raise UserError(job.problem)
            photo = _read(job, scale)
            if upscaler is None:
                begin("loading the model")
                upscaler = load()
            started = time.perf_counter()
            begin(job.source.name)
            out = upscaler(photo.rgb, scale=scale, instances=job.instances is not None, **options(job))
            notes = _write(job, photo, out.images[0], out.instances[0] if out.instances else None)
        except ModelError:
            raise
        # files, settings and memory; anything else is a bug, and its traceback belongs in a report
        except (ImageError, UserError, OSError, ValueError, RuntimeError, MemoryError) as error:
            yield Result(job, explain(job.source, error))
        else:
            height, width = photo.rgb.shape[:2]
            yield Result(job, None, notes, (width, height), out.images[0].size, time.perf_counter() - started)


def _read(job: Job, scale: float) -> Photo:
    """The picture, once it is sure that its result can be written."""
    photo = read_image(job.source)
    height, width = (round(side * scale) for side in photo.rgb.shape[:2])
    for path in job.writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".json":
            check_writable(path, width, height)
    return photo


def _write(job: Job, photo: Photo, picture: Image.Image, ids: np.ndarray | None) -> list[str]:
    alpha = None
    if photo.alpha is not None:
        alpha = np.array(Image.fromarray(photo.alpha).resize(picture.size, Image.Resampling.LANCZOS))
    notes = write_image(job.output, np.array(picture), alpha=alpha, icc_profile=photo.icc_profile, exif=photo.exif)
    if ids is not None:
        colored, listed = job.maps
        write_image(colored, id_colors(int(ids.max()))[ids])
        write_text(listed, json.dumps(list_objects(ids), indent=0))
    return notes


def id_colors(count: int) -> np.ndarray:
    """A table (count + 1, 3) uint8 of colours: black for 0, all different, successive ones apart."""
    # An odd multiplier permutes the 24-bit codes, so no two ids share one; the golden ratio spreads them.
    codes = np.arange(count + 1, dtype=np.int64) * (round(2**24 * 0.618034) | 1) % 2**24
    bits = (codes[:, None] >> np.arange(23, -1, -1) & 1).astype(np.uint8)  # (count + 1, 24), highest first
    # Every third bit is one channel's, so that each channel gets some of the high ones.
    return np.packbits(bits.reshape(-1, 8, 3), axis=1)[:, 0]


def explain(source: Path, error: BaseException) -> str:
    """An error as one line that names the file."""
    lines = [line.strip() for line in str(error).removeprefix(f"{source}: ").splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    if isinstance(error, MemoryError):
        text = "not enough memory; try a smaller --tile"
    return f"error: {source}: {text}"
