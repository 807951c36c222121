"""What each two regions of a photo have in common, for a map decoder to judge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy  # loads its parts when they are first used

from ..errors import ModelError
from .borders import Seen

PAIR_FEATURES = 39
"""Numbers that `pair_features` gives of two regions."""
COLOR_AXES = np.array([1.0, 2.0, 2.0])
"""Weights of Oklab's axes in colour distances."""
HISTOGRAM = 8
"""Bins of each of Oklab's axes."""


def check_features(count: int) -> None:
    """Raises ModelError where a map decoder reads another count of numbers than PAIR_FEATURES."""
    if count != PAIR_FEATURES:
        raise ModelError(f"map_decoder reads {count} numbers of two regions, and this version gives {PAIR_FEATURES}; "
                         "fit one anew, as configs/compact/9_map.yaml does")


def pair_features(regions: np.ndarray, oklab: np.ndarray, texture: np.ndarray, smooth: np.ndarray,
                  map_colors: np.ndarray, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """What each two regions have in common.

    Args:
        regions: (h, w), numbered from 0.
        oklab, texture: (h, w, 3) mean and deviation of the photo's colours in each cell.
        smooth: (h, w, 3) weighted colours that the regions were found in.
        map_colors: (h, w, 3) of the predicted instance map.
        seen: borders and embeddings of the cells.

    Returns:
        (N, N, PAIR_FEATURES) float32: differences of colour, texture, place, area and map colour; the contrast along
        the common border, along the least contrasting way from one to the other, and summed along the shortest; all of
        these distances also in units of the picture's mean; by each kind of seen borders the same three, and the
        distance of embeddings. And (N,) areas.
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
    edges = grid_edges(*regions.shape)
    border, touching, length = _borders(regions, edges, contrast(edges, smooth))
    path, barrier = _shortest_ways(border + distance + 1e-4, touching), _least_barriers(border, touching)
    apart, log_area = _distances(place), np.log(areas)
    share = areas / areas.sum()

    def features() -> Iterator[np.ndarray]:
        """One after the other, for want of memory."""
        yield from np.moveaxis(np.abs(color[:, None] - color), 2, 0)
        yield from np.moveaxis(color[:, None] + color, 2, 0)
        yield from (distance, np.sqrt(distance), _similar_colors(index, oklab, areas))
        yield from (np.sqrt(path), np.sqrt(barrier), np.where(touching, np.sqrt(border), 0.3), touching)
        yield length / np.sqrt(np.minimum(areas[:, None], areas))
        for values in (spread[:, 0], spread[:, 1:].mean(1), grain[:, 0], log_area):
            yield from _both(values)
        yield from (np.abs(v[:, None] - v) / 40 for v in place.T)
        yield (place[:, :1] + place[:, 0]) / 100
        yield from (apart / 40, apart / (size[:, None] + size), _distances(mean(map_colors)))
        yield from (d / (share @ d @ share + 1e-3) for d in (distance, path, barrier))
        for likely, embedding in zip(seen.borders, seen.embeddings, strict=True):
            seen_border = _borders(regions, edges, likely.ravel()[edges].max(0))[0]
            yield np.where(touching, seen_border, 0.5)
            yield _least_barriers(seen_border, touching)
            yield np.sqrt(_shortest_ways(seen_border + 1e-3, touching))
            yield _distances(mean(np.moveaxis(embedding, 0, -1)))

    pairs = np.empty((count, count, PAIR_FEATURES), np.float32)
    for number, values in enumerate(features()):
        pairs[..., number] = values
    return pairs, areas


def grid_edges(height: int, width: int) -> np.ndarray:
    """(2, E) numbers of cells that touch, diagonally too."""
    number = np.arange(height * width).reshape(height, width)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:]),
             (number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1])]
    return np.concatenate([np.stack([a.ravel(), b.ravel()]) for a, b in pairs], 1)


def contrast(edges: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """(E,) distances of the colours (h, w, C) of cells that touch."""
    flat = colors.reshape(-1, colors.shape[-1])
    return np.linalg.norm(flat[edges[0]] - flat[edges[1]], axis=1)


def _borders(regions: np.ndarray, edges: np.ndarray,
             strength: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, N) each: mean strength (E,) of edges that cross the common border, whether there are any, and how many."""
    a, b = regions.ravel()[edges]
    crossing = a != b
    ends = np.concatenate([[a, b], [b, a]], 1)[:, np.tile(crossing, 2)]
    shape = (int(regions.max()) + 1,) * 2
    length = scipy.sparse.coo_matrix((np.ones(ends.shape[1]), ends), shape).toarray()
    total = scipy.sparse.coo_matrix((np.tile(strength[crossing], 2), ends), shape).toarray()
    return total / np.maximum(length, 1), length > 0, length


def _shortest_ways(steps: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """(N, N): sums of the steps (N, N) between regions that touch, along the shortest way from one to another."""
    return scipy.sparse.csgraph.dijkstra(np.where(touching, steps, 0), directed=False)


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
