"""Instance maps as pictures: one id per pixel <-> an RGB picture that the autoencoder can carry.

Id maps are (H, W) int32, 0 where no instance is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import scipy  # loads its parts when they are first used

SCALE_RANGE = (0.5, 1.5)
"""Scale targets s_i of Eq. 6 are uniform in it."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in lightness (JFIF)."""
LUMA_RANGE = (0.25, 0.75)
"""Lightness of the colours, which carries the scale target. Wide: the autoencoder keeps luma edges best."""
CHROMA = (0.14, 0.17)
"""Largest Cb and Cr; within them every lightness above stays in the RGB cube."""
PHOTO_CONTRAST = 1.6
"""Contrast of `photo_targets` over the photo's luma: few instances are nearly black or white."""
COLOR_PERIOD = 256
"""HR pixels after which the chroma of a centroid's coordinate comes again."""
CHROMA_GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)), -1).reshape(-1, 2)
"""Where the chroma of an instance goes that would be too like its neighbours'; axes scaled to [-1, 1]."""
LEAST_DISTANCE = 0.5
"""Between the chromas of neighbours, on the same axes."""
NEAR = 6
"""Pixels: instances that are no farther apart are neighbours, as the autoencoder's borders ring that far."""

# -------------------------------------------------------------------------------------------- colours


def scale_target(key: str, instance_id: int) -> float:
    """s_i: uniform in SCALE_RANGE, fixed by the photo's key and the instance's id, the same in every process."""
    digest = hashlib.blake2b(f"{key}/{instance_id}".encode(), digest_size=8).digest()
    low, high = SCALE_RANGE
    return low + (high - low) * int.from_bytes(digest, "big") / 2**64


def photo_targets(ids: np.ndarray, rgb: np.ndarray) -> dict[int, float]:
    """s_i from the photo: the mean luma of each instance, spread over SCALE_RANGE.

    Unlike `scale_target`'s these can be told from the photo alone, so that a sampler of one step can predict the
    lightness of an instance, not only the mean of all lightnesses.

    Args:
        ids: (H, W).
        rgb: (H, W, 3) in [0, 1].
    """
    present, numbers, _, lengths = _runs(ids)
    areas = np.bincount(numbers, lengths)
    means = np.bincount(np.repeat(numbers, lengths), (rgb @ LUMA).ravel()) / areas
    shares = np.clip(0.5 + PHOTO_CONTRAST * (means - 0.5), 0, 1)
    low, high = SCALE_RANGE
    return {int(i): float(low + share * (high - low)) for i, share in zip(present, shares, strict=True) if i > 0}


def colorize(ids: np.ndarray, targets: Mapping[int, float], origin: tuple[int, int] = (0, 0)) -> np.ndarray:
    """An id map -> an RGB picture (H, W, 3) float32 in [0, 1]; id 0 is black.

    An instance's lightness carries its scale target. Its chroma follows its centroid, so that a network can tell it
    from the photo, and moves away where a larger neighbour has a like one.

    Args:
        ids: the map.
        targets: the scale target of each id in it.
        origin: row and column of the map in the picture it was cut from, in pixels.
    """
    present, numbers, starts, lengths = _runs(ids)
    areas = np.bincount(numbers, lengths)
    row, column = np.divmod(starts, ids.shape[1])
    middles = (row, column + (lengths - 1) / 2)
    centroids = [np.bincount(numbers, lengths * middle) / areas for middle in middles]
    wanted = np.stack([_wave(place + first) for place, first in zip(centroids, origin, strict=True)], 1)  # in [-1, 1]
    index = np.repeat(numbers.astype(np.min_scalar_type(len(present))), lengths).reshape(ids.shape)
    near = _neighbors(index, len(present)) & (present != 0)  # black is like no colour
    chroma = _part_neighbors(wanted, areas, near)
    low, high = SCALE_RANGE
    share = np.array([(targets.get(int(i), low) - low) / (high - low) for i in present])
    colors = _rgb(LUMA_RANGE[0] + share * (LUMA_RANGE[1] - LUMA_RANGE[0]), chroma * CHROMA)
    colors[present == 0] = 0
    return np.take(colors.astype(np.float32), index, axis=0)


def scale_of_color(rgb: np.ndarray) -> np.ndarray:
    """The scale target that colours (..., 3) in [0, 1] carry: (...)."""
    luma = np.asarray(rgb) @ LUMA
    share = (luma - LUMA_RANGE[0]) / (LUMA_RANGE[1] - LUMA_RANGE[0])
    return SCALE_RANGE[0] + share * (SCALE_RANGE[1] - SCALE_RANGE[0])


def _runs(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The map as runs of one id in a row, which are few: what is counted in them costs next to nothing.

    Returns:
        (K,) ids in rising order; of each of the N runs its id's place among them, its first pixel's place in the
        flattened map, and its length.
    """
    begins = np.ones(ids.shape, bool)
    np.not_equal(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    present, numbers = np.unique(ids.ravel()[starts], return_inverse=True)
    return present, numbers, starts, np.diff(starts, append=ids.size)


def _wave(position: np.ndarray) -> np.ndarray:
    """A triangular wave in [-1, 1]: linear over half a period, then back."""
    phase = position / COLOR_PERIOD % 1
    return 4 * np.abs(phase - 0.5) - 1


def _rgb(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """(K,) Y and (K, 2) Cb, Cr -> (K, 3), the JFIF matrix."""
    cb, cr = chroma.T
    return np.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], 1)


def _neighbors(index: np.ndarray, count: int) -> np.ndarray:
    """(K, K) bool: which ids come within NEAR pixels of each other, along rows or columns."""
    near = np.zeros((count, count), bool)
    for gap in (1, NEAR):
        for one, other in ((index[gap:], index[:-gap]), (index[:, gap:], index[:, :-gap])):
            border = one != other  # few pixels: the others are next to their own instance
            near[one[border], other[border]] = True
    near |= near.T
    np.fill_diagonal(near, True)
    return near


def _part_neighbors(wanted: np.ndarray, areas: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Chromas as wanted where they differ from the larger neighbours', else the nearest free point of the grid."""
    chroma = wanted.copy()
    order = np.argsort(-areas, kind="stable")
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    larger = near & (place[:, None] > place)  # (K, K): of each, those that choose before it
    apart = np.hypot(*(wanted[:, None] - wanted).transpose(2, 0, 1))
    alike = larger & (apart < LEAST_DISTANCE)  # as long as nobody has moved
    for i in order:
        if not alike[i].any():
            continue
        taken = chroma[larger[i]]
        room = np.hypot(*(CHROMA_GRID[:, None] - taken).T).min(0)  # (25,) distance to the nearest neighbour
        detour = np.hypot(*(CHROMA_GRID - wanted[i]).T)
        free = room >= LEAST_DISTANCE
        chroma[i] = CHROMA_GRID[np.argmin(np.where(free, detour, np.inf)) if free.any() else np.argmax(room)]
        alike[:, i] = larger[:, i] & (np.hypot(*(chroma[i] - wanted).T) < LEAST_DISTANCE)
    return chroma


# -------------------------------------------------------------------------------------------- decoding

LEAST_MARKER = 16
"""Pixels: smaller flat regions are chance."""
NOISY = 0.02
"""Median slope from which a map is noisy and is smoothed before it is read; a clean one's is near 0."""
SAME_PLACE, FAR_TOLERANCE = 48, 0.004
"""Regions more than so many pixels apart are one instance only if their colours differ by less than this: large
pictures hold many instances, some of which look alike."""
REACH = [(dy * r, dx * r) for r in (1, NEAR // 2, NEAR) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
"""Where a border pixel looks for instances that it may belong to: rows and columns."""


def decode_id_map(rgb: np.ndarray, flatness: float = 0.012, same_color: float = 0.02) -> np.ndarray:
    """A decoded instance map -> ids.

    The inside of an instance is flat; its border rings and may show the colours of third instances. So flat regions
    are the instances, a watershed on the colour's slope gives them the rest, and border pixels then choose the
    nearest colour, but among the instances around them only. Noise, as in a network's prediction, is taken off by
    medians first: they keep the borders where they are.

    Args:
        rgb: (H, W, 3) in [0, 1].
        flatness: largest colour difference within 3x3 pixels inside an instance; rises with the map's own noise.
        same_color: near regions that differ by less in every channel are one instance; rises likewise.

    Returns:
        (H, W) int32, 1..K, 0 where there is no instance.
    """
    slope = _slope(rgb)
    for _ in range(3):
        if np.median(slope) < NOISY:
            break
        rgb = _median5(_median5(rgb, 0), 1)
        slope = _slope(rgb)
    noise = float(np.median(slope))
    flat = slope < max(flatness, 1.5 * noise)
    markers = _large_regions(flat)
    if not markers.any():
        return np.zeros(flat.shape, np.int32)
    ids, colors = _merge_like_colors(markers, rgb, max(same_color, noise))
    regions = scipy.ndimage.watershed_ift(np.clip(slope * 255, 0, 255).astype(np.uint8), markers)
    ids = ids[regions]
    for _ in range(2):  # the second round looks at the instances that the first one found
        ids = _choose_nearest_color(ids, colors, rgb, ~flat)
    return ids.astype(np.int32)


def _slope(rgb: np.ndarray) -> np.ndarray:
    """(H, W): the largest difference within 3x3 pixels, over the channels."""
    return (scipy.ndimage.maximum_filter(rgb, (3, 3, 1)) - scipy.ndimage.minimum_filter(rgb, (3, 3, 1))).max(2)


def _median5(rgb: np.ndarray, axis: int) -> np.ndarray:
    """The median of five pixels in a line along `axis`, by comparisons: several times as fast as sorting."""
    padded = np.pad(rgb, [(2, 2) if a == axis else (0, 0) for a in range(3)], mode="edge")
    a, b, c, d, e = (padded.take(range(i, i + rgb.shape[axis]), axis) for i in range(5))
    # the least and the largest of the first four cannot be the median
    low = np.maximum(np.minimum(a, b), np.minimum(c, d))
    high = np.minimum(np.maximum(a, b), np.maximum(c, d))
    return np.maximum(np.minimum(low, high), np.minimum(np.maximum(low, high), e))


def _large_regions(flat: np.ndarray) -> np.ndarray:
    """Connected regions of LEAST_MARKER pixels or more, numbered from 1; int32."""
    regions, _ = scipy.ndimage.label(flat)
    large = np.bincount(regions.ravel()) >= LEAST_MARKER
    large[0] = False
    return (np.cumsum(large) * large).astype(np.int32)[regions]


def _merge_like_colors(markers: np.ndarray, rgb: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """(K + 1,) id of each marker and (ids + 1, 3) colour of each id; the colour of none, black, has id 0."""
    areas = np.bincount(markers.ravel())
    sums = [np.bincount(markers.ravel(), rgb[..., c].ravel()) for c in range(3)]
    colors = np.stack(sums, 1) / np.maximum(areas, 1)[:, None]
    # top, left, -bottom, -right of each region, and of all regions of an id so far: the least of each joins two
    boxes = np.array([[0] * 4] + [[y.start, x.start, -y.stop, -x.stop] for y, x in scipy.ndimage.find_objects(markers)])
    ids, kept, spans = np.zeros(len(areas), np.int64), [np.zeros(3)], [np.zeros(4)]
    for k in np.argsort(-areas[1:], kind="stable") + 1:
        if colors[k] @ LUMA < LUMA_RANGE[0] / 2:
            continue
        difference = np.abs(np.array(kept) - colors[k]).max(1)
        difference[0] = np.inf
        span = np.array(spans)
        gap = np.maximum(span[:, :2] + boxes[k, 2:], boxes[k, :2] + span[:, 2:]).max(1)  # pixels between the boxes
        difference[(gap > SAME_PLACE) & (difference > FAR_TOLERANCE)] = np.inf
        ids[k] = difference.argmin() if difference.min() < tolerance else len(kept)
        if ids[k] == len(kept):
            kept.append(colors[k])
            spans.append(boxes[k])
        spans[ids[k]] = np.minimum(spans[ids[k]], boxes[k])
    return ids, np.array(kept)


def _choose_nearest_color(ids: np.ndarray, colors: np.ndarray, rgb: np.ndarray, where: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(where)
    wanted, best = rgb[rows, columns], ids[rows, columns]
    distance = np.square(wanted - colors[best]).sum(1)
    padded = np.pad(ids, NEAR, mode="edge")
    for dy, dx in REACH:
        candidate = padded[rows + NEAR + dy, columns + NEAR + dx]
        other = np.square(wanted - colors[candidate]).sum(1)
        nearer = other < distance
        best, distance = np.where(nearer, candidate, best), np.where(nearer, other, distance)
    chosen = ids.copy()
    chosen[rows, columns] = best
    return chosen
