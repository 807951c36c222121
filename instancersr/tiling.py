"""Overlapping tiles: where they lie, how pictures made from them are blended, how instance maps are stitched.

Lengths are low-resolution (LR) pixels unless said to be the output's, which is ``scale`` times as large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import LR_LATENT, LR_TOKEN, SCALE


@dataclass(frozen=True)
class Tile:
    """A rectangle of the LR picture, in LR pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a picture's last two dimensions."""
        return self.scaled(1)

    @property
    def latents(self) -> tuple[slice, slice]:
        """Rows and columns of the latents that it covers."""
        rows, columns = (slice(side.start // LR_LATENT, side.stop // LR_LATENT) for side in self.slices)
        return rows, columns

    def scaled(self, scale: int) -> tuple[slice, slice]:
        """Rows and columns in a picture ``scale`` times as large."""
        return (
            slice(self.top * scale, (self.top + self.height) * scale),
            slice(self.left * scale, (self.left + self.width) * scale),
        )

    def times(self, scale: int) -> Tile:
        """The same rectangle in the pixels of a picture ``scale`` times as large."""
        return Tile(self.top * scale, self.left * scale, self.height * scale, self.width * scale)

    def within(self, outer: Tile) -> Tile:
        """The same rectangle as seen from the corner of another."""
        return Tile(self.top - outer.top, self.left - outer.left, self.height, self.width)


def fitted_side(length: int, tile: int, overlap: int, multiple: int = LR_TOKEN) -> int:
    """The smallest side, a multiple, with which as few tiles cover a length as with sides of `tile`.

    What tiles of the full side would share beyond the overlap is computed twice for nothing.
    """
    if length <= tile:
        return tile
    count = 1 + -(-(length - tile) // ((tile - overlap) // multiple * multiple))
    stride = _round_up(-(-(length - overlap) // count), multiple)
    return min(tile, _round_up(overlap + stride, multiple))


def plan_tiles(height: int, width: int, tile: int | tuple[int, int], overlap: int,
               multiple: int = LR_TOKEN) -> list[Tile]:
    """Tiles that cover a picture, in rows from the top, each row from the left.

    A side longer than ``tile`` is covered by tiles of exactly that length, the last one shifted inward so
    that it ends with the picture; a shorter side by one tile of its own length. Neighbours share ``overlap``
    pixels or more. Tiles begin at multiples of ``multiple``, except those shifted inward.

    Args:
        height, width: of the picture.
        tile: side of a tile, or its height and width.
        overlap: least overlap of neighbours, from 0 up to below ``tile``.
        multiple: grid on which tiles begin.

    Raises:
        ValueError: a length is not positive, or the overlap leaves no step between tiles.
    """
    sides = (tile, tile) if isinstance(tile, int) else tile
    if min(height, width, *sides, multiple) < 1 or overlap < 0:
        raise ValueError(f"cannot cut {width}x{height} into tiles of {tile}, overlap {overlap}")
    strides = [(side - overlap) // multiple * multiple for side in sides]
    if min(strides) < 1:
        raise ValueError(f"tile {tile} is too small for an overlap of {overlap}; "
                         f"it needs at least {overlap + multiple}")
    return [
        Tile(top, left, min(sides[0], height), min(sides[1], width))
        for top in _starts(height, sides[0], strides[0])
        for left in _starts(width, sides[1], strides[1])
    ]


def blend_window(height: int, width: int, overlap: int) -> np.ndarray:
    """Weights of one tile, (height, width) float32 in (0, 1]: 1 inside, falling to almost 0 at each border.

    The slope is sin^2, which with the neighbour's mirrored slope gives cos^2 + sin^2 = 1 where they share
    exactly ``overlap`` pixels. Elsewhere, as at the picture's border, dividing by the sum of weights does it.

    Args:
        height, width: of the tile.
        overlap: width of the slopes, in the same pixels; 0 gives all ones.
    """
    return np.outer(_slopes(height, overlap), _slopes(width, overlap)).astype(np.float32)


class TileCanvas:
    """Blends tiles into one 8-bit picture, holding floats only for the rows that are still open.

    A tile that begins further down closes the rows above it, so besides the result the canvas needs
    ``tile height x picture width`` floats, however tall the picture.

    Args:
        height, width: of the LR picture.
        overlap: of the plan; the width of the blending slopes.
        scale: enlargement of the tiles that come in.
    """

    def __init__(self, height: int, width: int, overlap: int, scale: int = SCALE):
        self.scale, self.overlap = scale, overlap
        self.picture = np.zeros((height * scale, width * scale, 3), np.uint8)
        self._top = 0                                                    # first open row
        self._sum = np.zeros((0, width * scale, 3), np.float32)          # open rows: weighted colours
        self._weight = np.zeros((0, width * scale), np.float32)          # open rows: weights

    def add(self, tile: Tile, pixels: np.ndarray) -> None:
        """Add one tile; tiles come in the order of ``plan_tiles``.

        Args:
            tile: where it lies.
            pixels: (3, scale * height, scale * width) in [0, 1]; clipped when its rows are closed.

        Raises:
            ValueError: the shape does not match the tile, or its rows are already closed.
        """
        height, width = tile.height * self.scale, tile.width * self.scale
        if pixels.shape != (3, height, width):
            raise ValueError(f"{tile} at scale {self.scale} needs (3, {height}, {width}), not {pixels.shape}")
        rows, columns = tile.scaled(self.scale)
        if rows.start < self._top:
            raise ValueError(f"{tile} lies above row {self._top // self.scale}, which is finished")
        self._close(rows.start)
        self._open(rows.stop)
        weight = blend_window(height, width, self.overlap * self.scale)  # (h, w)
        self._sum[:height, columns] += pixels.transpose(1, 2, 0) * weight[..., None]
        self._weight[:height, columns] += weight

    def finish(self) -> np.ndarray:
        """Close all rows and return the picture, (scale * H, scale * W, 3) uint8."""
        self._close(self._top + len(self._sum))
        return self.picture

    def _close(self, row: int) -> None:
        count = row - self._top
        if count == 0:
            return
        done = self._sum[:count]
        done /= np.maximum(self._weight[:count, :, None], np.finfo(np.float32).tiny)
        np.clip(done, 0, 1, out=done)
        done *= 255
        self.picture[self._top : row] = np.rint(done, out=done)
        self._top, self._sum, self._weight = row, self._sum[count:], self._weight[count:]

    def _open(self, row: int) -> None:
        missing = row - self._top - len(self._sum)
        if missing > 0:
            below = ((0, missing), (0, 0))
            self._sum, self._weight = np.pad(self._sum, (*below, (0, 0))), np.pad(self._weight, below)


class IdCanvas:
    """Stitches the instance maps of tiles, each with ids of its own, into one map.

    Two ids of neighbouring tiles are one instance where their pixels inside the shared rectangle have an
    intersection over union above ``threshold``. Each tile decides the pixels up to the middle of an overlap,
    so that no pixel is judged by a tile that has it at its very border.

    Args:
        height, width: of the LR picture.
        overlap: of the plan.
        scale: enlargement of the maps that come in.
        threshold: least intersection over union of a match, at least 0.5, so that an id has one match a tile.
    """

    def __init__(self, height: int, width: int, overlap: int, scale: int = SCALE, threshold: float = 0.5):
        self.scale, self.threshold = scale, threshold
        self._margin = overlap * scale // 2
        self._ids = np.zeros((height * scale, width * scale), np.int32)
        self._tiles: list[Tile] = []
        self._parent = [0]  # union-find forest over all tiles' ids; 0 is no instance

    def add(self, tile: Tile, ids: np.ndarray) -> None:
        """Add one tile's map; tiles come in the order of ``plan_tiles``.

        Args:
            tile: where it lies.
            ids: (scale * height, scale * width) integers, 0 = no instance.

        Raises:
            ValueError: the shape does not match the tile.
        """
        rows, columns = tile.scaled(self.scale)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        if ids.shape != shape:
            raise ValueError(f"{tile} at scale {self.scale} needs ids of {shape}, not {ids.shape}")
        new = self._renumber(ids)
        for other in self._tiles:
            other_rows, other_columns = other.scaled(self.scale)
            shared = (_intersect(rows, other_rows), _intersect(columns, other_columns))
            if all(s.start < s.stop for s in shared):
                local = new[_shift(shared[0], rows.start), _shift(shared[1], columns.start)]
                self._match(self._ids[shared], local)
        up, left = self._margin * (tile.top > 0), self._margin * (tile.left > 0)
        self._ids[rows, columns][up:, left:] = new[up:, left:]
        self._tiles.append(tile)

    def finish(self) -> np.ndarray:
        """The whole map, (scale * H, scale * W) int32 with ids 1..K, 0 = no instance."""
        roots = np.array([self._root(i) for i in range(len(self._parent))], np.int32)
        seen = np.zeros(len(roots), bool)
        for band in np.array_split(self._ids, max(1, len(self._ids) // 256)):  # in bands: no copy of the map
            seen[roots[band]] = True
        seen[0] = False
        compact = np.zeros(len(roots), np.int32)
        compact[seen] = np.arange(1, seen.sum() + 1)
        lookup = compact[roots]
        for band in np.array_split(self._ids, max(1, len(self._ids) // 256)):
            band[...] = lookup[band]
        return self._ids

    def _renumber(self, ids: np.ndarray) -> np.ndarray:
        """Own ids -> ids no other tile has."""
        values, inverse = np.unique(ids, return_inverse=True)
        first = len(self._parent)
        fresh = np.zeros(len(values), np.int32)
        fresh[values != 0] = np.arange(first, first + np.count_nonzero(values))
        self._parent.extend(range(first, first + np.count_nonzero(values)))
        return fresh[inverse].reshape(ids.shape)

    def _match(self, old: np.ndarray, new: np.ndarray) -> None:
        """Unite ids of two maps of the same rectangle whose intersection over union passes the threshold."""
        old_values, old_inverse = np.unique(old, return_inverse=True)
        roots, root_inverse = np.unique([self._root(i) for i in old_values], return_inverse=True)
        new_values, new_inverse = np.unique(new, return_inverse=True)
        pairs = root_inverse[old_inverse.ravel()] * len(new_values) + new_inverse.ravel()
        both = np.bincount(pairs, minlength=len(roots) * len(new_values)).reshape(len(roots), len(new_values))
        either = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
        for i, j in np.argwhere(both > self.threshold * either):
            if roots[i] and new_values[j]:
                self._parent[self._root(new_values[j])] = self._root(roots[i])

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]  # halves the path for the next search
            i = self._parent[i]
        return int(i)


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _starts(length: int, tile: int, stride: int) -> list[int]:
    return [*range(0, length - tile, stride), max(0, length - tile)]


def _slopes(length: int, overlap: int) -> np.ndarray:
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5  # to the nearer border
    return np.sin(np.minimum(distance / max(overlap, 0.5), 1) * np.pi / 2) ** 2


def _intersect(a: slice, b: slice) -> slice:
    return slice(max(a.start, b.start), min(a.stop, b.stop))


def _shift(s: slice, origin: int) -> slice:
    return slice(s.start - origin, s.stop - origin)
