"""Many pictures, one after the other, and what became of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..edits import list_objects
from ..errors import NO_MEMORY, ModelError, UserError, first_line, is_out_of_memory
from ..images.formats import holds_frames
from ..images.pixels import Photo
from ..images.reading import read_frames
from ..images.results import dropped_frames, write_result
from ..images.writing import Compression, check_writable, write_image, write_text

_EXPECTED = (UserError, OSError, ValueError, RuntimeError)
"""What files and settings raise; anything else is a bug, and its traceback belongs in a report."""


@dataclass
class Job:
    """One picture to upscale.

    source: the input. output: where the picture goes. instances: where its map goes, or None; the list of the
    objects goes beside it.
    problem: why it cannot be done, known before any work. compression: how the picture is packed.
    whole: whether a source that is cut off is an error, as it may be a copy in progress.
    keep: whether results that exist are left as they are, and only what is missing of picture and map is written.
    overwrite: whether results that exist are replaced.
    """

    source: Path
    output: Path
    instances: Path | None
    problem: str | None = None
    compression: Compression = Compression()
    whole: bool = False
    keep: bool = False
    overwrite: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether there is a result already, with its map where one is asked for."""
        return self.problem is None and all(os.path.isfile(path) for path in self.writes)

    @property
    def writes(self) -> list[Path]:
        return [self.output, *self.maps]

    @property
    def taken(self) -> Path | None:
        """A result that exists, where it is neither kept nor replaced."""
        free = self.keep or self.overwrite
        return None if free else next((path for path in self.writes if path.exists() and not path.is_dir()), None)

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


def run_jobs(jobs: list[Job], load: Callable[[], Any], scale: float, options: Callable[[Job], dict[str, Any]],
             begin: Callable[[str], None]) -> Generator[Result, None, None]:
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
            photos = _read(job, scale)
            first = next(photos)
            if upscaler is None:
                begin("loading the model")
                upscaler = load()
            started = time.perf_counter()
            begin(job.source.name)
            results: list[tuple[np.ndarray, Photo]] = []
            ids: np.ndarray | None = None
            for photo in chain([first], photos):
                mapped = job.instances is not None and ids is None
                out = upscaler(photo, scale=scale, instances=mapped, **options(job))
                results.append((np.array(out.images.pop()), photo))  # large pictures are not kept twice
                ids = out.instances[0] if mapped else ids
            notes = _write(job, results, ids)
        except ModelError:
            raise
        except Exception as error:
            if not isinstance(error, _EXPECTED) and not is_out_of_memory(error):
                raise
            yield Result(job, explain(job.source, error))
        else:
            (height, width), (new_height, new_width) = first.rgb.shape[:2], results[0][0].shape[:2]
            yield Result(job, None, notes, (width, height), (new_width, new_height), time.perf_counter() - started)


def _read(job: Job, scale: float) -> Iterator[Photo]:
    """The pictures of the source that its result can hold, once it is sure that this can be written."""
    for photo in read_frames(job.source):
        if job.whole and photo.cut_off:
            raise UserError(f"{job.source}: the file is cut off; if it is still being copied, it is tried again when "
                            "it has changed; if not, enlarge it without --watch")
        height, width = (round(side * scale) for side in photo.rgb.shape[:2])
        for path in job.writes:
            _make_folder(path.parent)
            if path.suffix != ".json":
                check_writable(path, width, height)
        yield photo
        if not holds_frames(job.output.suffix, photo.format or ""):
            return


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: this folder cannot be made ({error.strerror}); choose another --output") from error


def _write(job: Job, results: list[tuple[np.ndarray, Photo]], ids: np.ndarray | None) -> list[str]:
    """Writes the pictures, and the map of the first."""
    if taken := job.taken:  # since the batch was planned, or by another process
        raise UserError(not_replaced(taken))
    kept = {path for path in job.writes if job.keep and os.path.isfile(path)}
    notes: list[str | None] = []
    if job.output in kept:
        notes.append(f"{job.output}: it exists and was kept; what was missing beside it was written")
    else:
        notes = [dropped_frames(job.source, results[0][1], job.output.suffix)]
        notes += write_result(job.output, results, job.compression)
    if ids is not None:
        colored, listed = job.maps
        if job.output not in kept:
            notes += [f"{path}: it exists and was kept, so it may be of another picture than {job.output}; delete it "
                      "for a new one" for path in job.maps if path in kept]
        if colored not in kept:
            write_image(colored, id_colors(int(ids.max()))[ids])
        if listed not in kept:
            write_text(listed, json.dumps(list_objects(ids), indent=0))
        if len(results) > 1:
            notes.append(f"{colored}: this is the map of the first of {len(results)} pictures")
    return [note for note in notes if note]


def id_colors(count: int) -> np.ndarray:
    """A table (count + 1, 3) uint8 of colours: black for 0, all different, successive ones apart."""
    # An odd multiplier permutes the 24-bit codes, so no two ids share one; the golden ratio spreads them.
    codes = np.arange(count + 1, dtype=np.int64) * (round(2**24 * 0.618034) | 1) % 2**24
    bits = (codes[:, None] >> np.arange(23, -1, -1) & 1).astype(np.uint8)  # (count + 1, 24), highest first
    # Every third bit is one channel's, so that each channel gets some of the high ones.
    return np.packbits(bits.reshape(-1, 8, 3), axis=1)[:, 0]


def not_replaced(path: Path) -> str:
    """Why a result is not written: there is another."""
    return f"{path} exists, use --overwrite to replace it"


def explain(source: Path, error: BaseException) -> str:
    """An error as one line that names the file."""
    said = NO_MEMORY if is_out_of_memory(error) else first_line(error, after=f"{source}: ")
    return f"error: {source}: {said}"
