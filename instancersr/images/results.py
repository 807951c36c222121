"""A result on its way to its file: the source's transparency, 16 bits and metadata join the enlarged pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .deep import deepen
from .formats import WITH_16_BITS, holds_frames, written_format
from .grey_profile import is_for_grey
from .pixels import Photo
from .transparency import enlarge_alpha
from .writing import Compression, Frame, write_frames


def write_result(path: Path, results: Sequence[tuple[np.ndarray, Photo]],
                 compression: Compression | None = None) -> list[str]:
    """Writes what was made of a photo, or of all pages or frames of a file.

    Args:
        path: where to; its suffix names the format.
        results: each picture (H, W, 3) uint8 with the photo it was made from.
        compression: as `write_image`.

    Returns:
        One line for each thing that was dropped or changed, in reading or in writing.

    Raises:
        ImageError: as `write_image`.
    """
    first = results[0][1]
    format = written_format(path.suffix) or ""
    holds_16_bits = format in WITH_16_BITS and (format == "TIFF" or len(results) == 1)
    deep = holds_16_bits and all(photo.deep is not None for _, photo in results)
    frames = [_frame(picture, photo, deep) for picture, photo in results]
    notes = [note for _, photo in results for note in photo.notes]
    stretches = {photo.stretch for _, photo in results if photo.deep is not None}
    if stretches and not deep:
        notes.append(f"{path}: {format} was given 8 of the source's 16 bits; "
                     + ("not all of its pages have 16" if holds_16_bits else "PNG and TIFF pictures keep them"))
        for stretch in sorted(stretches - {1}):
            bits = 16 - (stretch.bit_length() - 1)
            notes.append(f"{path}: the source uses {bits} of its 16 bits, so its levels were multiplied by {stretch}")
    written = write_frames(path, frames, metadata=first.metadata, compression=compression, plays=first.plays)
    return [*dict.fromkeys(notes), *written]


def dropped_frames(source: Path, photo: Photo, suffix: str) -> str | None:
    """A line where a result of this suffix cannot hold all pages or frames of its source."""
    if photo.frames < 2 or holds_frames(suffix, photo.format or ""):
        return None
    kind = "pages" if photo.format == "TIFF" else "frames"
    return (f"{source}: only the first of its {photo.frames} {kind} was enlarged; "
            f"{'TIFF keeps' if kind == 'pages' else 'WebP, AVIF and PNG keep'} all of them")


def as_image(picture: Image.Image, photo: Photo) -> Image.Image:
    """An enlarged picture with the transparency and the colour profile of the photo it was made from.

    One with a profile for grey becomes grey, as its file would.
    """
    profile = photo.metadata.icc_profile
    if is_for_grey(profile):
        picture = picture.convert("L")
    if photo.alpha is not None:
        picture.putalpha(Image.fromarray(enlarge_alpha(photo.alpha, picture.size)))
    if profile:
        picture.info["icc_profile"] = profile
    return picture


def _frame(picture: np.ndarray, photo: Photo, deep: bool) -> Frame:
    height, width = picture.shape[:2]
    alpha = None if photo.alpha is None else enlarge_alpha(photo.alpha, (width, height))
    if deep and photo.deep is not None:
        levels = deepen(picture, photo.deep)
        highest = 65_536 // photo.stretch - 1
        picture = np.minimum(np.rint(levels / np.float32(photo.stretch)), highest).astype(np.uint16)
    return Frame(picture, alpha, photo.duration)
