"""Instances from a restored photo and its predicted map: small regions, the merging of like ones, and their borders.

Regions are Felzenszwalb & Huttenlocher's (2004) on cells of 4x4 HR pixels, one LR pixel; the map decoder says of each
two of them how likely they are parts of one instance, by what both pictures show and what a network sees in the photo
(`borders`); average linkage joins them; joint bilateral upsampling (Kopf et al., 2007) lays their borders along the
photo's edges.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # loads its parts when they are first used
from numpy.lib.stride_tricks import sliding_window_view

from ..geometry import SCALE
from .borders import see_borders
from .pairs import COLOR_AXES, contrast, grid_edges, pair_features

CELL = SCALE
"""HR pixels along a cell's side."""
REGION_SCALE = 0.08
"""Felzenszwalb's k, in units of colour distance: how much contrast small regions need to stay apart."""
LEAST_REGION = 20
"""Cells; smaller regions are joined to a neighbour. 320 HR pixels."""
MERGE_ABOVE = 0.5
"""Mean probability of being one instance from which two groups of regions are joined: even odds."""
REACH = 2
"""Cells on every side of a pixel's own that have a say in its instance."""
NEAR_PLACE, NEAR_COLOR = 4.0, 0.05
"""Deviations of the weight of a cell's say: HR pixels, and colour distance in RGB."""
UNLIKE = 20.0
"""Half a squared colour distance, in deviations, beyond which colours are just unlike: the place decides then."""
AT_ONCE, PAIRS_AT_ONCE = 4096, 2**14
"""Cells whose pixels are judged together, and pairs of regions, for want of memory."""


def segment(photo: np.ndarray, map_colors: np.ndarray, odds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Instance ids of a photo.

    Args:
        photo: (H, W, 3) in [0, 1], restored; sides divisible by CELL.
        map_colors: (H / CELL, W / CELL, 3) in [0, 1], the predicted instance map's mean colours (`cell_means`).
        odds: of being of one instance, their logarithm (...), for the features (..., F) of pairs of regions: a map
            decoder.

    Returns:
        (H, W) int32, 1..K.
    """
    regions, features, areas = describe(photo, map_colors)
    rows = max(1, PAIRS_AT_ONCE // len(areas))
    likely = np.concatenate([odds(features[start : start + rows]) for start in range(0, len(areas), rows)])
    groups = merge(scipy.special.expit(likely), areas)
    return follow_edges(photo, groups[regions])


def describe(photo: np.ndarray, map_colors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regions of a photo and what each two of them have in common.

    Returns:
        (h, w) region of each cell, from 0; (N, N, F) float32 features of pairs of regions, symmetric, described in
        `pair_features`; (N,) areas in cells.
    """
    oklab, texture = _cells(to_oklab(photo))
    smooth = scipy.ndimage.gaussian_filter(oklab, (0.6, 0.6, 0)) * COLOR_AXES
    regions = find_regions(smooth)
    features, areas = pair_features(regions, oklab, texture, smooth, map_colors, see_borders(photo))
    return regions, features, areas


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> Oklab (Ottosson, 2020), (..., 3): lightness in [0, 1], then two colour axes within +-0.4."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0) + 0.055) / 1.055) ** 2.4)
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]])
    axes = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]])
    return np.cbrt(linear @ cones.T.astype(rgb.dtype)) @ axes.T.astype(rgb.dtype)


def find_regions(colors: np.ndarray) -> np.ndarray:
    """Felzenszwalb & Huttenlocher's regions of (h, w, C) colours -> (h, w) int64, numbered from 0.

    Only edges of the grid's minimum spanning tree are looked at, the weakest first: two regions join where the edge is
    no stronger than what either has inside, plus REGION_SCALE over its area.
    """
    height, width = colors.shape[:2]
    edges, count = grid_edges(height, width), height * width
    grid = scipy.sparse.coo_matrix((contrast(edges, colors) + 1e-6, edges), (count, count)).tocsr()
    tree = scipy.sparse.csgraph.minimum_spanning_tree(grid).tocoo()
    order = np.argsort(tree.data, kind="stable")
    links = list(zip(tree.row[order].tolist(), tree.col[order].tolist(), tree.data[order].tolist(), strict=True))
    parent, area, limit = list(range(count)), [1] * count, [REGION_SCALE] * count

    def root(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for a, b, weight in links:
        a, b = root(a), root(b)
        if weight <= min(limit[a], limit[b]):
            parent[b] = a
            area[a] += area[b]
            limit[a] = weight + REGION_SCALE / area[a]
    for a, b, _ in links:
        a, b = root(a), root(b)
        if a != b and min(area[a], area[b]) < LEAST_REGION:
            parent[b] = a
            area[a] += area[b]
    roots = np.array([root(cell) for cell in range(count)])
    return np.unique(roots, return_inverse=True)[1].reshape(height, width)


def merge(probability: np.ndarray, areas: np.ndarray, above: float = MERGE_ABOVE) -> np.ndarray:
    """Joins the two likeliest groups, by the mean over their pairs of cells, until none is likelier than `above`.

    Args:
        probability: (N, N), symmetric: that two regions are of one instance.
        areas: (N,).

    Returns:
        (N,) int32 group of each region, 1..K.
    """
    likely, weight = probability.astype(float), areas.astype(float)
    np.fill_diagonal(likely, -1)
    groups = np.arange(len(areas))
    while len(areas) > 1:
        a, b = divmod(int(likely.argmax()), len(areas))
        if likely[a, b] <= above:
            break
        joined = (weight[a] * likely[a] + weight[b] * likely[b]) / (weight[a] + weight[b])
        likely[a] = likely[:, a] = joined
        likely[b] = likely[:, b] = likely[a, a] = -1
        weight[a] += weight[b]
        groups[groups == b] = a
    return (np.unique(groups, return_inverse=True)[1] + 1).astype(np.int32)


def follow_edges(photo: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Instances of cells -> of pixels, with borders along the photo's edges.

    Near a border each pixel takes the instance that most cells around it have, weighed by how near they are in place
    and colour. Instances that are thin everywhere lose no pixel, so that none is lost.

    Args:
        photo: (H, W, 3) in [0, 1].
        cells: (H / CELL, W / CELL) ids from 1.

    Returns:
        (H, W), of the ids' type.
    """
    side = 2 * REACH + 1
    around = sliding_window_view(np.pad(cells, REACH, "edge"), (side, side))  # (h, w, side, side)
    border = (around != cells[..., None, None]).any((2, 3))
    border &= np.bincount(cells[~border], minlength=cells.max() + 1)[cells] > 0
    margins = ((REACH, REACH), (REACH, REACH), (0, 0))
    means = np.pad(cell_means(photo), margins, "edge")
    colors = sliding_window_view(means, (side, side), (0, 1))  # (h, w, 3, side, side)
    pixels = photo.reshape(cells.shape[0], CELL, cells.shape[1], CELL, 3).swapaxes(1, 2)  # (h, w, CELL, CELL, 3)
    ids = np.broadcast_to(cells[..., None, None], pixels.shape[:4]).copy()
    rows, columns = np.nonzero(border)
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE], columns[start : start + AT_ONCE]
        ids[part] = _vote(pixels[part], around[part], colors[part])
    return ids.swapaxes(1, 2).reshape(photo.shape[:2])


def _vote(pixels: np.ndarray, around: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(N, CELL, CELL) ids of the pixels (N, CELL, CELL, 3) of N cells, from the ids (N, side, side) and the colours
    (N, 3, side, side) of the cells around each."""
    candidates = around.reshape(len(around), -1)  # (N, K)
    first = (candidates[:, :, None] == candidates[:, None]).argmax(2)  # of those with the same id
    within = np.arange(CELL) + 0.5
    votes = np.zeros((*candidates.shape, CELL, CELL), np.float32)
    each = np.arange(len(around))
    for number, (y, x) in enumerate(np.ndindex(around.shape[1:])):
        dy, dx = (within - CELL * (offset - REACH + 0.5) for offset in (y, x))
        place = (dy[:, None] ** 2 + dx**2) / (2 * NEAR_PLACE**2)
        color = np.square(pixels - colors[:, None, None, :, y, x]).sum(3) / (2 * NEAR_COLOR**2)
        votes[each, first[:, number]] += np.exp(-place - np.minimum(color, UNLIKE))
    return candidates[each[:, None, None], votes.argmax(1)]


def cell_means(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> the mean of each cell, (H / CELL, W / CELL, 3)."""
    return _cells(picture)[0]


def _cells(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) -> mean and deviation of each cell, (H / CELL, W / CELL, 3)."""
    height, width = (side // CELL for side in picture.shape[:2])
    cells = picture.reshape(height, CELL, width, CELL, -1)
    return cells.mean((1, 3)), cells.std((1, 3))
