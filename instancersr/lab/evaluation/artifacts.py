"""Damage that means of LPIPS hide: grain in flat areas, steps at the grid of the JPEG."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy.ndimage import gaussian_filter

from instancersr.instances.codes import LUMA

CELL = 32
"""Pixels along the side of the cells in which a photo is flat or not: a JPEG block, four times as large."""
FLAT = 3.0
"""A cell of the truth is flat if its luma deviates by less, in grey levels."""
BLUR = 2.0
"""Of the Gaussian above which energy counts as grain, in pixels."""


def flat_ratio(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Grain of outputs over that of their truths, in the cells where a truth is flat.

    Far over 1 is grain or weave, far under 1 is plastic.

    Args:
        pairs: (output, truth), each (H, W, 3) uint8 of one size.

    Returns:
        The ratio of the energies above a Gaussian blur; nan where no truth has a flat cell.
    """
    ours = theirs = 0.0
    for output, truth in pairs:
        flat = _cells(truth @ LUMA).std((1, 3)) < FLAT
        ours += _grain(output)[flat].sum()
        theirs += _grain(truth)[flat].sum()
    return ours / theirs if theirs else float("nan")


def grid_ratio(outputs: Iterable[np.ndarray]) -> float:
    """Steps of luma across the input's 8x8 grid over those half-way between; 1: the grid does not show.

    Args:
        outputs: (H, W, 3) uint8, each four times as large as its input, whose JPEG blocks begin at its corner.
    """
    on = off = 0.0
    for output in outputs:
        luma = output @ LUMA
        for rows in (luma, luma.T):
            steps = np.abs(np.diff(rows, axis=1)).mean(0)
            on += steps[CELL - 1 :: CELL].mean()
            off += steps[CELL // 2 - 1 :: CELL].mean()
    return on / off


def _cells(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (rows, CELL, columns, CELL), whole cells only."""
    rows, columns = (side // CELL for side in values.shape)
    return values[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)


def _grain(picture: np.ndarray) -> np.ndarray:
    luma = picture @ LUMA
    return _cells((luma - gaussian_filter(luma, BLUR)) ** 2).mean((1, 3))
