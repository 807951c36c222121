"""Tiles cover every picture, blend without seams, and instances survive being cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import relabel_sequential

from instancersr.tiling import IdCanvas, Tile, TileCanvas, blend_window, fitted_side, plan_tiles

sides = st.integers(16, 300)


@st.composite
def plans(draw):
    height, width = draw(sides), draw(sides)
    tile = draw(st.integers(16, 160))
    overlap = draw(st.integers(0, tile - 4))
    return height, width, tile, overlap


def rectangles(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """Connected instances: rectangles painted over each other, then split into 4-connected parts."""
    ids = np.zeros((height, width), np.int32)
    for i in range(1, count + 1):
        top, bottom = np.sort(rng.integers(0, height, 2))
        left, right = np.sort(rng.integers(0, width, 2))
        ids[top : bottom + 1, left : right + 1] = i
    parts, next_id = np.zeros_like(ids), 0
    for i in range(1, count + 1):
        labels, n = ndimage.label(ids == i)
        parts[labels > 0] = labels[labels > 0] + next_id
        next_id += n
    return parts


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1])) and [0, 0] in pairs.T.tolist()


@given(plans())
def test_plan_covers_the_picture_with_equal_overlapping_tiles(plan):
    height, width, tile, overlap = plan
    tiles = plan_tiles(height, width, tile, overlap)
    covered = np.zeros((height, width), bool)
    for t in tiles:
        assert t.top >= 0 and t.top + t.height <= height and t.left >= 0 and t.left + t.width <= width
        covered[t.slices] = True
    assert covered.all()
    size = (min(tile, height), min(tile, width))
    assert all((t.height, t.width) == size for t in tiles)
    tops, lefts = sorted({t.top for t in tiles}), sorted({t.left for t in tiles})
    for starts, length in ((tops, height), (lefts, width)):
        assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))
        assert all(start % 4 == 0 for start in starts[:-1])
        assert len(starts) == 1 or starts[-1] + tile == length
    assert tiles == sorted(tiles, key=lambda t: (t.top, t.left))


@given(st.integers(16, 2000), st.integers(16, 160), st.integers(0, 20))
def test_a_fitted_side_needs_no_more_tiles_and_no_more_room(length, tile, overlap):
    length, tile, overlap = length // 4 * 4, tile // 4 * 4, min(overlap, tile // 8 * 4)
    side = fitted_side(length, tile, overlap)
    full, fitted = (plan_tiles(length, 16, (each, 64), overlap) for each in (tile, side))
    assert side <= tile and side % 4 == 0 and len(fitted) == len(full)
    if len(full) > 1 and overlap % 4 == 0 and side - 4 > overlap:  # with a token less more tiles would be needed
        assert len(plan_tiles(length, 16, (side - 4, 64), overlap)) > len(full)


def test_plan_of_a_picture_smaller_than_a_tile_is_the_picture():
    assert plan_tiles(20, 50, 64, 16) == [Tile(0, 0, 20, 50)]


def test_plan_of_a_strip_runs_along_it():
    tiles = plan_tiles(16, 3000, 128, 32)
    assert {t.top for t in tiles} == {0} and len(tiles) == 31  # 1 + ceil((3000 - 128) / 96)


@pytest.mark.parametrize("arguments", [(0, 20, 16, 4), (20, 20, 16, -1), (20, 20, 16, 16), (20, 20, 3, 0)])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(ValueError, match="tile"):
        plan_tiles(*arguments)


def test_windows_of_neighbours_sum_to_one():
    window = blend_window(40, 40, 12)[20]
    np.testing.assert_allclose(window[-12:] + window[:12], 1, atol=1e-6)
    np.testing.assert_array_equal(window[12:-12], 1)
    assert (blend_window(5, 7, 12) > 0).all() and (blend_window(5, 7, 0) == 1).all()


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_tiles_of_a_picture_give_the_picture_back(plan, scale, seed):
    height, width, tile, overlap = plan
    picture = np.random.default_rng(seed).integers(0, 256, (height * scale, width * scale, 3), np.uint8)
    pixels = picture.transpose(2, 0, 1).astype(np.float32) / 255
    canvas = TileCanvas(height, width, overlap, scale)
    for t in plan_tiles(height, width, tile, overlap):
        canvas.add(t, pixels[(slice(None), *t.scaled(scale))])
    np.testing.assert_array_equal(canvas.finish(), picture)


def test_a_step_between_tiles_becomes_a_smooth_ramp():
    """Two tiles, black and white, blend along sin^2 of their overlap: no step stays."""
    canvas = TileCanvas(16, 48, overlap=16, scale=1)
    left, right = plan_tiles(16, 48, 32, 16)
    canvas.add(left, np.zeros((3, 16, 32), np.float32))
    canvas.add(right, np.ones((3, 16, 32), np.float32))
    row = canvas.finish()[8, :, 0]
    expected = 255 * np.sin((np.arange(16) + 0.5) / 16 * np.pi / 2) ** 2
    np.testing.assert_allclose(row, np.r_[np.zeros(16), expected, np.full(16, 255)], atol=0.5)


def test_only_the_open_rows_are_floats():
    canvas = TileCanvas(2000, 32, overlap=8, scale=4)
    most = 0
    for t in plan_tiles(2000, 32, 64, 8):
        canvas.add(t, np.zeros((3, 256, 128), np.float32))
        most = max(most, len(canvas._sum))
    assert most == 64 * 4
    assert canvas.finish().dtype == np.uint8


def test_values_beyond_the_range_are_clipped():
    canvas = TileCanvas(16, 16, overlap=4, scale=1)
    canvas.add(Tile(0, 0, 16, 16), np.broadcast_to(np.linspace(-1, 2, 256).reshape(1, 16, 16), (3, 16, 16)))
    result = canvas.finish()
    assert result[0, 0, 0] == 0 and result[-1, -1, 0] == 255


def test_canvases_refuse_wrong_shapes_and_closed_rows():
    canvas = TileCanvas(64, 16, overlap=4, scale=2)
    with pytest.raises(ValueError, match=r"needs \(3, 32, 32\)"):
        canvas.add(Tile(0, 0, 16, 16), np.zeros((3, 16, 16)))
    for top in (0, 8):
        canvas.add(Tile(top, 0, 16, 16), np.zeros((3, 32, 32)))
    with pytest.raises(ValueError, match="finished"):
        canvas.add(Tile(0, 0, 16, 16), np.zeros((3, 32, 32)))
    with pytest.raises(ValueError, match=r"needs ids of \(32, 32\)"):
        IdCanvas(64, 16, overlap=4, scale=2).add(Tile(0, 0, 16, 16), np.zeros((16, 16), np.int32))


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 150), st.integers(16, 150), st.integers(24, 64), st.integers(0, 2**32 - 1))
def test_a_cut_instance_map_comes_back_up_to_names(height, width, tile, seed):
    """Each tile names its instances anew; every instance is connected, so it crosses the overlaps."""
    rng = np.random.default_rng(seed)
    truth = rectangles(rng, height, width, count=12)
    canvas = IdCanvas(height, width, overlap=8, scale=1)
    for t in plan_tiles(height, width, tile, 8):
        names = np.r_[0, 1 + rng.permutation(truth.max())]
        canvas.add(t, names[truth[t.slices]])
    result = canvas.finish()
    assert result.dtype == np.int32
    assert same_partition(result, truth)
    np.testing.assert_array_equal(np.unique(result), np.unique(relabel_sequential(truth)[0]))


def test_instances_that_differ_in_the_overlap_stay_apart():
    canvas = IdCanvas(16, 48, overlap=16, scale=1)
    left, right = np.zeros((16, 32), int), np.zeros((16, 32), int)
    left[:, 20:] = 1   # 12 of the 16 shared columns
    right[:, :4] = 1   # 4 of the 16, none of them the other's
    right[:, 10:] = 2  # 6 of the 16, all of them the other's: IoU 6/12, not above .5
    for t, ids in zip(plan_tiles(16, 48, 32, 16), (left, right), strict=True):
        canvas.add(t, ids)
    row = canvas.finish()[0]
    assert row[23] != row[30] and row[23] > 0 and row[30] > 0


def test_matched_instances_agree_although_their_borders_differ():
    canvas = IdCanvas(16, 48, overlap=16, scale=1)
    left, right = np.zeros((16, 32), int), np.zeros((16, 32), int)
    left[4:12, 10:] = 7
    right[5:13, :20] = 3
    for t, ids in zip(plan_tiles(16, 48, 32, 16), (left, right), strict=True):
        canvas.add(t, ids)
    assert set(np.unique(canvas.finish())) == {0, 1}


def test_an_empty_map_stays_empty():
    canvas = IdCanvas(16, 16, overlap=4)
    canvas.add(Tile(0, 0, 16, 16), np.zeros((64, 64), np.int32))
    assert not canvas.finish().any()
