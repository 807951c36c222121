"""Picture files: any common file -> pixels and what stands beside them, upright."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError, reason
from .compression import jpeg_quality
from .cut_off import complete_jpeg
from .deep import ask_for_lower_bytes, has_16_bits, is_deep_color, is_negative, mend_planes, positive
from .formats import READABLE, decoders, has_heif
from .metadata import PROGRAM, Metadata, read_metadata, software
from .pixels import Photo, PixelError, to_8_bits, to_photo
from .signatures import RAW_SENTENCE, describe, is_raw

MAX_PIXELS = 80_000_000
"""Largest input, in pixels; a x4 enlargement of it has 1.28 gigapixels. Just below Pillow's own alarm."""

_SEQUENCES = {"GIF", "WEBP", "PNG", "AVIF", "TIFF"}
"""Formats of which all frames or pages are enlarged; of others the first picture is the photo."""


class ImageError(UserError):
    """A picture cannot be read or written. The message is one line: the file, what is wrong, what to do."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is decoded.

    problem: why it cannot be read, one line, or None. format: Pillow's name. frames: pages or frames that can be
    enlarged. is_result: whether this program wrote it.
    """

    problem: str | None = None
    format: str | None = None
    frames: int = 1
    is_result: bool = False


def read_header(path: Path) -> Header:
    """What a file says of itself. It is remembered as long as the file does not change."""
    try:
        status = path.stat()
    except OSError:
        return _read_header(path)
    return _remembered_header(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=100_000)
def _remembered_header(path: Path, _changed: int, _size: int) -> Header:
    return _read_header(path)


def _read_header(path: Path) -> Header:
    try:
        with _opened(path, MAX_PIXELS) as image:
            if image is None:
                return Header(format="RAW")
            try:
                frames = _frames(image)
            except Exception:  # a later page is damaged; reading will say so
                frames = 1
            return Header(None, image.format, frames, (software(image) or "").startswith(PROGRAM))
    except ImageError as error:
        return Header(str(error))


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a picture file, upright and as RGB; of a file with several pictures the first.

    Grey, palette and CMYK pictures are converted, CMYK ones through their ICC profile where they have one. A JPEG
    that is cut off is read as far as it goes.

    Raises:
        ImageError: the path is missing, no picture, damaged, or above ``max_pixels``. Size is judged by the header,
            before any pixel is decoded.
    """
    return next(read_frames(path, max_pixels))


def read_frames(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Iterator[Photo]:
    """All pages or frames of a file, one by one, as `read_image` reads the first; all tell how many there are.

    Raises:
        ImageError: as `read_image`; or a later page is damaged or too large.
    """
    path = Path(path)
    with _opened(path, max_pixels) as image:
        if image is None:
            yield _develop(path, max_pixels)
            return
        number, count = 0, 1
        while number < count:
            photo = _read_frame(path, image, number, max_pixels)
            yield photo
            number, count = number + 1, photo.frames


def _read_frame(path: Path, image: Image.Image, number: int, max_pixels: int) -> Photo:
    place, count = _turn_to(path, image, number, max_pixels)
    deep, sixteen, negative = is_deep_color(image), has_16_bits(image), is_negative(image)
    format, quality, dropped = image.format, jpeg_quality(image), _other_pictures(image)
    # a PNG may have texts behind its pixels; other files are closed once these are read
    before = None if format == "PNG" else read_metadata(image)
    pixels, missing = _decoded(path, image)
    metadata, notes = before or read_metadata(image)
    duration = image.info.get("duration")  # known once the frame is decoded
    notes = notes + missing
    try:
        lower = _lower_bytes(path, place, max_pixels) if deep else None
        whole = upright(pixels)
        photo = to_photo(positive(whole) if negative else whole, metadata, lower)
    except PixelError as error:
        raise ImageError(f"{path}: {error}") from error
    if dropped and not any("gain map" in note for note in notes):
        notes.append(dropped)
    if sixteen and photo.deep is None:
        notes.append("it was read with 8 of its 16 bits; all 16 are kept of grey, RGB and RGBA with interleaved "
                     "channels and plain alpha")
    return replace(photo, format=format, quality=quality, frames=count,
                   duration=round(duration) if duration else None, plays=_plays(image),
                   cut_off=bool(missing),
                   notes=tuple(f"{path}: {note}" for note in [*notes, *photo.notes]))


def _turn_to(path: Path, image: Image.Image, number: int, max_pixels: int) -> tuple[int, int]:
    """Makes a page or frame the current one, ready to be decoded; its place in the file, and how many there are."""
    try:
        count, place = _frames(image), number + _without_frame(image)
        image.seek(place)
    except Exception as error:
        raise ImageError(f"{path}: page {number + 1} is damaged ({reason(error)}); get a fresh copy") from error
    if image.width * image.height > max_pixels:
        raise _too_large(path, f"{image.width}x{image.height}", max_pixels)
    try:
        mend_planes(image)
    except PixelError as error:
        raise ImageError(f"{path}: {error}") from error
    return place, count


def _lower_bytes(path: Path, place: int, max_pixels: int) -> Image.Image:
    """Of a picture of 16-bit colour, upright."""
    with _opened(path, max_pixels) as image:
        assert image is not None
        image.seek(place)
        mend_planes(image)
        ask_for_lower_bytes(image)
        image.load()
        return upright(image)


def _decoded(path: Path, image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The loaded picture, and a note where its file is cut off."""
    try:
        image.load()
        return image, []
    except Exception as error:  # every codec has its own exceptions for damaged data
        # libjpeg itself fills what is missing within the file; only a file that ends too early is an error
        completed = complete_jpeg(path) if image.format in ("JPEG", "MPO") else None
        if completed is None or completed[1] >= 0.995:
            raise ImageError(f"{path}: the picture is damaged or cut off ({reason(error)}); "
                             "get a fresh copy") from error
        whole, share = completed
        lost = f"{share:.0%} of the picture" if share else "0% of the picture, only the end of the file,"
        return whole, [f"the file is cut off: {lost} is missing"]


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return image


def _frames(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1)) - _without_frame(image) if image.format in _SEQUENCES else 1


def _without_frame(image: Image.Image) -> int:
    """How many pictures stand before the frames: an animated PNG may have one, for viewers that play no animations."""
    return int(getattr(image, "n_frames", 1) > 1 and getattr(image, "default_image", False))


def _plays(image: Image.Image) -> int:
    """How often an animation is shown, 0 for ever. A GIF counts repetitions, and has no count where it plays once."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loop is None else loop and loop + 1
    return loop or 0


def _other_pictures(image: Image.Image) -> str | None:
    """What is said of pictures in a file that are none of its pages or frames: of an MPO or HEIC, or before them."""
    if _without_frame(image):
        return "the picture in it for viewers that play no animations was left out"
    count = getattr(image, "n_frames", 1)
    if image.format in _SEQUENCES or count < 2:
        return None
    return f"it holds {count} pictures (such as a second view, a preview or a gain map); only the first was enlarged"


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image | None]:
    """The open picture, nothing decoded; None for a raw file, which the package rawpy reads."""
    image = _open(path, max_pixels)
    if image is None:
        yield None
        return
    with image:
        if image.width * image.height > max_pixels:
            raise _too_large(path, f"{image.width}x{image.height}", max_pixels)
        yield image


def _open(path: Path, max_pixels: int) -> Image.Image | None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "folder" if stat.S_ISDIR(mode) else "special file"
            raise ImageError(f"{path}: is a {kind}, not a picture file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes); get a fresh copy")
        image = Image.open(path, formats=decoders())
        if image.format == "TIFF" and is_raw(path):
            image.close()
            _check_raw(path)
            return None
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, "this picture", max_pixels) from error
    except Image.UnidentifiedImageError as error:
        if describe(path) == RAW_SENTENCE:
            _check_raw(path)
            return None
        raise ImageError(f"{path}: {_what_else(path)}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file; check the path") from error
    except ImageError:
        raise
    except Exception as error:  # headers are parsed by many hands
        if isinstance(error, OSError) and error.errno:  # of the system, not of a decoder
            raise ImageError(f"{path}: cannot be read ({reason(error)})") from error
        raise ImageError(f"{path}: the picture is damaged or cut off ({reason(error)}); get a fresh copy") from error


def _what_else(path: Path) -> str:
    """Of a file that is no picture for Pillow: the rest of a sentence."""
    if READABLE.get(path.suffix.lower()) == "HEIF" and not has_heif():
        return "HEIC needs one more package: pip install pillow-heif"
    return describe(path) or "is not a picture this program can read; save it as PNG, JPEG, WebP, TIFF or BMP"


def _check_raw(path: Path) -> None:
    if "RAW" not in READABLE.values():
        raise ImageError(f"{path}: {RAW_SENTENCE}")


def _develop(path: Path, max_pixels: int) -> Photo:
    """A raw file as the package rawpy develops it: the camera's white balance, sRGB, 16 bits."""
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            if raw.sizes.width * raw.sizes.height > max_pixels:
                raise _too_large(path, f"{raw.sizes.width}x{raw.sizes.height}", max_pixels)
            developed: Any = raw.postprocess(use_camera_wb=True, output_bps=16)
    except rawpy.LibRawError as error:
        raise ImageError(f"{path}: this raw file cannot be developed ({reason(error)}); "
                         "develop it first and give the JPEG or TIFF") from error
    if developed.shape[2] == 1:  # a sensor without colours
        developed = np.repeat(developed, 3, 2)
    return Photo(to_8_bits(developed), metadata=Metadata(exif=_raw_exif(path)), deep=developed, format="RAW",
                 notes=(f"{path}: it was developed from a raw file",))


def _raw_exif(path: Path) -> bytes | None:
    """Of a raw file that is a TIFF, as most are; rawpy turns the picture upright itself."""
    try:
        with Image.open(path, formats=["TIFF"]) as preview:
            return read_metadata(preview)[0].exif
    except Exception:  # another kind of file
        return None


def _too_large(path: Path, size: str, max_pixels: int) -> ImageError:
    return ImageError(f"{path}: {size} is over the limit of {max_pixels / 1e6:g} megapixels; "
                      "shrink it or cut it into parts first")
