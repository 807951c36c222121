"""Encoded photos and instance maps <-> arrays. What goes wrong is said without the photo's name: callers know it."""

from __future__ import annotations

import io
import json
import math

import numpy as np
from PIL import Image

from instancersr.errors import first_line
from instancersr.instances.annotations import id_map_from_annotations

from .sources import DataError

JPEG_QUALITY = 95
"""Of photos that `instancersr prepare` cuts: decoded in a third of the time of WebP's, with all of the chroma."""
MOST_IDS = 65535
"""Instances of a photo: ids are kept in 16 bits."""


def decode_photo(encoded: bytes, least: int | None = None) -> np.ndarray:
    """-> (H, W, 3) uint8, as it is stored: an EXIF orientation is not applied.

    Args:
        least: the shorter side's pixels that suffice: a JPEG that is at least twice as large is decoded at a half, a
            quarter or an eighth, in as small a part of the time.

    Raises:
        DataError: it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if least is not None:
                factor = least / min(image.size)
                image.draft("RGB", (math.ceil(factor * image.width), math.ceil(factor * image.height)))
            return np.asarray(image.convert("RGB"))
    except Image.UnidentifiedImageError:  # its message has an address in it, another one in every run
        raise DataError("cannot be decoded (not a picture)") from None
    except Exception as error:  # every codec has its own exceptions for damaged data
        raise DataError(f"cannot be decoded ({first_line(error)})") from error


def photo_size(encoded: bytes) -> tuple[int, int]:
    """Height and width, from the header. Raises DataError."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.height, image.width
    except Exception as error:
        raise DataError("cannot be decoded (not a picture)") from error


def encode_photo(rgb: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> JPEG, chroma at full size."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def encode_ids(ids: np.ndarray) -> bytes:
    """(H, W) uint16 instance ids -> PNG of 8 bits where they suffice, else of 16."""
    small = ids.max(initial=0) < 256
    buffer = io.BytesIO()
    # runs of equal ids compress as well at zlib's fastest level, and are read faster without filters
    Image.fromarray(ids.astype(np.uint8 if small else np.uint16)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_ids(encoded: bytes) -> np.ndarray:
    """The inverse of `encode_ids`: (H, W) uint16. Raises DataError."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(image).astype(np.uint16)
    except Exception as error:
        raise DataError(f"its instance map cannot be decoded ({error})") from error


def ids_of_annotations(annotations: dict | bytes | None, size: tuple[int, int]) -> np.ndarray:
    """SA-1B's masks of one photo -> (H, W) uint16: 1..K in the order of the annotations' ids, 0 where none is known.

    Args:
        annotations: the JSON or what it holds; None where there are no masks.
        size: height and width of the photo.

    Raises:
        DataError: the masks cannot be used.
    """
    if annotations is None:
        return np.zeros(size, np.uint16)
    try:
        ids = id_map_from_annotations(json.loads(annotations) if isinstance(annotations, bytes) else annotations)
    except ValueError as error:
        raise DataError(f"its masks cannot be used ({error})") from error
    if ids.shape != size:
        raise DataError(f"its masks cannot be used (they are of a photo of {ids.shape}, this one is {size})")
    present, compact = np.unique(ids, return_inverse=True)
    first = 0 if present[0] == 0 else 1
    if len(present) - 1 + first > MOST_IDS:
        raise DataError(f"more than {MOST_IDS} instances")
    return (compact.reshape(size) + first).astype(np.uint16)
