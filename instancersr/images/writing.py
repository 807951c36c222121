"""8-bit RGB with its alpha, ICC profile and EXIF -> picture files, atomically."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from .metadata import resized_exif
from .reading import READABLE, ImageError, first_line

WRITABLE = {suffix: name for suffix, name in READABLE.items() if name != "HEIF"}
"""File suffix -> Pillow's format name, of the files that can be written."""

_LONGEST_SIDE = {"JPEG": 65_535, "WEBP": 16_383, "AVIF": 65_536}
_WITH_ALPHA = {"PNG", "WEBP", "TIFF", "AVIF"}
_WITH_METADATA = _WITH_ALPHA | {"JPEG"}


def write_image(
    path: str | os.PathLike[str],
    rgb: np.ndarray,
    *,
    alpha: np.ndarray | None = None,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    quality: int = 95,
) -> list[str]:
    """Write a picture in the format its suffix names, completely or not at all.

    The file is written under a temporary name in the same folder and renamed when it is complete.

    Args:
        path: where to; an existing file is replaced.
        rgb: (H, W, 3) uint8.
        alpha: (H, W) uint8; laid over white where the format has no transparency.
        icc_profile: colour profile to embed.
        exif: EXIF block to embed; its pixel size is set to that of ``rgb``.
        quality: of JPEG, WebP (lossy) and AVIF, 1 to 100.

    Returns:
        One line for each thing the format could not keep, mostly none.

    Raises:
        ImageError: unknown suffix, size beyond the format's, or the file cannot be written.
    """
    path = Path(path)
    height, width = rgb.shape[:2]
    check_writable(path, width, height)
    kind = WRITABLE[path.suffix.lower()]
    notes = []
    image = Image.fromarray(rgb)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
        if kind not in _WITH_ALPHA:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
            notes.append(f"{path}: {kind} has no transparency, so the picture was laid over white")
    options: dict[str, object] = {}
    if kind in _WITH_METADATA:
        options = {"icc_profile": icc_profile, "exif": exif and resized_exif(exif, width, height)}
        options = {key: value for key, value in options.items() if value}
    elif icc_profile:
        notes.append(f"{path}: {kind} keeps no colour profile; use PNG to keep it")
    if kind in ("JPEG", "WEBP", "AVIF"):
        options["quality"] = quality
    if kind == "JPEG":
        options["subsampling"] = 0

    with _whole_file(path) as file:
        image.save(file, format=kind, **options)  # type: ignore[arg-type]
    return notes


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, completely or not at all.

    Raises:
        ImageError: the file cannot be written.
    """
    with _whole_file(Path(path)) as file:
        file.write(text.encode())


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    # Short and hidden: a long name would not fit beside a prefix, and a folder listing must not pick it up.
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with open(part, "xb") as file:
            yield file
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, Exception):
            raise ImageError(f"{path}: cannot be written ({first_line(error)})") from error
        raise


def check_writable(path: str | os.PathLike[str], width: int = 1, height: int = 1) -> None:
    """Find out before the work what would stop ``write_image`` after it.

    Raises:
        ImageError: unknown suffix, (width, height) in pixels beyond the format's limit, path is a folder, or
            its folder is missing or closed to us.
    """
    path = Path(path)
    kind = WRITABLE.get(path.suffix.lower())
    if kind is None:
        raise ImageError(f"{path}: cannot write a {path.suffix or 'suffix-less'} file; "
                         f"name it {', '.join(WRITABLE)}")
    Image.init()
    if kind not in Image.SAVE:
        raise ImageError(f"{path}: this Pillow cannot write {kind}; update it with: pip install -U pillow")
    limit = _LONGEST_SIDE.get(kind)
    if limit and max(width, height) > limit:
        raise ImageError(f"{path}: {width}x{height} is beyond the {limit} pixels of {kind}; use PNG")
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not a file to write")
        if not path.parent.is_dir():
            raise ImageError(f"{path}: the folder {path.parent} does not exist")
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({first_line(error)})") from error
    if not os.access(path.parent, os.W_OK):
        raise ImageError(f"{path}: no permission to write in the folder {path.parent}")
