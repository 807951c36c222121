"""From a photo and its predicted map to instances: each step against a library or a picture whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from instancersr.instances.borders import Seen
from instancersr.instances.pairs import pair_features
from instancersr.instances.regions import (
    CELL,
    LEAST_REGION,
    REACH,
    cell_means,
    describe,
    find_regions,
    follow_edges,
    merge,
    segment,
    to_oklab,
)
from instancersr.lab.method.models import MapDecoder


def pieces(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A picture of four flat pieces, 160x192, and their numbers."""
    ids = np.zeros((160, 192), int)
    ids[:, 96:], ids[80:, :48], ids[40:100, 120:160] = 1, 2, 3
    colors = np.array([[0.2, 0.3, 0.7], [0.8, 0.5, 0.3], [0.1, 0.5, 0.2], [0.9, 0.9, 0.8]])
    picture = colors[ids] + noise * np.random.default_rng(0).standard_normal((*ids.shape, 3))
    return picture.clip(0, 1), ids


def test_oklab_is_the_published_one():
    """Ottosson's values of white and red."""
    assert np.allclose(to_oklab(np.array([1.0, 1.0, 1.0])), [1, 0, 0], atol=1e-3)
    assert np.allclose(to_oklab(np.array([1.0, 0.0, 0.0])), [0.628, 0.2249, 0.1258], atol=1e-3)


def test_regions_are_the_pieces_of_a_flat_picture():
    picture, ids = pieces()
    regions = find_regions(picture[::4, ::4])
    assert len(np.unique(regions * 10 + ids[::4, ::4])) == len(np.unique(regions)) == 4


def test_regions_of_a_noisy_picture_respect_borders_and_the_least_area():
    picture, ids = pieces(0.05)
    regions, _, areas = describe(picture, cell_means(picture))
    assert areas.min() >= LEAST_REGION and areas.sum() == regions.size
    known = ids[2::4, 2::4]
    assert all(len(np.unique(known[regions == r])) == 1 for r in range(len(areas)))


def test_features_do_not_depend_on_the_order_of_a_pair():
    picture, _ = pieces(0.1)
    _, features, areas = describe(picture, cell_means(picture[::-1]))
    assert features.shape == (len(areas), len(areas), MapDecoder().config.features) and len(areas) > 3
    assert np.isfinite(features).all() and np.allclose(features, features.transpose(1, 0, 2), atol=1e-4)


def test_pairs_are_described_by_the_borders_and_embeddings_that_are_seen():
    """Three stripes of 4 columns, flat in all else: what is between them, by each kind of masks, is known."""
    regions = np.repeat(np.tile(np.arange(3), (8, 1)), 4, 1)
    likely, embeddings = np.zeros((2, 8, 12)), np.zeros((2, 5, 8, 12))
    likely[:, :, 3:5], likely[:, :, 7:9] = 0.2, np.array([0.7, 0.9])[:, None, None]
    embeddings[0, 0], embeddings[1, 3] = 3 * regions, 4 * regions
    flat = np.zeros((8, 12, 3))
    pairs, areas = pair_features(regions, flat, flat, flat, flat, Seen(likely, embeddings))
    assert areas.tolist() == [32, 32, 32]
    for kind, (second, apart) in enumerate([(0.7, 3), (0.9, 4)]):
        near, far = (pairs[0, other, 31 + 4 * kind : 35 + 4 * kind] for other in (1, 2))
        assert np.allclose(near, [0.2, 0.2, np.sqrt(0.201), apart], atol=1e-6)
        assert np.allclose(far, [0.5, second, np.sqrt(0.201 + second + 0.001), 2 * apart], atol=1e-6)  # not touching


def test_a_picture_without_borders_is_one_instance():
    flat = np.full((64, 64, 3), 0.5)
    assert (segment(flat, cell_means(flat), lambda pairs: np.full(pairs.shape[:-1], -9.0)) == 1).all()


@pytest.mark.parametrize("above", [0.3, 0.5, 0.7])
def test_merging_equal_areas_is_average_linkage(above):
    rng = np.random.default_rng(1)
    distance = rng.random((30, 30))
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    groups = merge(1 - distance, np.full(30, 7.0), above)
    expected = fcluster(linkage(squareform(distance), "average"), 1 - above, "distance")
    pairs = len(np.unique(groups * 100 + expected))
    assert pairs == len(np.unique(groups)) == len(np.unique(expected)) and groups.dtype == np.int32


def test_merging_weighs_groups_by_their_areas():
    """The small region between two large ones has little say in whether they belong together."""
    likely = np.array([[1, 0.9, 0.2], [0.9, 1, 0.95], [0.2, 0.95, 1]])
    assert len(np.unique(merge(likely, np.array([1.0, 1.0, 1.0]), 0.5))) == 1
    assert len(np.unique(merge(likely, np.array([100.0, 1.0, 100.0]), 0.5))) == 2


def test_the_decoder_standardises_its_input():
    decoder, pairs = MapDecoder(features=3), torch.randn(500, 3) * torch.tensor([1.0, 20.0, 0.1]) + 5
    decoder.standardize(pairs)
    moved = MapDecoder(features=3)
    moved.layers.load_state_dict(decoder.layers.state_dict())
    assert torch.allclose(decoder(pairs), moved((pairs - pairs.mean(0)) / pairs.std(0)), atol=1e-5)


# ------------------------------------------------------------------------------------------------- borders


def discs(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo of two discs on a ground, the true ids (160, 192), and those of most pixels of each cell."""
    rows, columns = np.mgrid[:160, :192]
    truth = np.ones((160, 192), np.int32)
    truth[np.hypot(rows - 60.3, columns - 70.7) < 41.5] = 2
    truth[np.hypot(rows - 100.2, columns - 130.9) < 37.2] = 3
    colors = np.array([[0.2, 0.3, 0.7], [0.8, 0.5, 0.3], [0.1, 0.6, 0.2]])
    photo = colors[truth - 1] + noise * np.random.default_rng(0).standard_normal((160, 192, 3))
    blocks = truth.reshape(40, CELL, 48, CELL).swapaxes(1, 2).reshape(40, 48, -1)
    cells = np.stack([(blocks == i).sum(2) for i in (1, 2, 3)], 2).argmax(2).astype(np.int32) + 1
    return photo, truth, cells


@pytest.mark.parametrize(("noise", "left"), [(0.0, 0.0), (0.03, 0.1)])
def test_borders_follow_the_photos_edges_not_the_grid_of_cells(noise, left):
    photo, truth, cells = discs(noise)
    blocks = cells.repeat(CELL, 0).repeat(CELL, 1)
    ids = follow_edges(photo, cells)
    assert (blocks != truth).sum() > 400
    assert (ids != truth).sum() <= left * (blocks != truth).sum()


def test_no_object_is_made_or_lost_and_far_from_borders_nothing_changes():
    rng = np.random.default_rng(1)
    cells = np.ones((40, 48), np.int32)
    cells[5:25, 5:30], cells[30:34, 10:40] = 2, 3
    cells[12, 8:20], cells[33, 20], cells[0, 47] = 4, 5, 6  # a line, a dot, and one in the corner
    blocks = cells.repeat(CELL, 0).repeat(CELL, 1)
    ids = follow_edges(rng.random((160, 192, 3)), cells)
    assert set(np.unique(ids)) == set(range(1, 7)) and ids.dtype == np.int32
    for thin in (3, 4, 5, 6):
        assert (ids[blocks == thin] == thin).all()
    far = np.zeros_like(blocks, bool)
    for row, column in np.ndindex(cells.shape):
        around = cells[max(0, row - REACH) : row + REACH + 1, max(0, column - REACH) : column + REACH + 1]
        far[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = (around == cells[row, column]).all()
    assert np.array_equal(ids[far], blocks[far]) and not np.array_equal(ids, blocks)


def test_neighbouring_tiles_agree_on_borders():
    photo, _, cells = discs(0.05)
    whole = follow_edges(photo, cells)
    part = follow_edges(photo[:, 32:160], cells[:, 8:40])
    margin = CELL * REACH
    assert np.array_equal(part[:, margin:-margin], whole[:, 32 + margin : 160 - margin])


def test_a_pixel_like_no_cell_goes_by_its_place():
    cells = np.ones((20, 20), np.int32)
    cells[:, 10:] = 2
    photo = np.full((80, 80, 3), 0.1)
    photo[:, 40:] = 0.3
    photo[41, 35] = 1
    ids = follow_edges(photo, cells)
    assert (ids[:, :40] == 1).all() and (ids[:, 40:] == 2).all()
