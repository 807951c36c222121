"""Instances from a restored photo and its predicted map: small regions, the merging of like ones, and their borders.

Regions are Felzenszwalb & Huttenlocher's (2004) on cells of 4x4 HR pixels, one LR pixel; the map decoder says of each
two of them how likely they are parts of one instance; average linkage joins them; joint bilateral upsampling (Kopf et
al., 2007) lays their borders along the photo's edges.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy  # loads its parts when they are first used
from numpy.lib.stride_tricks import sliding_window_view

from ..geometry import SCALE

CELL = SCALE
"""HR pixels along a cell's side."""
REGION_SCALE = 0.08
"""Felzenszwalb's k, in units of colour distance: how much contrast small regions need to stay apart."""
LEAST_REGION = 20
"""Cells; smaller regions are joined to a neighbour. 320 HR pixels."""
MERGE_ABOVE = 0.5
"""Mean probability of being one instance from which two groups of regions are joined: even odds."""
COLOR_AXES = np.array([1.0, 2.0, 2.0])
"""Weights of Oklab's axes in colour distances."""
HISTOGRAM = 8
"""Bins of each of Oklab's axes."""
REACH = 2
"""Cells on every side of a pixel's own that have a say in its instance."""
NEAR_PLACE, NEAR_COLOR = 4.0, 0.05
"""Deviations of the weight of a cell's say: HR pixels, and colour distance in RGB."""
UNLIKE = 20.0
"""Half a squared colour distance, in deviations, beyond which colours are just unlike: the place decides then."""
AT_ONCE = 4096
"""Cells whose pixels are judged together, for want of memory."""


def segment(photo: np.ndarray, instance_map: np.ndarray, odds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Instance ids of a photo.

    Args:
        photo: (H, W, 3) in [0, 1], restored; sides divisible by 8.
        instance_map: (H, W, 3) in [0, 1], as predicted.
        odds: of being of one instance, their logarithm (...), for the features (..., F) of pairs of regions: a map
            decoder.

    Returns:
        (H, W) int32, 1..K.
    """
    regions, features, areas = describe(photo, instance_map)
    groups = merge(scipy.special.expit(odds(features)), areas)
    return follow_edges(photo, groups[regions])


def describe(photo: np.ndarray, instance_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Regions of a photo and what each two of them have in common.

    Returns:
        (h, w) region of each cell, from 0; (N, N, F) float32 features of pairs of regions, symmetric, described in
        `pair_features`; (N,) areas in cells.
    """
    oklab, texture = _cells(to_oklab(photo))
    smooth = scipy.ndimage.gaussian_filter(oklab, (0.6, 0.6, 0)) * COLOR_AXES
    regions = find_regions(smooth)
    features, areas = pair_features(regions, oklab, texture, smooth, _cells(instance_map)[0])
    return regions, features, areas


def to_oklab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> Oklab (Ottosson, 2020), (..., 3): lightness in [0, 1], then two colour axes within +-0.4."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((np.maximum(rgb, 0) + 0.055) / 1.055) ** 2.4)
    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                      [0.0883024619, 0.2817188376, 0.6299787005]])
    axes = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]])
    return np.cbrt(linear @ cones.T) @ axes.T


def find_regions(colors: np.ndarray) -> np.ndarray:
    """Felzenszwalb & Huttenlocher's regions of (h, w, C) colours -> (h, w) int64, numbered from 0.

    Only edges of the grid's minimum spanning tree are looked at, the weakest first: two regions join where the edge is
    no stronger than what either has inside, plus REGION_SCALE over its area.
    """
    height, width = colors.shape[:2]
    edges, contrast = _grid_edges(colors)
    count = height * width
    grid = scipy.sparse.coo_matrix((contrast + 1e-6, edges), (count, count)).tocsr()
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


def pair_features(regions: np.ndarray, oklab: np.ndarray, texture: np.ndarray, smooth: np.ndarray,
                  map_colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each two regions have in common.

    Args:
        regions: (h, w), numbered from 0.
        oklab, texture: (h, w, 3) mean and deviation of the photo's colours in each cell.
        smooth: (h, w, 3) weighted colours that the regions were found in.
        map_colors: (h, w, 3) of the predicted instance map.

    Returns:
        (N, N, F) float32: differences of colour, texture, place, area and map colour; the contrast along the common
        border, along the least contrasting way from one to the other, and summed along the shortest; all of these
        distances also in units of the picture's mean. And (N,) areas.
    """
    count, index = int(regions.max()) + 1, regions.ravel()
    areas = np.bincount(index, minlength=count).astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(index, values[..., c].ravel(), minlength=count) for c in range(values.shape[-1])]
        return np.stack(sums, 1) / areas[:, None]

    def deviation(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(mean(values**2) - mean(values) ** 2, 0))

    places = np.moveaxis(np.indices(regions.shape), 0, -1).astype(float)
    color, place, size = mean(oklab), mean(places), deviation(places).sum(1) + 0.6
    spread, grain = np.log(deviation(oklab) + 0.004), np.log(mean(texture) + 0.003)
    distance = _distances(color * COLOR_AXES)
    border, touching, length = _borders(regions, smooth)
    path = scipy.sparse.csgraph.dijkstra(np.where(touching, border + distance + 1e-4, 0), directed=False)
    barrier = _least_barriers(border, touching)
    apart, log_area = _distances(place), np.log(areas)
    share = areas / areas.sum()
    features = [
        *np.moveaxis(np.abs(color[:, None] - color), 2, 0), *np.moveaxis(color[:, None] + color, 2, 0),
        distance, np.sqrt(distance), _similar_colors(index, oklab, areas),
        np.sqrt(path), np.sqrt(barrier), np.where(touching, np.sqrt(border), 0.3), touching,
        length / np.sqrt(np.minimum(areas[:, None], areas)),
        *(part for v in (spread[:, 0], spread[:, 1:].mean(1), grain[:, 0], log_area) for part in _both(v)),
        *(np.abs(v[:, None] - v) / 40 for v in place.T), (place[:, :1] + place[:, 0]) / 100,
        apart / 40, apart / (size[:, None] + size), _distances(mean(map_colors)),
        *(d / (share @ d @ share + 1e-3) for d in (distance, path, barrier)),
    ]
    return np.stack(features, -1).astype(np.float32), areas


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
    means = np.pad(_cells(photo)[0], margins, "edge")
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


def _cells(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) -> mean and deviation of each cell, (H / CELL, W / CELL, 3)."""
    height, width = (side // CELL for side in picture.shape[:2])
    cells = picture.reshape(height, CELL, width, CELL, -1)
    return cells.mean((1, 3)), cells.std((1, 3))


def _grid_edges(colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2, E) cells that touch, diagonally too, and (E,) the distances of their colours."""
    height, width = colors.shape[:2]
    number = np.arange(height * width).reshape(height, width)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
             (number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1])]
    edges = np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in pairs], 1)
    flat = colors.reshape(height * width, -1)
    return edges, np.linalg.norm(flat[edges[0]] - flat[edges[1]], axis=1)


def _borders(regions: np.ndarray, colors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, N) each: mean contrast along the common border, whether there is one, and how many edges cross it."""
    edges, contrast = _grid_edges(colors)
    a, b = regions.ravel()[edges]
    crossing = a != b
    ends = np.concatenate([[a, b], [b, a]], 1)[:, np.tile(crossing, 2)]
    shape = (int(regions.max()) + 1,) * 2
    length = scipy.sparse.coo_matrix((np.ones(ends.shape[1]), ends), shape).toarray()
    total = scipy.sparse.coo_matrix((np.tile(contrast[crossing], 2), ends), shape).toarray()
    return total / np.maximum(length, 1), length > 0, length


def _least_barriers(border: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """(N, N): of all ways from one region to another, the least of their strongest borders."""
    if len(border) < 2:
        return np.zeros_like(border)
    steps = np.where(touching, border, border.max() + 1)
    np.fill_diagonal(steps, 0)
    squareform, hierarchy = scipy.spatial.distance.squareform, scipy.cluster.hierarchy
    return squareform(hierarchy.cophenet(hierarchy.linkage(squareform(steps, checks=False), "single")))


def _similar_colors(index: np.ndarray, oklab: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(N, N): Bhattacharyya's coefficient of the regions' colour histograms."""
    bins = np.clip(oklab * [8, 20, 20] + [0, 4, 4], 0, HISTOGRAM - 1).astype(int).reshape(-1, 3)
    code = bins @ [HISTOGRAM**2, HISTOGRAM, 1]
    counts = np.bincount(index * HISTOGRAM**3 + code, minlength=len(areas) * HISTOGRAM**3)
    root = np.sqrt(counts.reshape(len(areas), -1) / areas[:, None])
    return root @ root.T


def _distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points, axis=-1)


def _both(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What does not depend on the order of a pair: the difference and the sum."""
    return np.abs(values[:, None] - values), values[:, None] + values
