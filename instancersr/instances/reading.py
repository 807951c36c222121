"""From tiles of restored photos and predicted instance maps to the instances of the whole picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..geometry import SCALE
from ..tiling import IdCanvas, Tile, TileCanvas, fitted_side, plan_tiles
from .codes import decode_id_map
from .regions import cell_means, segment

WINDOW = 160
"""Side of a window in LR pixels. The wider the view, the fewer objects are cut, and what is kept of pairs of regions
grows with its fourth power."""
WINDOW_OVERLAP = 32
"""Least overlap of neighbouring windows in LR pixels."""


class MapReader(Protocol):
    """Takes tiles in the order of `plan_tiles`, and gives the ids of the whole picture."""

    def add(self, tile: Tile, restored: np.ndarray, instance_map: np.ndarray) -> None:
        """Both (3, 4h, 4w), about [0, 1]; of a tile (h, w)."""

    def finish(self) -> np.ndarray:
        """(4H, 4W) int32 ids, 0 = no instance."""


class ColorReader:
    """Reads the instances off the map's colours, tile by tile: the colours of two tiles need not agree.

    Args:
        height, width: of the LR picture.
        overlap: of the tiles.
    """

    def __init__(self, height: int, width: int, overlap: int):
        self._ids = IdCanvas(height, width, overlap)

    def add(self, tile: Tile, restored: np.ndarray, instance_map: np.ndarray) -> None:
        self._ids.add(tile, decode_id_map(instance_map.clip(0, 1).transpose(1, 2, 0)))

    def finish(self) -> np.ndarray:
        return self._ids.finish()


class RegionReader:
    """Merges regions of the restored photo in windows, which may be larger than a tile, once all tiles are there.

    Args:
        height, width, overlap: as above.
        odds: of a map decoder, as in `segment`.
    """

    def __init__(self, height: int, width: int, overlap: int, odds: Callable[[np.ndarray], np.ndarray]):
        self._height, self._width, self._odds = height, width, odds
        self._photo = TileCanvas(height, width, overlap)
        self._colors = TileCanvas(height, width, overlap, scale=1)

    def add(self, tile: Tile, restored: np.ndarray, instance_map: np.ndarray) -> None:
        self._photo.add(tile, restored)
        self._colors.add(tile, cell_means(instance_map.clip(0, 1).transpose(1, 2, 0)).transpose(2, 0, 1))

    def finish(self) -> np.ndarray:
        photo, colors = self._photo.finish(), self._colors.finish()
        sides = [fitted_side(side, WINDOW, WINDOW_OVERLAP) for side in (self._height, self._width)]
        ids = IdCanvas(self._height, self._width, WINDOW_OVERLAP)
        for window in plan_tiles(self._height, self._width, (sides[0], sides[1]), WINDOW_OVERLAP):
            ids.add(window, segment(_unit(photo[window.scaled(SCALE)]), _unit(colors[window.slices]), self._odds))
        return ids.finish()


def _unit(picture: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    return picture.astype(np.float32) / 255
