"""The work behind the page: photos become results, an object of a result is changed, results become files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..batch.jobs import explain
from ..batch.naming import distinct_stems
from ..errors import UserError
from ..images.pixels import Photo
from ..images.reading import ImageError, read_header, read_image
from ..images.results import dropped_frames, write_result
from ..instances.maps import merge_objects
from ..recipe import Quality
from ..upscaler import Segmenter, Upscaler
from .export import PREVIEW_SIDE, describe_objects, pack_map, shrink_map, write_preview, write_zip
from .session import Changes, Enlarged, Session, Version
from .tasks import Stopped, Task

LAST = "The last photo. Enlarge one alone to change the objects in it."
UNSAMPLED = "Fast finds no objects: choose another quality to change them."


@dataclass(frozen=True)
class Options:
    """scale: enlargement of each side. quality: one of QUALITIES. fidelity, denoise: 0 to 1, None: the model's own.

    suffix: of the files to keep, such as ".png". segmented: whether the segmenter finds the objects.
    """

    scale: float
    quality: Quality
    fidelity: float | None
    suffix: str
    denoise: float | None = None
    segmented: bool = False


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
        segmenter: gives what may find the objects instead of the model's own map; None where there is nothing.
    """

    def __init__(self, upscaler: Upscaler, max_pixels: int, segmenter: Callable[[], Segmenter] | None = None):
        self._upscaler, self._max_pixels, self._segmenter = upscaler, max_pixels, segmenter

    @property
    def segments(self) -> bool:
        """Whether there is a choice of what finds the objects."""
        return self._segmenter is not None

    @property
    def denoises(self) -> bool:
        """Whether the model has the control of noise and grain."""
        return self._upscaler.denoises

    def enlarge(self, session: Session, paths: list[Path], options: Options,
                task: Task) -> tuple[Outcome, Enlarged | None]:
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
                result = self._enlarge(path, names[path], options, with_objects, _part(task, number, len(paths)))
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
                 progress: Callable[[int, int], None]) -> Enlarged:
        photo = read_image(path, self._max_pixels)
        segmenter = self._segmenter() if self._segmenter and options.segmented and with_objects else None
        out = self._upscaler(photo, scale=options.scale, fidelity=options.fidelity, quality=options.quality,
                             denoise=options.denoise, keep_latents=with_objects, instances=with_objects,
                             segmenter=segmenter, progress=progress)
        return Enlarged(name, path, photo, out, out.images[0], out.instances[0] if out.instances else None)

    def change(self, session: Session, result: Enlarged, changes: Changes, label: str, task: Task) -> None:
        """Shows the result with these changes: a version that looks so already, or else a new one.

        Args:
            label: of a new version.

        Raises:
            UserError: it cannot be done.
        """
        try:
            unedited = replace(result.original, instances=[_merged(result, changes)])
            for number, version in enumerate(result.versions):
                if version.changes.draws_as(changes):
                    result.versions[number] = replace(version, changes=changes)
                    return go_to(result, number)
            # all changes of the original, so that their order is the same
            out = self._upscaler.edit(unedited, edits=changes.edits, progress=_part(task, 0, 1))
        except (ValueError, MemoryError) as error:
            raise UserError(_line(Path(result.name), error)) from error
        file = session.new_file("version.png")
        out.images[0].save(file, compress_level=1)
        _add_version(session, result, label, changes, out.images[0], file)


def show(session: Session, result: Enlarged, note: str) -> None:
    """Fills the view of a new result: addresses of both pictures, their size, objects and their map, or else a note."""
    width, height = size = result.picture.size
    before = write_preview(session.new_file("before.jpg"), _merely_enlarged(result.photo, size), result.photo)
    result.view = {"photo": address(before), "width": width, "height": height, "objects": [], "map": None, "note": note}
    _add_version(session, result, "as enlarged", Changes(), result.picture)
    compare_with(result, None)


def go_to(result: Enlarged, number: int) -> None:
    """Shows a version of the result, beside the one that was shown."""
    version = result.versions[number]
    left, result.at = result.at, number
    if left != number:
        result.picture = result.original.images[0] if version.file is None else Image.open(version.file)
        result.picture.load()
        compare_with(result, left)
    _show_current(result)


def compare_with(result: Enlarged, number: int | None) -> None:
    """Shows a version in the place of the photo before; None: the photo itself, merely enlarged."""
    if number is None:
        shown, tag, words = result.view["photo"], "Before", "the photo before, merely enlarged"
    else:
        shown, tag = result.versions[number].shown, f"Version {number + 1}"
        words = f"version {number + 1}, {result.versions[number].label}"
    result.against = number
    result.view = result.view | {"before": shown, "tag_before": tag, "alt_before": f"{result.name}: {words}"}


def _add_version(session: Session, result: Enlarged, label: str, changes: Changes, picture: Image.Image,
                 file: Path | None = None) -> None:
    shown = address(write_preview(session.new_file("after.jpg"), picture, result.photo))
    result.versions.append(Version(label, changes, shown, file))
    left, result.at, result.picture = result.at, len(result.versions) - 1, picture
    compare_with(result, left)
    _show_current(result)


def _show_current(result: Enlarged) -> None:
    """Puts the version that is shown, and its objects, into the result's view."""
    version, number = result.versions[result.at], result.at + 1
    after = "After" if number == 1 else f"Version {number}"
    result.view = result.view | {"after": version.shown, "tag_after": after,
                                 "alt_after": f"{result.name}: version {number}, {version.label}"}
    if result.original.instances:
        result.ids = _merged(result, version.changes)
        ids = shrink_map(result.ids)
        lines = describe_objects(ids)
        objects = [{"id": number, "label": line} for number, line in lines.items()]
        result.view = result.view | {"objects": objects, "map": pack_map(ids, list(lines))}


def _merged(result: Enlarged, changes: Changes) -> np.ndarray:
    """The map of the result with these changes."""
    return merge_objects(result.original.instances[0], list(changes.merged.values()))


def save(session: Session, result: Enlarged, suffix: str) -> tuple[Path, list[str]]:
    """A file to keep, and a line for each thing that its format could not keep; of each version and suffix one file.

    Raises:
        UserError: the format cannot hold this picture.
    """
    version = result.at, suffix
    if version in result.saved:
        return result.saved[version]
    path = session.new_file(f"{result.name}{suffix}")
    try:
        notes = write_result(path, [(np.asarray(result.picture), result.photo)])
    except ImageError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error
    result.saved[version] = path, _notes(notes, result, path)
    return result.saved[version]


def address(path: Path) -> str:
    """Where the browser finds a file, seen from the page."""
    return f"gradio_api/file={path}"


def _merely_enlarged(photo: Photo, size: tuple[int, int]) -> Image.Image:
    """The input at the size that the page shows, by bicubic interpolation."""
    factor = min(1, PREVIEW_SIDE / max(size))
    return Image.fromarray(photo.rgb).resize([max(1, round(side * factor)) for side in size], Image.Resampling.BICUBIC)


def _part(task: Task, number: int, count: int) -> Callable[[int, int], None]:
    """The upscaler's progress with one of several photos, as a share of all of them."""
    return lambda done, total: task.report((number + done / total) / count)


def _names(paths: list[Path], options: Options) -> dict[Path, str]:
    """What the results' files are called, without suffix; photos that cannot be read own no name."""
    mark = f"_x{options.scale:g}"
    readable = [path for path in dict.fromkeys(paths) if read_header(path).problem is None]
    stems = distinct_stems(readable, lambda path, stem: Path(f"{stem}{mark}{options.suffix}"), with_folders=False)
    return {path: f"{stems.get(path, path.stem)}{mark}" for path in paths}


def _notes(notes: list[str], result: Enlarged, target: Path) -> list[str]:
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
