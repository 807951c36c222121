"""Results as the browser needs them: pictures to look at, the map of the objects, files to keep."""

from __future__ import annotations

import base64
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ..images.metadata import Metadata
from ..images.pixels import Photo
from ..images.transparency import enlarge_alpha
from ..images.writing import write_image

PREVIEW_SIDE = 2400
"""Longer side of the pictures on the page, in pixels; a larger result is shown smaller."""

GRID_SIDE = 640
"""Longer side of the map on the page, in pixels."""

PLACES = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))


def write_preview(path: Path, picture: Image.Image, photo: Photo, side: int = PREVIEW_SIDE) -> Path:
    """A JPEG of the picture, at most `side` pixels a side, in the photo's colour profile; transparency is white."""
    size = _within(picture.size, side)
    shown = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
    alpha = None if photo.alpha is None else enlarge_alpha(photo.alpha, size)
    write_image(path, np.asarray(shown), alpha=alpha, metadata=Metadata(icc_profile=photo.metadata.icc_profile))
    return path


def write_zip(path: Path, files: list[Path]) -> Path:
    """The files side by side, stored: pictures are compressed already."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path


def shrink_map(ids: np.ndarray, side: int = GRID_SIDE) -> np.ndarray:
    """Every so many pixels of (H, W) instance ids, so that the longest side has at most `side`."""
    width, height = _within((ids.shape[1], ids.shape[0]), side)
    rows, columns = np.arange(height) * ids.shape[0] // height, np.arange(width) * ids.shape[1] // width
    return ids[np.ix_(rows, columns)]


def describe_objects(ids: np.ndarray) -> dict[int, str]:
    """A line for each instance that tells it from the others: id, place, share of the picture; largest first.

    Args:
        ids: (H, W) int32 instance ids, 0: what belongs to no object.
    """
    height, width = ids.shape
    found, index, counts = np.unique(ids, return_inverse=True, return_counts=True)
    index = index.ravel()
    rows = np.bincount(index, np.repeat(np.arange(height), width)) / counts
    columns = np.bincount(index, np.tile(np.arange(width), height)) / counts
    lines = {}
    for place in np.argsort(-counts):
        number, share = int(found[place]), _percent(counts[place] / ids.size)
        where = PLACES[int(3 * rows[place] / height)][int(3 * columns[place] / width)]
        lines[number] = f"Object {number}: {where}, {share}" if number else f"The rest: {share}"
    return lines


def pack_map(ids: np.ndarray, objects: list[int]) -> dict[str, object]:
    """A map (H, W) for the page: instead of its id the place of each instance in `objects`, plus one.

    Returns:
        width, height, and `data`: (height, width) little-endian uint16, deflated, in base64.
    """
    place = np.zeros(ids.max() + 1, "<u2")
    place[objects] = np.arange(1, len(objects) + 1)
    packed = base64.b64encode(zlib.compress(place[ids].tobytes()))
    return {"width": ids.shape[1], "height": ids.shape[0], "data": packed.decode()}


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height), shrunk to the longest side where it is over."""
    factor = min(1, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "under 1%"
