"""Tiles of photos and maps become one map of the whole picture, read off colours or off regions."""

from unittest.mock import Mock

import numpy as np
import pytest

from instancersr.instances import reading
from instancersr.instances.codes import colorize
from instancersr.instances.overlap import mean_iou
from instancersr.instances.reading import ColorReader, MapReader, RegionReader
from instancersr.tiling import plan_tiles

HEIGHT, WIDTH, TILE, OVERLAP = 40, 96, 48, 16


@pytest.fixture
def pieces() -> tuple[np.ndarray, np.ndarray]:
    """A photo (3, 160, 384) of a ground and two bars, of which one runs through all tiles, and its ids from 1."""
    ids = np.ones((4 * HEIGHT, 4 * WIDTH), np.int32)
    ids[40:80, 20:370], ids[100:140, 60:120] = 2, 3
    colors = np.array([[0.2, 0.3, 0.7], [0.8, 0.5, 0.3], [0.1, 0.5, 0.2]], np.float32)
    return colors[ids - 1].transpose(2, 0, 1), ids


def read(reader: MapReader, photo: np.ndarray, *maps: np.ndarray) -> np.ndarray:
    """The ids that a reader gives; the tiles take turns in seeing the maps (3, 4H, 4W)."""
    for number, tile in enumerate(plan_tiles(HEIGHT, WIDTH, TILE, OVERLAP)):
        place = (slice(None), *tile.scaled(4))
        reader.add(tile, photo[place], maps[number % len(maps)][place])
    return reader.finish()


def alike(pairs: np.ndarray) -> np.ndarray:
    """Odds by the difference of the colours, the first features."""
    return np.where(pairs[..., :3].sum(-1) < 0.05, 9.0, -9.0)


def by_map(pairs: np.ndarray) -> np.ndarray:
    """Odds by the distance of the map's colours, the feature of that number."""
    return np.where(pairs[..., 27] < 0.1, 9.0, -9.0)


def test_regions_are_merged_in_a_view_of_the_whole_picture(pieces):
    photo, truth = pieces
    odds = Mock(side_effect=alike)
    ids = read(RegionReader(HEIGHT, WIDTH, OVERLAP, odds), photo, photo)
    odds.assert_called_once()
    assert ids.shape == truth.shape and ids.max() == 3 and mean_iou(truth, ids) > 0.95


def test_a_picture_larger_than_a_window_is_read_in_several(pieces, monkeypatch):
    monkeypatch.setattr(reading, "WINDOW", 64)
    photo, truth = pieces
    odds = Mock(side_effect=alike)
    ids = read(RegionReader(HEIGHT, WIDTH, OVERLAP, odds), photo, photo)
    assert odds.call_count == 2 and ids.max() == 3 and mean_iou(truth, ids) > 0.95


def test_regions_know_the_colours_of_the_map(pieces):
    photo, _ = pieces
    gray = np.full_like(photo, 0.5)

    def count(instance_map: np.ndarray) -> int:
        return read(RegionReader(HEIGHT, WIDTH, OVERLAP, by_map), photo, instance_map).max()

    assert (count(photo), count(gray)) == (3, 1)


def test_the_colours_of_two_tiles_need_not_agree(pieces):
    photo, truth = pieces
    maps = [colorize(truth, {i: target for i in range(1, 4)}).transpose(2, 0, 1).astype(np.float32)
            for target in (0.7, 1.2)]
    ids = read(ColorReader(HEIGHT, WIDTH, OVERLAP), photo, *maps)
    assert ids.max() == 3 and mean_iou(truth, ids) > 0.9
