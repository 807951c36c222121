"""The work behind the page: photos become results, an object of a result is changed, results become files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..batch.jobs import explain
from ..batch.naming import distinct_stems
from ..edits import Edit
from ..errors import UserError
from ..images.pixels import Photo
from ..images.reading import ImageError, read_header, read_image
from ..images.results import dropped_frames, write_result
from ..recipe import Quality
from ..upscaler import Upscaler
from .export import PREVIEW_SIDE, describe_objects, pack_map, shrink_map, write_preview, write_zip
from .jobs import Job, Stopped
from .session import Result, Session, Setting

LAST = "The last photo. Enlarge one alone to change the objects in it."
UNSAMPLED = "Fast finds no objects: choose another quality to change them."


@dataclass(frozen=True)
class Options:
    """scale: enlargement of each side. quality: one of QUALITIES. fidelity, denoise: 0 to 1, None: the model's own.

    suffix: of the files to keep, such as ".png".
    """

    scale: float
    quality: Quality
    fidelity: float | None
    suffix: str
    denoise: float | None = None


@dataclass
class Outcome:
    """What became of some photos.

    problems: a line for each photo that failed. notes: a line for each thing that a format could not keep.
    done: lines that name what was made. pixels: of all that was made. view: what the viewer shows, or None.
    archive: a zip of several results.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    pixels: int = 0
    view: dict[str, Any] | None = None
    archive: Path | None = None


class Studio:
    """Everything that the page does with the upscaler.

    Args:
        max_pixels: largest input, in pixels.
    """

    def __init__(self, upscaler: Upscaler, max_pixels: int):
        self._upscaler, self._max_pixels = upscaler, max_pixels

    @property
    def denoises(self) -> bool:
        """Whether the model has the control of noise and grain."""
        return self._upscaler.denoises

    def enlarge(self, session: Session, paths: list[Path], options: Options, job: Job) -> tuple[Outcome, Result | None]:
        """Upscales photos one by one; a bad one does not stop the others.

        Returns:
            What became of them, and the result to go on with where a single photo was asked for.
        """
        outcome, files, result = Outcome(), [], None
        with_objects = len(paths) == 1 and options.quality != "fast"
        folder = session.new_file("results")
        folder.mkdir()
        names = _names(paths, options)
        for number, path in enumerate(paths):
            try:
                result = self._enlarge(path, names[path], options, with_objects, _part(job, number, len(paths)))
                if len(paths) > 1:
                    target = _free(folder / f"{result.name}{options.suffix}")
                    outcome.notes += _notes(write_result(target, [(np.asarray(result.picture), result.photo)]), result,
                                            target)
                    files.append(target)
            except Stopped:
                raise
            except Exception as error:  # whatever is wrong with a photo, the others are done
                outcome.problems.append(_line(path, error))
            else:
                outcome.pixels += result.picture.width * result.picture.height
                outcome.done.append("{}: {} × {} → {} × {} pixels".format(
                    path.name, result.photo.rgb.shape[1], result.photo.rgb.shape[0], *result.picture.size))
        if files:
            outcome.archive = write_zip(session.new_file("instancersr.zip"), files)
            for file in files:
                file.unlink()
        if result is not None:
            show(session, result, LAST if len(paths) > 1 else UNSAMPLED)
            outcome.view = result.view
        return outcome, result if len(paths) == 1 else None

    def _enlarge(self, path: Path, name: str, options: Options, with_objects: bool,
                 progress: Callable[[int, int], None]) -> Result:
        photo = read_image(path, self._max_pixels)
        out = self._upscaler(photo, scale=options.scale, fidelity=options.fidelity, quality=options.quality,
                             denoise=options.denoise, keep_latents=with_objects, instances=with_objects,
                             progress=progress)
        return Result(name, path, photo, out, out)

    def change(self, session: Session, result: Result, settings: dict[int, Setting], job: Job) -> None:
        """Gives the result's objects these settings: all of them to the original, so that their order is the same.

        Raises:
            UserError: it cannot be done.
        """
        result.current = self._changed(result, settings, job)
        result.settings = settings
        show_current(session, result)

    def _changed(self, result: Result, settings: dict[int, Setting], job: Job) -> Any:
        edits = [Edit(number, strength=setting.strength if setting.strength != 1 else None, seed=setting.seed)
                 for number, setting in settings.items() if setting != Setting()]
        if not edits:
            return result.original
        try:
            return self._upscaler.edit(result.original, edits=edits, progress=_part(job, 0, 1))
        except (ValueError, MemoryError) as error:
            raise UserError(_line(Path(result.name), error)) from error


def show(session: Session, result: Result, note: str) -> None:
    """Fills the result's view: addresses of both pictures, their size, objects and their map, or else a note."""
    picture, photo = result.picture, result.photo
    before = write_preview(session.new_file("before.jpg"), _merely_enlarged(photo, picture.size), photo)
    width, height = picture.size
    result.view = {"before": address(before), "alt_before": f"{result.name}: the photo before, merely enlarged",
                   "alt_after": f"{result.name}: the photo after, enlarged and restored",
                   "width": width, "height": height, "objects": [], "map": None,
                   "note": note}
    if result.ids is not None:
        ids = shrink_map(result.ids)
        lines = describe_objects(ids)
        result.view["objects"] = [{"id": number, "label": line} for number, line in lines.items()]
        result.view["map"] = pack_map(ids, list(lines))
    show_current(session, result)


def show_current(session: Session, result: Result) -> None:
    """Puts the picture as it is now into the result's view."""
    after = write_preview(session.new_file("after.jpg"), result.picture, result.photo)
    result.view = result.view | {"after": address(after)}


def save(session: Session, result: Result, suffix: str) -> tuple[Path, list[str]]:
    """A file to keep, and a line for each thing that its format could not keep.

    Raises:
        UserError: the format cannot hold this picture.
    """
    path = session.new_file(f"{result.name}{suffix}")
    try:
        notes = write_result(path, [(np.asarray(result.picture), result.photo)])
    except ImageError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error
    return path, _notes(notes, result, path)


def address(path: Path) -> str:
    """Where the browser finds a file, seen from the page."""
    return f"gradio_api/file={path}"


def _merely_enlarged(photo: Photo, size: tuple[int, int]) -> Image.Image:
    """The input at the size that the page shows, by bicubic interpolation."""
    factor = min(1, PREVIEW_SIDE / max(size))
    return Image.fromarray(photo.rgb).resize([max(1, round(side * factor)) for side in size], Image.Resampling.BICUBIC)


def _part(job: Job, number: int, count: int) -> Callable[[int, int], None]:
    """The upscaler's progress with one of several photos, as a share of all of them."""
    return lambda done, total: job.report((number + done / total) / count)


def _names(paths: list[Path], options: Options) -> dict[Path, str]:
    """What the results' files are called, without suffix; photos that cannot be read own no name."""
    mark = f"_x{options.scale:g}"
    readable = [path for path in dict.fromkeys(paths) if read_header(path).problem is None]
    stems = distinct_stems(readable, lambda path, stem: Path(f"{stem}{mark}{options.suffix}"), with_folders=False)
    return {path: f"{stems.get(path, path.stem)}{mark}" for path in paths}


def _notes(notes: list[str], result: Result, target: Path) -> list[str]:
    """Notes without the server's paths, and one where a file has more pictures than the page enlarges."""
    dropped = dropped_frames(result.source, result.photo, ".jpg")
    lines = [*notes, dropped.rsplit(";", 1)[0]] if dropped else notes
    return [line.replace(str(target), target.name).replace(str(result.source), result.source.name) for line in lines]


def _free(path: Path) -> Path:
    """A name that no other result has: two folders may each hold a `photo.jpg`."""
    number = 2
    free = path
    while free.exists():
        free, number = path.with_stem(f"{path.stem}_{number}"), number + 1
    return free


def _line(path: Path, error: Exception) -> str:
    return explain(path, error).removeprefix("error: ").replace(str(path), path.name)
