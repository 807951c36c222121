"""How damaged a photo is, read off its pixels: grain, steps at a JPEG's grid, and places too smooth for a sensor."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve

from .instances.codes import LUMA

Ramp = tuple[float, float]

BLOCK = 8
"""Pixels along the side of a JPEG's blocks, and of the places in which grain is measured."""
SMOOTH = 10
"""Grain is that of the smoothest so many of a hundred places: there is the least texture to take for grain."""
LARGEST = 1024
"""Of a larger photo the middle is measured, of so many pixels a side."""
NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""Immerkaer's (Fast noise variance estimation, 1996): blind to edges and slopes; noise of deviation 1 gives 6."""

# Where damage begins and where it is plain, between photos damaged by `camera` and by the presets of the web
# (docs/decisions.md has the quantiles).
BLOCKS: Ramp = (1.15, 1.35)
COARSE_GRAIN: Ramp = (2.5, 5.0)
COARSE_COLOR: Ramp = (1.0, 2.0)
TOO_SMOOTH: Ramp = (0.35, 0.2)
COMPRESSED: Ramp = (95, 85)
"""In qualities of a JPEG."""


def estimate_damage(photo: np.ndarray, quality: int | None = None) -> float:
    """0 for a photo as a good camera takes it, to 1 for one full of noise or JPEG's traces.

    Args:
        photo: (h, w, 3) uint8.
        quality: of the JPEG that the photo comes from, 1 to 100. A low one is damage; a high one says nothing, as a
            damaged photo may have been saved again. None: unknown.
    """
    values = _middle(photo).astype(np.float32)
    luma = (values @ LUMA).astype(np.float32)
    color = max(measure_grain(_halved(values[..., channel] - luma)) for channel in (0, 2))
    compressed = 0.0 if quality is None else _ramp(quality, COMPRESSED)
    return max(compressed, _ramp(measure_blocks(luma), BLOCKS), _ramp(measure_grain(_halved(luma)), COARSE_GRAIN),
               _ramp(color, COARSE_COLOR), _ramp(measure_grain(luma), TOO_SMOOTH))


def measure_grain(luma: np.ndarray) -> float:
    """Deviation of the grain in the smoothest places of (h, w) levels, .8 of white noise's own."""
    responses = np.abs(convolve(luma, NOISE_MASK, mode="mirror"))
    rows, columns = (max(1, side // BLOCK) for side in responses.shape)
    means = [part.mean() for row in np.array_split(responses, rows) for part in np.array_split(row, columns, axis=1)]
    return float(np.sqrt(np.pi / 2) * np.percentile(means, SMOOTH) / 6)


def measure_blocks(luma: np.ndarray) -> float:
    """How far steps across the strongest grid of 8 pixels stand out of (h, w) levels; 1: there is no grid."""
    ratios = []
    for plane in (luma, luma.T):
        steps = np.abs(np.diff(plane, axis=1)).mean(0)
        if len(steps) < 3 * BLOCK:
            return 1.0
        bends = steps[1:-1] - (steps[:-2] + steps[2:]) / 2  # a step among steps is texture, alone it is an edge
        strength = np.array([bends[offset::BLOCK].mean() for offset in range(BLOCK)])
        ratios.append(1 + max(float(strength.max() - np.median(strength)), 0.0) / max(float(steps.mean()), 0.25))
    return float(np.sqrt(ratios[0] * ratios[1]))


def _middle(photo: np.ndarray) -> np.ndarray:
    top, left = (max(0, side - LARGEST) // 2 for side in photo.shape[:2])
    return photo[top : top + LARGEST, left : left + LARGEST]


def _halved(luma: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels: grain that demosaicing, film or a resize made coarse stays, fine grain halves."""
    if min(luma.shape) < 2:
        return luma
    rows, columns = (side // 2 * 2 for side in luma.shape)
    return luma[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean((1, 3))


def _ramp(value: float, ramp: Ramp) -> float:
    begin, end = ramp
    return float(np.clip((value - begin) / (end - begin), 0, 1))
