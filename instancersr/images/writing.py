"""Pixels and what stands beside them -> picture files, atomically."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from ..errors import reason
from ..files import LONGEST_NAME, whole_file, write_whole
from .deep import SAVERS, save_tiff_pages
from .embedding import save_options
from .formats import LONGEST_SIDE, MOST_PIXELS, WITH_16_BITS, WITH_ALPHA, WRITABLE, written_format
from .grey_profile import grey_profile, is_for_grey
from .metadata import BMP_MARK, Metadata
from .pixels import is_grey, to_8_bits
from .reading import ImageError

QUALITY = 95
"""Of JPEG, WebP and AVIF where nobody says another."""


@dataclass(frozen=True)
class Compression:
    """How a result is packed: quality 1 to 100 of JPEG, WebP and AVIF; lossless for WebP and AVIF."""

    quality: int = QUALITY
    lossless: bool = False


@dataclass
class Frame:
    """A finished picture: rgb (H, W, 3) uint8 or uint16, alpha (H, W) uint8 or None, and milliseconds it is shown."""

    rgb: np.ndarray
    alpha: np.ndarray | None = None
    duration: int | None = None


def write_image(path: str | os.PathLike[str], rgb: np.ndarray, *, alpha: np.ndarray | None = None,
                metadata: Metadata | None = None, compression: Compression | None = None) -> list[str]:
    """Write a picture in the format its suffix names, completely or not at all.

    The file is written under a temporary name in the same folder and renamed when it is complete. It says in itself
    that this program wrote it. A picture without colour becomes a grey file where the format has such.

    Args:
        path: where to; an existing file is replaced.
        rgb: (H, W, 3) uint8, or uint16: 16 bits are kept by PNG and TIFF.
        alpha: (H, W) uint8; laid over white where the format has no transparency.
        metadata: of the source; what it says of the size is made true.
        compression: quality 95 without it.

    Returns:
        One line for each thing the format could not keep, mostly none.

    Raises:
        ImageError: unknown suffix, size beyond the format's, or the file cannot be written.
    """
    return write_frames(path, [Frame(rgb, alpha)], metadata=metadata, compression=compression)


def write_frames(path: str | os.PathLike[str], frames: Sequence[Frame], *, metadata: Metadata | None = None,
                 compression: Compression | None = None, plays: int = 0) -> list[str]:
    """Write several pages (TIFF) or frames of an animation (GIF, WebP, PNG, AVIF), as `write_image` writes one.

    Args:
        plays: how often the animation is shown; 0 is for ever.

    Raises:
        ImageError: as `write_image`.
    """
    path, metadata, compression = Path(path), metadata or Metadata(), compression or Compression()
    height, width = frames[0].rgb.shape[:2]
    check_writable(path, width, height)
    format = written_format(path.suffix)
    assert format is not None
    notes = []
    if format not in WITH_ALPHA and any(frame.alpha is not None for frame in frames):
        frames = [Frame(_over_white(frame.rgb, frame.alpha), None, frame.duration) for frame in frames]
        notes.append(f"{format} has no transparency, so the picture was laid over white")
    if format == "AVIF" and len(frames) > 1 and plays:
        notes.append(f"AVIF is shown for ever; the source is shown {plays} times")
    grey = all(is_grey(frame.rgb) for frame in frames)
    metadata, lost = _fitting_profile(metadata, grey, format)
    options, unheld = save_options(metadata, format, (width, height))
    packing, inexact = _packing(format, compression, grey)
    with _in_one_line(path), whole_file(path, descriptor=False) as file:
        _save(file, format, frames, grey, options | packing, plays)
    return [f"{path}: {note}" for note in [*notes, *lost, *unheld, *inexact]]


def _save(file: IO[bytes], format: str, frames: Sequence[Frame], grey: bool, options: dict[str, Any],
          plays: int) -> None:
    deep = all(frame.rgb.dtype == np.uint16 for frame in frames)
    if deep and format in WITH_16_BITS and len(frames) == 1:
        SAVERS[format](file, _deep_pixels(frames[0], grey), **options)
        return
    if deep and format == "TIFF":
        save_tiff_pages(file, [_deep_pixels(frame, grey) for frame in frames], **options)
        return
    images = [_as_image(frame, grey and format != "WEBP") for frame in frames]
    if len(images) > 1:
        options |= {"save_all": True, "append_images": images[1:]}
        if format != "TIFF":
            options |= {"duration": [frame.duration or 0 for frame in frames], "loop": _loop(format, plays)}
        if format == "GIF":
            options |= {"disposal": 2 if any(frame.alpha is not None for frame in frames) else 1, "optimize": False}
    images[0].save(file, format=format, **options)
    if format == "BMP":
        file.seek(6)
        file.write(BMP_MARK)


def _loop(format: str, plays: int) -> int | None:
    """Pillow's option: the number of plays, of a GIF that of repetitions, which it has not where it plays once."""
    if format != "GIF" or plays == 0:
        return plays
    return plays - 1 or None


def _as_image(frame: Frame, grey: bool) -> Image.Image:
    rgb = to_8_bits(frame.rgb) if frame.rgb.dtype == np.uint16 else frame.rgb
    image = Image.fromarray(np.ascontiguousarray(rgb[..., 0]) if grey else rgb)
    if frame.alpha is not None:
        image.putalpha(Image.fromarray(frame.alpha))
    return image


def _deep_pixels(frame: Frame, grey: bool) -> np.ndarray:
    """(H, W, C) uint16."""
    channels = [frame.rgb[..., :1] if grey else frame.rgb]
    if frame.alpha is not None:
        channels.append(frame.alpha[..., None].astype(np.uint16) * 257)
    return np.concatenate(channels, 2)


def _over_white(rgb: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    if alpha is None:
        return rgb
    white = np.iinfo(rgb.dtype).max
    share = alpha[..., None].astype(np.float32) / 255
    return np.rint(white + share * (rgb - np.float32(white))).astype(rgb.dtype)


def _fitting_profile(metadata: Metadata, grey: bool, format: str) -> tuple[Metadata, list[str]]:
    """The metadata with a colour profile for the kind of pixels that are written, and what is lost by that."""
    profile = metadata.icc_profile
    for_grey = is_for_grey(profile)
    if profile is None or for_grey == (grey and format != "WEBP"):
        return metadata, []
    fitting = None if for_grey else grey_profile(profile)
    if fitting is None:
        return replace(metadata, icc_profile=None), [f"{format} keeps no colour profile of another kind of pixels"]
    return replace(metadata, icc_profile=fitting), []


def _packing(format: str, compression: Compression, grey: bool) -> tuple[dict[str, Any], list[str]]:
    """Options of Pillow's save, and what they do not hold of what was asked."""
    if format == "JPEG":
        return {"quality": compression.quality, "subsampling": 0}, []
    if format == "WEBP":
        # lossy WebP has no grey: its colours are rounded, and grey would come back off by a level
        return ({"lossless": True} if compression.lossless or grey else {"quality": compression.quality}), []
    if format == "AVIF" and compression.lossless:
        inexact = [] if grey else ["AVIF is not quite lossless in colour: up to 3 levels are lost by its colour space"]
        return {"quality": 100, "subsampling": "4:0:0" if grey else "4:4:4"}, inexact
    return ({"quality": compression.quality} if format == "AVIF" else {}), []


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, completely or not at all.

    Raises:
        ImageError: the file cannot be written.
    """
    with _in_one_line(Path(path)):
        write_whole(Path(path), text)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    """Errors of writing a file as an `ImageError`."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # every codec has its own exceptions
        raise ImageError(f"{path}: cannot be written ({reason(error)})") from error


def check_writable(path: str | os.PathLike[str], width: int = 1, height: int = 1) -> None:
    """Find out before the work what would stop ``write_image`` after it.

    Raises:
        ImageError: unknown suffix, (width, height) in pixels beyond the format's limit, path is a folder, its name is
            too long, or its folder is missing or closed to us.
    """
    path = Path(path)
    format = written_format(path.suffix)
    if format is None:
        raise ImageError(f"{path}: cannot write a {path.suffix or 'suffix-less'} file; "
                         f"name it {', '.join(WRITABLE)}")
    Image.init()
    if format not in Image.SAVE:
        raise ImageError(f"{path}: this Pillow cannot write {format}; update it with: pip install -U pillow")
    limit = LONGEST_SIDE.get(format)
    if limit and max(width, height) > limit:
        raise ImageError(f"{path}: {width}x{height} is beyond the {limit} pixels of {format}; use PNG")
    if width * height > MOST_PIXELS.get(format, width * height):
        raise ImageError(f"{path}: {width}x{height} is more than decoders of {format} take; use PNG")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ImageError(f"{path}: this name is too long for a file; give a shorter one")
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not a file to write")
        if not path.parent.is_dir():
            raise ImageError(f"{path}: the folder {path.parent} does not exist")
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({reason(error)})") from error
    if not os.access(path.parent, os.W_OK):
        raise ImageError(f"{path}: no permission to write in the folder {path.parent}")
