"""What a photo itself leaves no doubt about: grey has no colour, and a flat area has exactly its own colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from scipy import ndimage

from .instances.codes import LUMA

FADE = (0.0, 1.0)
"""Pixels of the photo from an area's end: where the area's own colour begins to count, and where it alone counts."""
BLOCK_FADE = (4.0, 8.0)
"""The same in a photo whose flat areas end on a grid, as a JPEG's do: a block of 8 by itself is not flat."""
CORE = 4.0
"""An area counts as flat where it is so deep somewhere: 9x9 equal pixels. Smooth shades have smaller ones by chance,
and so have the blocks of a JPEG."""
GRID = 8
GRID_SHARE = 0.5
"""Share of the areas' ends and beginnings on one of eight lines, above which there is a grid; chance gives 1/8."""
BAND = 256
"""Rows of the result that are worked on at once."""


def apply_constraints(picture: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """A result that keeps to what its photo leaves no doubt about.

    Args:
        picture: (H, W, 3) uint8, the result.
        photo: (h, w, 3) uint8, what it was made from; any size.

    Returns:
        (H, W, 3) uint8; `picture` itself where nothing is to be changed.
    """
    return keep_flat(keep_grey(picture, photo), photo)


def keep_grey(picture: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """The result without colour where the whole photo has none: each pixel its luma (ITU-R BT.601)."""
    if (photo != photo[..., :1]).any():
        return picture
    weights, luma = LUMA.astype(np.float32), np.empty(picture.shape[:2], np.uint8)
    for rows in _bands(len(picture)):
        luma[rows] = np.rint(picture[rows].astype(np.float32) @ weights)
    return np.repeat(luma[..., None], 3, 2)


def keep_flat(picture: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """The result with the photo's own colour where the photo is flat, fading into the result at an area's ends.

    Flat is a pixel that equals its eight neighbours exactly. Noise and texture have no such areas, and clipped lights
    and shadows that have them are flat in truth.
    """
    share = flat_share(photo)
    if not share.any():
        return picture
    height, width = picture.shape[:2]
    result = picture.copy()
    enlarged, shares = Image.fromarray(photo), Image.fromarray(share)
    factor = len(photo) / height
    for rows in _bands(height):
        box = (0, rows.start * factor, photo.shape[1], rows.stop * factor)
        size = (width, rows.stop - rows.start)
        weight = np.asarray(shares.resize(size, Image.Resampling.BILINEAR, box))[..., None]
        if weight.any():
            exact = np.asarray(enlarged.resize(size, Image.Resampling.NEAREST, box)).astype(np.float32)
            result[rows] = np.rint(exact * weight + result[rows] * (1 - weight))
    return result


def flat_share(photo: np.ndarray) -> np.ndarray:
    """How much of each pixel (h, w) float32 is its own colour: 1 inside of flat areas, 0 outside of them."""
    flat = _equals_neighbours(photo)
    if flat.all():
        return np.ones(flat.shape, np.float32)
    depth = ndimage.distance_transform_edt(flat) if flat.any() else np.zeros(flat.shape)
    core = depth >= CORE
    if not core.any():
        return np.zeros(flat.shape, np.float32)
    begin, end = BLOCK_FADE if _ends_on_a_grid(flat) else FADE
    linear = np.clip((depth - begin) / (end - begin), 0, 1) * ndimage.binary_propagation(core, mask=flat)
    return (linear * linear * (3 - 2 * linear)).astype(np.float32)


def _equals_neighbours(photo: np.ndarray) -> np.ndarray:
    """Which pixels (h, w) equal the eight around them in all channels; the border repeats."""
    padded = np.pad(photo, ((1, 1), (1, 1), (0, 0)), mode="edge")
    right = (padded[:, 1:] == padded[:, :-1]).all(2)
    down = (padded[1:, 1:-1] == padded[:-1, 1:-1]).all(2)
    three = right[:, 1:] & right[:, :-1]
    return three[:-2] & three[1:-1] & three[2:] & down[1:] & down[:-1]


def _ends_on_a_grid(flat: np.ndarray) -> bool:
    """Whether flat areas begin and end mostly on the lines of one 8x8 grid, wherever it begins.

    Both must do so along both axes: a line of letters alone ends all areas in the same two rows.
    """
    shares = []
    for axis in (0, 1):
        change = np.diff(flat.astype(np.int8), axis=axis)
        ends, begins = (np.bincount(np.nonzero(change == sign)[axis] % GRID, minlength=GRID) for sign in (-1, 1))
        # a block's outer pixels differ from their neighbours: areas end a pixel before a line, and begin one behind
        lines = ends + np.roll(begins, -2)
        if lines.any():
            shares.append(lines.max() / lines.sum())
    return bool(shares) and min(shares) > GRID_SHARE


def _bands(height: int) -> Iterator[slice]:
    for top in range(0, height, BAND):
        yield slice(top, min(top + BAND, height))
