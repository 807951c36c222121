"""How damaged a photo is, read off its pixels and its file: noise, grain, and what JPEG leaves."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import convolve

from .instances.codes import LUMA

BLOCK = 8
"""Pixels along the side of a JPEG's blocks, and of the cells in which grain is measured."""
LEAST = 4 * BLOCK
"""A smaller photo is mirrored to so many pixels a side: halved twice, it has one cell."""
LARGEST = 1024
"""Of a larger photo the middle is measured, of so many pixels a side."""
NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""Immerkaer's (Fast noise variance estimation, 1996): blind to edges and slopes; noise of deviation 1 gives 6."""
SCALES = 3
"""The photo, its half and its quarter: the last has no fine noise left, but what film or demosaicing made coarse."""
SMOOTH = 0.2
"""Share of the cells, the smoothest, whose neighbouring pixels are compared."""
FLOOR = 0.2
"""Of responses, in grey levels, before their logarithm is taken."""
COMPRESSED = (95, 85)
"""Qualities of a JPEG between which its own word for damage goes from 0 to 1."""
DAMAGE, NOISE = (Path(__file__).with_name(name) for name in ("damage.json", "noise.json"))
"""Perceptrons that judge the measurements; `benchmarks/fit_damage.py` makes them."""


def estimate_damage(photo: np.ndarray, quality: int | None = None) -> float:
    """The odds, 0 to 1, that a photo has been through more than a good camera: noise, grain, JPEG, resizes.

    Args:
        photo: (h, w, 3) uint8.
        quality: of the JPEG that the photo comes from, 1 to 100. A low one is damage; a high one says nothing, as a
            damaged photo may have been saved again. None: unknown.
    """
    begin, end = COMPRESSED
    compressed = 0.0 if quality is None else float(np.clip((begin - quality) / (begin - end), 0, 1))
    return max(compressed, judge(measure(photo), DAMAGE))


def estimate_noise(photo: np.ndarray) -> float:
    """The odds, 0 to 1, that a photo (h, w, 3) uint8 has so much noise that it is better drawn after cleaning."""
    return judge(measure(photo), NOISE)


def measure(photo: np.ndarray) -> np.ndarray:
    """What is measured of a photo (h, w, 3) uint8, as float64 numbers of the order of 1.

    In this order: how far a grid stands out; of each scale, how rough luma is in the smoothest tenth of the cells, in
    the smoothest four and eight tenths; the same of the rougher of two colour differences, in a tenth and a half; the
    share of cells without any noise; how alike neighbours are in smooth cells, along rows, columns, and two apart in
    rows; the growth of luma's and of colour's steps over twice the distance; and colour's steps over luma's.
    """
    values = _middle(photo).astype(np.float32)
    luma = values @ LUMA.astype(np.float32)
    colors = [values[..., channel] - luma for channel in (0, 2)]
    found = [np.log(measure_blocks(luma) - 1 + 0.02)]
    for plane in _pyramid(luma):
        found += [np.log(grain + FLOOR) for grain in np.quantile(_grain(plane), (0.1, 0.4, 0.8))]
    for planes in zip(*map(_pyramid, colors), strict=True):
        both = np.stack([np.quantile(_grain(plane), (0.1, 0.5)) for plane in planes])
        found += np.log(both.max(0) + FLOOR).tolist()
    grain = _grain(luma)
    found += [float((grain < 0.6).mean()), *_likeness(luma, grain)]
    steps, color_steps = _steps(luma), np.mean([_steps(plane) for plane in colors], 0)
    found += [*np.log((steps[1] / steps[0], color_steps[1] / color_steps[0], color_steps[0] / steps[0]))]
    return np.array(found)


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


def _grain(plane: np.ndarray) -> np.ndarray:
    """Mean response to the noise mask in each cell of (h, w) levels."""
    return np.abs(_cells(convolve(plane, NOISE_MASK, mode="mirror"))).mean((1, 2))


def _likeness(luma: np.ndarray, grain: np.ndarray) -> list[float]:
    """Correlations of neighbours within the smoothest cells: white noise has none, grain and blur have."""
    smoothest = np.argsort(grain, kind="stable")[: max(4, int(len(grain) * SMOOTH))]
    cells = _cells(luma)[smoothest]
    cells = cells - cells.mean((1, 2), keepdims=True)
    power = np.square(cells).mean() + 0.05
    products = (cells[:, :, 1:] * cells[:, :, :-1], cells[:, 1:] * cells[:, :-1], cells[:, :, 2:] * cells[:, :, :-2])
    return [float(product.mean() / power) for product in products]


def _steps(plane: np.ndarray) -> np.ndarray:
    """Mean size of the steps along rows over one and two pixels."""
    return np.array([np.abs(plane[:, apart:] - plane[:, :-apart]).mean() + FLOOR for apart in (1, 2)])


def _pyramid(plane: np.ndarray) -> list[np.ndarray]:
    planes = [plane]
    while len(planes) < SCALES:
        rows, columns = (side // 2 * 2 for side in planes[-1].shape)
        planes.append(planes[-1][:rows, :columns].reshape(rows // 2, 2, columns // 2, 2).mean((1, 3)))
    return planes


def _cells(plane: np.ndarray) -> np.ndarray:
    """(h, w) -> (cells, BLOCK, BLOCK), whole ones only."""
    rows, columns = (side // BLOCK for side in plane.shape)
    cells = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return cells.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)


def _middle(photo: np.ndarray) -> np.ndarray:
    top, left = (max(0, side - LARGEST) // 2 for side in photo.shape[:2])
    middle = photo[top : top + LARGEST, left : left + LARGEST]
    missing = [(0, max(0, LEAST - side)) for side in middle.shape[:2]]
    return np.pad(middle, (*missing, (0, 0)), mode="symmetric")


def judge(measured: np.ndarray, perceptron: Path) -> float:
    """A perceptron's odds: standardised measurements, one hidden layer of rectifiers, a logistic output."""
    fitted = _fitted(perceptron)
    hidden = np.maximum((measured - fitted["mean"]) / fitted["deviation"] @ fitted["hidden"] + fitted["bias"], 0)
    return float(1 / (1 + np.exp(-(hidden @ fitted["output"] + fitted["output_bias"]))))


@lru_cache(maxsize=2)
def _fitted(perceptron: Path) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in json.loads(perceptron.read_text()).items()}
